"""The dual network of a graph, itself a graph in the IR, and the bound that it gives (paper 5, thm. 1).

For a value z_k of the primal graph and rows c over it, the dual network maps c backwards through the graph,

    nu_k = -c        nu_i = sum of g_ij(nu_j) over the users j of value i                                (eq. 8)

so that skip connections run in the other direction, and for every x of the region

    c^T z_k(x)  >=  J(x, nu) = min over x of (-nu_1^T x)  -  sum_i h_i(nu)                               (eq. 7)

(for a ball of radius eps the minimum is `-nu_1^T x - eps |nu_1|_*`). The index of g differs between eq. 6 and eq. 8 as
printed; here g_ij belongs to the edge from value i to its user j. `irverify.passes.dual_layers` has g and h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, GraphBuilder, Node
from irverify.ir.ops import Add, Elementwise, Input, Neg, Operand, Spec
from irverify.passes.dual_layers import DUAL
from irverify.passes.dual_sketch import DualSketch
from irverify.passes.interval import spec_rows
from irverify.passes.parallel import parallel_lines
from irverify.passes.propagate import Interval
from irverify.regions import Region

ROWS = "c"
"""The operand of a dual network that takes the rows."""
Extremes: TypeAlias = Callable[[str, Tensor], tuple[Tensor, Tensor]]
"""`extremes(name, nu)`: the least and the greatest value of `nu^T x` over the region of an input, for each row."""


@dataclass(frozen=True, eq=False)
class DualNetwork:
    """The dual network of one value of a primal graph; its batch axis counts rows.

    `graph` has no inputs but runtime operands: `c` `[*shape]` of the value, `relu1.slope`, `.middle` and `.radius` for
    an activation relu1 on the way, the value of what does not depend on the network's input, and rows and offset of a
    specification. Its outputs are the nu of each input in `inputs`, then the two parts of `sum_i h_i`: `shift`, which
    changes its sign with nu, and `gap`, which does not, each `[1]`.
    """

    graph: Graph
    target: str
    inputs: tuple[str, ...]

    def evaluate(self, rows: Tensor, operands: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The nu of each input `[rows, *shape]` by name, shift and gap `[rows]`.

        `rows` are c `[rows, *shape]`; each of `operands` is `[rows, *shape]`, or `[1, *shape]` where all rows share it.
        """
        given = {label: operands[label].expand(rows.shape[0], *operands[label].shape[1:]) for label in self.operands}
        given[ROWS] = rows
        outputs = self.graph.evaluate(*(given[node.name] for node in self.graph.operands))
        assert isinstance(outputs, tuple)
        *nu, shift, gap = outputs
        return dict(zip(self.inputs, nu, strict=True)), shift[:, 0], gap[:, 0]

    def bounds(self, rows: Tensor, operands: Mapping[str, Tensor], regions: Extremes) -> tuple[Tensor, Tensor]:
        """`J(c) <= c^T z <= -J(-c)`, both `[rows]` (eq. 7): the layers are linear, so that -c has the same nu but for
        the sign."""
        nus, shift, gap = self.evaluate(rows, operands)
        low, high = -shift - gap, shift - gap
        for name, nu in nus.items():
            least, greatest = regions(name, nu)
            low, high = low - greatest, high + least
        return low, -high

    @property
    def operands(self) -> tuple[str, ...]:
        """The runtime operands besides the rows."""
        return tuple(node.name for node in self.graph.operands if node.name != ROWS)


def dual_network(primal: Graph, target: str) -> DualNetwork:
    """Builds the dual network of value `target`, which must depend on an input, by walking the graph backwards.

    Raises UnsupportedError, listing all, where operators have no dual layer.
    """
    DUAL.resolve(primal)
    perturbed = _perturbed(primal)
    node = primal[target]
    sketch = DualSketch(primal, GraphBuilder(f"dual of {target}"), node.type.dtype, node)
    rows = sketch.add(Operand(node.type), name=ROWS)
    pending = {target: [sketch.add(Neg(), rows, name=f"nu.{target}")]}
    reached: dict[str, str] = {}
    for node in reversed(primal.nodes):
        parts = pending.pop(node.name, None)
        if parts is None:
            continue
        sketch.node = node
        nu = parts[0] if len(parts) == 1 else sketch.add(Add(), *parts, name=f"nu.{node.name}")
        if isinstance(node.op, Input):
            reached[node.name] = nu
        elif node.name not in perturbed:
            sketch.shift.append(sketch.dot(nu, sketch.runtime(f"{node.name}.value", node.type)))
        else:
            rule = DUAL.find(type(node.op))
            assert rule is not None  # resolved above
            passed = rule(sketch, node.op, nu)
            for operand, part in zip(node.inputs, passed, strict=False):  # a specification passes nothing to its rows
                pending.setdefault(operand, []).append(part)
    outputs = [*reached.values(), sketch.total(sketch.shift, "shift"), sketch.total(sketch.gap, "gap")]
    return DualNetwork(sketch.builder.graph(outputs), target, tuple(reached))


def layer_operands(node: Node, own: Interval, operands: Sequence[Interval]) -> dict[str, Tensor]:
    """The runtime operands `[batch, *shape]` that the dual layer of `node` takes, by name: from the bounds of its
    operands; and its `own` value where that is known exactly."""
    # A value may be known exactly and have layers behind it all the same: x - x, or a function of an input that is one
    # point. Whether its value or its layer is asked for, only the dual network knows.
    exactly = {f"{node.name}.value": own.lower} if own.exact else {}
    if isinstance(node.op, Elementwise):
        return exactly | line_operands(node, *operands[0])
    return exactly | (rows_operands(node, *operands[1:]) if isinstance(node.op, Spec) else {})


def line_operands(node: Node, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
    """Slope, middle and radius of an activation that reads values within `[lower, upper]`."""
    assert isinstance(node.op, Elementwise)
    lines = parallel_lines(node.op, lower, upper)
    found = {"slope": lines.slope, "middle": lines.middle, "radius": lines.radius}
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        message = f"the bounds of %{node.inputs[0]} are infinite (an overflow), and no parallel lines fit them"
        raise UnsupportedError(message, where=str(node), hint="make the region smaller")
    return {f"{node.name}.{part}": tensor for part, tensor in found.items()}


def rows_operands(node: Node, rows: Interval, offset: Interval) -> dict[str, Tensor]:
    """Rows and offset of a specification."""
    matrix, constant = spec_rows(node, rows, offset)
    return {f"{node.name}.rows": matrix, f"{node.name}.offset": constant}


def _perturbed(graph: Graph) -> frozenset[str]:
    """The values that depend on a network input."""
    found: set[str] = set()
    for node in graph:
        if isinstance(node.op, Input) or not found.isdisjoint(node.inputs):
            found.add(node.name)
    return frozenset(found)


def box_extremes(center: Tensor, radius: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of `nu^T x` over boxes, both `[rows]`: `nu^T center -+ |nu|^T radius`, with
    `center` and `radius` `[rows or 1, *shape]`."""
    middle, reach = _products(nu, center), _products(nu.abs(), radius)
    return middle - reach, middle + reach


def ball_extremes(region: Region, nu: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of `nu^T x`, both `[rows]`, over a region with one example for each row:
    `nu^T x -+ eps |nu|_*` with the dual norm for a ball that is not clipped."""
    least, negated = region.lower_of(torch.stack([nu, -nu], dim=1)).unbind(1)
    return least, -negated


def _products(rows: Tensor, vectors: Tensor) -> Tensor:
    """The inner product of each row `[rows, *shape]` with its vector `[rows or 1, *shape]`, `[rows]`."""
    flat, columns = rows.reshape(rows.shape[0], -1), vectors.reshape(vectors.shape[0], -1)
    return flat @ columns[0] if columns.shape[0] == 1 else (flat * columns).sum(1)
