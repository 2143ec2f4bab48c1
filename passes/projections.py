"""Random projections: estimates of dual bounds at a cost that is linear in the network's size (paper 5, sec. 3.2).

With the parallel lines of the dual layers, the bounds of every element of a value z are

    z_center -+ ( |diag(radius_1) nu_1|_1 + sum_i |diag(radius_i) nu_i|_1 )

over the inputs (their radius is that of a box; for an l2 ball the term is `eps |nu_1|_2`) and the activations i, where
z_center is the value of the network in which every activation is `slope z + middle`. For a ReLU the second sum is that
of eq. 13, `sum_j l_j [nu_j]_+ = (-|diag(d) nu|_1 + d^T nu) / 2` with d_j = l_j for unstable j and 0 otherwise, applied
after D (the text has the two cases, and the value, otherwise). The norms are estimated from k random columns that are
passed forward (alg. 1): Cauchy for an l1 norm, which the ReLU term is whatever the norm of the region, normal for l2.

These are estimates. With `estimator=median` nothing is known about a single one. With `estimator=geometric` (which the
paper's app. E.1 names; Li, Hastie and Church 2007) every norm is multiplied by a factor that makes all of them together
upper bounds with probability `1 - delta` for each example: delta is split evenly over all norms that are estimated, and
each value gets fresh columns, since the lines that it rests on depend on the earlier ones.

A norm that costs nothing is not estimated: what an affine map makes of a box lies `|A| radius` around its centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Input, LinearOp, Spec
from irverify.ir.ops.memory import stored_as
from irverify.passes import norm_estimators as norms
from irverify.passes.dual_centers import ancestors, center_of, radius_of
from irverify.passes.dual_layers import DUAL
from irverify.passes.dual_network import line_operands, rows_operands
from irverify.passes.dual_rows import DualBounds
from irverify.passes.projected import Columns, Own, Passing
from irverify.passes.propagate import Interval
from irverify.pipeline.base import Estimator
from irverify.pipeline.facts import Estimate, Facts
from irverify.pipeline.state import State
from irverify.regions import L2, Region

MEMORY = 2**23
"""How many bytes the columns at the widest value may take on a CPU: about what its caches hold. A batch is estimated in
parts."""
MEMORY_OF_DEVICES = 2**29
"""The same on other devices."""


@dataclass(frozen=True)
class DualProj(Estimator):
    """Estimate of dual bounds from k random projections (paper 5, sec. 3.2, alg. 1); no certificate."""

    name = "dual-proj"
    k: int = 50
    estimator: Literal["median", "geometric"] = "median"
    seed: int = 0
    delta: float = 0.01
    """For `geometric`: the probability that some bound of an example fails."""
    last: Literal["exact", "projected"] = "exact"
    """Whether the outputs' norms are computed from the estimated lines of all layers, or estimated like the others."""

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 < self.delta < 1:
            got = f"k={self.k}, delta={self.delta}"
            raise UsageError(f"expected k >= 1 and delta between 0 and 1, got {got}", where=f"pass {self.name}")

    def run(self, state: State) -> Facts:
        ranges, _ = _joined(_estimations(self, state))
        return Facts(estimates={name: Estimate(*found, str(self)) for name, found in ranges.items()})

    def parts(
        self, graph: Graph, regions: Mapping[str, Region], operands: Mapping[str, Tensor], sources: int
    ) -> Iterator[tuple[dict[str, Region], dict[str, Tensor]]]:
        """Regions and operands of some examples at a time, with columns of so many sources."""
        batch = next(iter(regions.values())).batch if regions else 1
        widest = max(node.type.size * node.type.dtype.itemsize for node in graph)
        on_cpu = all(region.device.type == "cpu" for region in regions.values())
        step = max(1, (MEMORY if on_cpu else MEMORY_OF_DEVICES) // max(1, widest * sources * self.k))
        for start in range(0, max(1, batch), step):
            chosen = slice(start, start + step)
            yield (
                {name: region.select(chosen) for name, region in regions.items()},
                {name: tensor[chosen] for name, tensor in operands.items()},
            )


Pair = tuple[Tensor, Tensor]


JOINED = "%l1"
"""The one source of columns that l1 norms share: no name of a value."""


def estimated_layers(
    options: DualProj, state: State, *, joined: bool = False
) -> tuple[DualBounds, Mapping[str, Pair]]:
    """What dual networks of the outputs rest on, and the estimated range of each value that an activation reads.

    `DualBounds.of` then estimates the bounds of the outputs, with all their norms computed. With `joined` the columns
    of all l1 norms are added up: they then estimate the norm of all these vectors as one, which is the sum of their
    norms, with k columns for all layers together instead of k for each.
    """
    estimations = _estimations(options, state, outputs=False, joined=joined)
    ranges, duals = _joined(estimations)
    return DualBounds(state.graph, _regions(state), duals), ranges


def _estimations(
    options: DualProj, state: State, *, outputs: bool = True, joined: bool = False
) -> list[_Estimation]:
    """Runs over some examples each, with the same columns."""
    regions, columns = _regions(state), _Drawing(options)
    sources = 1 if joined else sum(isinstance(node.op, Input | Elementwise) for node in state.graph)
    return [
        _Estimation(options, state.graph, *part, columns=columns, outputs=outputs, joined=joined)
        for part in options.parts(state.graph, regions, state.operands, sources)
    ]


def _joined(estimations: Sequence[_Estimation]) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    """The estimated ranges of all examples, and the runtime operands of dual networks."""
    ranges = [estimation.run() for estimation in estimations]
    found = {
        name: (torch.cat([part[name][0] for part in ranges]), torch.cat([part[name][1] for part in ranges]))
        for name in ranges[0]
    }
    duals = [estimation.duals for estimation in estimations]
    return found, {label: torch.cat([part[label] for part in duals]) for label in duals[0]}


def _regions(state: State) -> dict[str, Region]:
    """The regions by input, for which there are estimators."""
    DUAL.resolve(state.graph)
    names = [node.name for node in state.graph.inputs]
    regions = dict(zip(names, state.given_regions(DualProj.name), strict=True))
    for name, region in regions.items():
        if not isinstance(region, L2) and not region.is_box:
            raise UnsupportedError(
                f"{DualProj.name} has estimators for boxes and l2 balls, got {type(region).__name__} for %{name}",
                hint="dual bounds it",
            )
    return regions


@dataclass
class _Drawing:
    """Random columns by source, drawn once for all examples, in the order of the graph; those for `geometric`, new for
    every value, are not kept."""

    options: DualProj
    kept: dict[str, Tensor] = field(default_factory=dict)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.options.seed)

    def of(self, node: Node, like: Tensor, generator: torch.Generator, *, cauchy: bool) -> Tensor:
        """`[1, k, *shape]`."""
        if node.name in self.kept:
            return self.kept[node.name]
        shape = (1, self.options.k, *node.type.shape)
        drawn = (norms.cauchy if cauchy else norms.normal)(shape, like, generator)
        if like.shape[0] > 0:
            drawn = stored_as(like[:1].unsqueeze(1).expand(shape), drawn)
        if self.options.estimator == "median":
            self.kept[node.name] = drawn
        return drawn


@dataclass
class _Estimation:
    """One run over some examples."""

    options: DualProj
    graph: Graph
    regions: Mapping[str, Region]
    known: dict[str, Tensor]
    """The values that do not depend on an input."""
    columns: _Drawing
    duals: dict[str, Tensor] = field(default_factory=dict)
    """The runtime operands of dual networks."""
    centers: dict[str, Tensor] = field(default_factory=dict)
    """Each value at the centre of the region, with the middle line for each activation."""
    ranges: dict[str, Pair] = field(default_factory=dict)
    """The estimates (lower, upper) of what activations read, and of outputs."""
    outputs: bool = True
    """Whether the outputs are estimated."""
    joined: bool = False
    """Whether all l1 norms share their columns."""

    def run(self) -> dict[str, Pair]:
        generator = self.columns.generator()
        fresh = self.options.estimator == "geometric"
        shared = Passing(self.graph, self.duals)
        exact = frozenset(self.graph.outputs) if self.options.last == "exact" else frozenset()
        targets = _targets(self.graph, self.graph.outputs if self.outputs else ())
        needed = frozenset[str]().union(*(ancestors(self.graph, name) for name in targets))
        factors = self._factors(targets - exact)
        for node in self.graph:
            self._visit(node)
            columns = self._advance(shared, node, generator) if node.name in needed and not fresh else None
            if node.name not in targets:
                continue
            if node.name in self.known:
                self.ranges[node.name] = self.known[node.name], self.known[node.name]
            elif node.name in exact:
                self.ranges[node.name] = self._exact(node)
            elif self._costs_nothing(node):
                self.ranges[node.name] = self._affine(node)
            else:
                columns = self._afresh(node, generator) if fresh else columns
                self.ranges[node.name] = self._estimated(node, columns, factors)
        return self.ranges

    def _visit(self, node: Node) -> None:
        """The value at the centre, and what the dual layer of the node takes."""
        if node.name in self.known or (node.inputs and all(name in self.known for name in node.inputs)):
            self._exactly(node)
        elif isinstance(node.op, Elementwise):
            self.duals.update(line_operands(node, *self.ranges[node.inputs[0]]))
        elif isinstance(node.op, Spec):
            rows, offset = (Interval(self.known[name], self.known[name]) for name in node.inputs[1:])
            self.duals.update(rows_operands(node, rows, offset))
        self.centers[node.name] = center_of(node, self.regions, self.duals, self.centers)

    def _exactly(self, node: Node) -> None:
        if node.name not in self.known:
            batch = max((region.batch for region in self.regions.values()), default=1)
            value = node.op.evaluate(*(self.known[name] for name in node.inputs))
            self.known[node.name] = value.expand(batch, *node.type.shape)
        self.duals[f"{node.name}.value"] = self.known[node.name]

    def _advance(self, passing: Passing, node: Node, generator: torch.Generator) -> Columns | None:
        """Passes columns through a node; an input or an activation adds some of its own."""
        if isinstance(node.op, Input):
            columns = self._drawn(node, generator)
            passing.start(node.name, columns)
            return columns
        own = None
        if isinstance(node.op, Elementwise) and node.inputs[0] in passing.found:
            radius = self.duals[f"{node.name}.radius"]
            drawn = self.columns.of(node, radius, generator, cauchy=True)  # in any case, so that later ones stay
            if bool((radius > 0).any()):
                own = Own(JOINED if self.joined else node.name, radius, drawn)
        return passing.step(node, own)

    def _drawn(self, node: Node, generator: torch.Generator) -> Columns:
        """Columns of an input: Cauchy numbers times the radius of a box, or normal ones for an l2 ball."""
        region = self.regions[node.name]
        drawn = self.columns.of(node, region.center, generator, cauchy=not isinstance(region, L2))
        if isinstance(region, L2):
            return Columns((node.name,), drawn.expand(region.batch, *drawn.shape[1:]))
        return Columns((JOINED if self.joined else node.name,), radius_of(region).unsqueeze(1) * drawn)

    def _costs_nothing(self, node: Node) -> bool:
        """An affine map of boxes, each read once, whose norms are a product with |A|."""
        boxes = all(name in self.regions and self.regions[name].is_box for name in node.inputs)
        return isinstance(node.op, LinearOp) and boxes and len(set(node.inputs)) == len(node.inputs)

    def _affine(self, node: Node) -> Pair:
        assert isinstance(node.op, LinearOp)
        gap = node.op.apply_abs(*(radius_of(self.regions[name]) for name in node.inputs))
        return self.centers[node.name] - gap, self.centers[node.name] + gap

    def _afresh(self, target: Node, generator: torch.Generator) -> Columns | None:
        """New columns, passed to one value."""
        passing = Passing(self.graph, self.duals)
        needed = ancestors(self.graph, target.name)
        columns = None
        for node in self.graph:
            if node.name in needed:
                columns = self._advance(passing, node, generator)
        return columns

    def _estimated(self, node: Node, columns: Columns | None, factors: tuple[float, float]) -> Pair:
        """The centre, less and plus the sum of the estimated norms; `factors` are those for l1 and l2 norms."""
        center = self.centers[node.name]
        assert columns is not None  # it depends on an input
        gap = torch.zeros_like(center)
        for source in columns.sources:
            part, region = columns.of(source), self.regions.get(source)
            if isinstance(region, L2):
                eps = torch.as_tensor(region.eps).to(center).reshape(-1, *(1,) * node.type.rank)
                gap = gap + eps * norms.root_mean_square(part) * factors[1]
            else:
                norm = norms.median if self.options.estimator == "median" else norms.geometric
                gap = gap + norm(part) * factors[0]
        return center - gap, center + gap

    def _factors(self, estimated: frozenset[str]) -> tuple[float, float]:
        """What estimates of l1 and of l2 norms are multiplied by: 1, or so that all hold with probability 1 - delta."""
        if self.options.estimator == "median":
            return 1.0, 1.0
        count = 0
        for name in estimated:
            sources = [self.graph[other].op for other in ancestors(self.graph, name)]
            count += self.graph[name].type.size * sum(isinstance(op, Input | Elementwise) for op in sources)
        failure = self.options.delta / max(1, count)
        return norms.geometric_factor(self.options.k, failure), norms.normal_factor(self.options.k, failure)

    def _exact(self, node: Node) -> Pair:
        """The dual bounds that rest on the estimated ranges, all norms computed."""
        center = self.centers[node.name]
        asked = torch.ones(center.shape[0], node.type.size, dtype=torch.bool, device=center.device)
        low, high = DualBounds(self.graph, self.regions, self.duals, self.centers).of(node.name, asked)
        return low.reshape(center.shape), high.reshape(center.shape)


def _targets(graph: Graph, outputs: Sequence[str]) -> frozenset[str]:
    """The values whose ranges are estimated: what activations read, and `outputs`."""
    return frozenset(name for node in graph if isinstance(node.op, Elementwise) for name in node.inputs).union(outputs)
