"""The dual network of a graph, itself a graph in the IR, and the bound that it gives (paper 5, thm. 1).

For a value z_k of the primal graph and rows c over it, the dual network maps c backwards through the graph,

    nu_k = -c        nu_i = sum of g_ij(nu_j) over the users j of value i                                (eq. 8)

so that skip connections run in the other direction, and for every x of the region

    c^T z_k(x)  >=  J(x, nu) = min over x of (-nu_1^T x)  -  sum_i h_i(nu)                               (eq. 7)

(for a ball of radius eps the minimum is `-nu_1^T x - eps |nu_1|_*`). The index of g differs between eq. 6 and eq. 8 as
printed; here g_ij belongs to the edge from value i to its user j. `irverify.passes.dual_layers` has g and h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, GraphBuilder, Node
from irverify.ir.ops import Add, Elementwise, Input, Neg, Operand, Spec
from irverify.passes.dual_layers import DUAL
from irverify.passes.dual_sketch import DualSketch
from irverify.passes.interval import spec_rows
from irverify.passes.parallel import parallel_lines
from irverify.passes.propagate import Interval

ROWS = "c"
"""The operand of a dual network that takes the rows."""


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
    layers: Mapping[str, str]
    """Of each value `D nu` the activation whose slopes are D."""

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

    @property
    def operands(self) -> tuple[str, ...]:
        """The runtime operands besides the rows."""
        return tuple(node.name for node in self.graph.operands if node.name != ROWS)

    @property
    def reached(self) -> Mapping[str, str]:
        """The value that is the nu of each input."""
        return dict(zip(self.inputs, self.graph.outputs, strict=False))

    @cached_property
    def path(self) -> tuple[Node, ...]:
        """What the nu of inputs are computed by, in order; without the slopes."""
        needed = set(self.reached.values())
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(node.inputs[:1] if node.name in self.layers else node.inputs)
        return tuple(node for node in self.graph if node.name in needed)


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
    return DualNetwork(sketch.builder.graph(outputs), target, tuple(reached), dict(sketch.layers))


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
