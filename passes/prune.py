"""Pruning: rewrites that change the function, and say by how much at most (paper 1, sec. 3.2).

`prune-weights` makes small weights exact zeros. `prune-relus` puts neurons whose activation is nearly always on one
piece on that piece for good: zero, or the identity. With regions, both bound the change of the outputs over these; the
statistics of the pass have it as `output_change` (see `change`).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, Node, rewrite
from irverify.ir.ops import Conv, ConvTranspose, Elementwise, Linear
from irverify.ir.ops.base import Pieces
from irverify.ir.params import Derived, value
from irverify.passes.change import Pair, largest, output_change
from irverify.passes.eliminate_stable import eliminated
from irverify.passes.magnitudes import all_but_smallest, large
from irverify.passes.tolerance import output_tolerances
from irverify.pipeline.base import Rewrite
from irverify.pipeline.facts import Bounds
from irverify.pipeline.manager import run
from irverify.pipeline.state import DEFAULT_ANALYSIS, State

Layer = Linear | Conv | ConvTranspose
By = Literal["neuron", "channel"]
EXAMPLES = 512
"""So many examples go through the network at once when activity is counted."""


@dataclass(frozen=True)
class PruneWeights(Rewrite):
    """Small weights become exact zeros; changes the function by at most `output_change`.

    Weights with magnitude below `threshold` go, or the smallest ones up to the share `sparsity` of all (zeros that are
    there count): over each layer, the whole network, or each channel, which are rows of a matrix and of a convolution
    what makes one channel. `only`: names of layers, with wildcards, joined by `+`. Biases stay. The other weights stay
    live; a weight that is pruned stays zero.
    """

    name = "prune-weights"
    keeps_function = False
    threshold: float | None = None
    sparsity: float | None = None
    over: Literal["channel", "layer", "network"] = "layer"
    only: str | None = None

    def __post_init__(self) -> None:
        where = f"pass {self.name}"
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise UsageError(f"expected a finite threshold >= 0, got {self.threshold}", where=where)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"expected a sparsity in [0, 1), got {self.sparsity}", where=where)

    def run(self, state: State) -> Graph:
        if (self.threshold is None) == (self.sparsity is None):
            raise UsageError("expected threshold or sparsity, one of them", where=f"pass {self.name}")
        layers = {node.name: node.op for node in _chosen(state.graph, self.only) if isinstance(node.op, Layer)}
        kept = _kept(layers, self)

        def pruned(op: Layer, name: str) -> Layer:
            return op.replace(weight=Derived(torch.mul, op.weight, kept[name].to(value(op.weight).dtype)))

        changes = {name for name, mask in kept.items() if bool(((value(layers[name].weight) != 0) & ~mask).any())}
        if not changes:
            return state.graph
        return rewrite(state.graph, lambda builder, node, inputs: builder.add(
            pruned(layers[node.name], node.name) if node.name in changes else node.op,
            *inputs, name=node.name, source=node.source,
        ))  # fmt: skip

    def report(self, state: State, after: Graph) -> Mapping[str, int | float]:
        counts = {}
        for word, graph in (("zeros_before", state.graph), ("zeros_after", after)):
            weights = [value(node.op.weight) for node in graph if isinstance(node.op, Layer)]
            counts[word] = sum(int((weight == 0).sum()) for weight in weights)
        return counts | _change(state, after, {})


def _chosen(graph: Graph, only: str | None) -> list[Node]:
    """The nodes whose names fit `only`. UsageError where one of its words fits none."""
    if only is None:
        return list(graph)
    words = only.split("+")
    lost = [word for word in words if not fnmatch.filter([node.name for node in graph], word)]
    if lost:
        raise UsageError(f"no value of graph {graph.name!r} is called {', '.join(lost)}", where=f"only={only}")
    return [node for node in graph if any(fnmatch.fnmatchcase(node.name, word) for word in words)]


def _kept(layers: Mapping[str, Layer], how: PruneWeights) -> dict[str, Tensor]:
    """Which entries of each weight stay."""
    sizes = {name: value(op.weight).detach().abs() for name, op in layers.items()}
    if how.over == "channel" and how.sparsity is not None:
        return {name: _largest_by_channel(layers[name], size, how.sparsity) for name, size in sizes.items()}
    return large(sizes, how.threshold, how.sparsity or 0.0, together=how.over == "network")


def _largest_by_channel(op: Layer, size: Tensor, sparsity: float) -> Tensor:
    """The largest of what makes each output channel."""
    if not isinstance(op, ConvTranspose):
        return torch.stack([all_but_smallest(row, sparsity) for row in size])
    groups = size.reshape(op.groups, -1, *size.shape[1:]).transpose(1, 2)  # [groups, out, in, *kernel]
    stays = torch.stack([torch.stack([all_but_smallest(row, sparsity) for row in group]) for group in groups])
    return stays.transpose(1, 2).reshape(size.shape)


@dataclass(frozen=True)
class PruneRelus(Rewrite):
    """Neurons nearly always on one piece stay there; changes the function by at most `output_change`.

    An element of a piecewise linear activation that is on the same piece at all centres of the regions but a `share`
    of them, at most, is put on it for good. `by` channel, all elements of a channel are counted together and go
    together, so that the channel leaves a convolution. `only`: names of activations, with wildcards, joined by `+`.
    """

    name = "prune-relus"
    keeps_function = False
    share: float = 0.0
    only: str | None = None
    by: Literal["neuron", "channel"] = "neuron"

    def __post_init__(self) -> None:
        _check_share(self.share)

    def run(self, state: State) -> Graph:
        return eliminated(state.graph, self._pieces(state), state.retired)

    def report(self, state: State, after: Graph) -> Mapping[str, int | float]:
        pieces = self._pieces(state)
        pruned = sum(int((piece >= 0).sum()) for piece in pieces.values())
        neurons = sum(piece.numel() for piece in pieces.values())
        return {"neurons": neurons, "pruned": pruned} | _change(state, after, pieces)

    def _pieces(self, state: State) -> dict[str, Tensor]:
        centres = [region.center for region in state.given_regions(self.name)]
        given = {node.name: centre for node, centre in zip(state.graph.inputs, centres, strict=True)}
        return usual_pieces(state.graph, given | dict(state.operands), self.share, self.only, self.by)


def _check_share(share: float) -> None:
    if not 0 <= share < 0.5:
        raise UsageError(f"expected a share in [0, 0.5), got {share}", where="prune-relus")


def prune_relus(
    graph: Graph, data: Tensor | Sequence[Tensor], share: float = 0.0, only: str | None = None, by: By = "neuron"
) -> Graph:
    """The graph whose neurons that `data` leave on one piece, but for a `share` of it, are put on it for good.

    `data` are inputs `[count, *shape]`, one tensor for each input of the graph. Convolutions are pruned neuron by
    neuron, or `by` channel; what that frees, `compact` leaves out. Raises UsageError for a share outside [0, 0.5) and
    for no data.
    """
    parts = [data] if isinstance(data, Tensor) else list(data)
    if len(parts) != len(graph.inputs):
        raise UsageError(f"expected data for each of {len(graph.inputs)} inputs, got {len(parts)}", where="prune-relus")
    given = {node.name: part for node, part in zip(graph.inputs, parts, strict=True)}
    return eliminated(graph, usual_pieces(graph, given, share, only, by))


@torch.no_grad()
def usual_pieces(
    graph: Graph, data: Mapping[str, Tensor], share: float, only: str | None = None, by: By = "neuron"
) -> dict[str, Tensor]:
    """For each piecewise linear activation the piece that an element is on, but for a `share` of the data at most,
    `[*shape]`; -1 where there is none. `by` channel the piece that its elements are on, but for a `share` of these at
    all data. `data`: inputs and operands `[count, *shape]` by name."""
    _check_share(share)
    chosen = {
        node.name: pieces
        for node in _chosen(graph, only)
        if isinstance(node.op, Elementwise) and (pieces := node.op.pieces()) is not None
    }
    counts = {len(tensor) for tensor in data.values()}
    if len(counts) != 1 or 0 in counts:
        raise UsageError(f"expected as many examples for each input, at least one, got {counts}", where="prune-relus")
    visits: dict[str, Tensor] = {}
    for start in range(0, max(counts), EXAMPLES):
        values = graph.values({name: tensor[start : start + EXAMPLES] for name, tensor in data.items()})
        for name, pieces in chosen.items():
            found = _visits(pieces, values[graph[name].inputs[0]])
            visits[name] = visits[name] + found if name in visits else found
    count = max(counts)
    if by == "neuron":
        return {name: _usual(counted, count, share) for name, counted in visits.items()}
    return {name: _usual_of_channels(counted, count, share) for name, counted in visits.items()}


def _visits(pieces: Pieces, x: Tensor) -> Tensor:
    """How many examples of `x` are on each piece, `[pieces, *shape]`; NaN is on none."""
    knots = torch.tensor(pieces.breakpoints, dtype=x.dtype, device=x.device)
    # x on a knot belongs to the piece at its left: relu(0) counts as inactive.
    on = torch.bucketize(x.contiguous(), knots)
    known = ~x.isnan()
    return torch.stack([((on == index) & known).sum(0) for index in range(len(pieces.slopes))])


def _usual(visits: Tensor, count: int, share: float) -> Tensor:
    """The piece that all of `count` examples but a `share` are on; -1 where there is none."""
    usual = count - visits <= share * count
    return torch.where(usual.any(0), usual.int().argmax(0), -1).to(torch.int8)


def _usual_of_channels(visits: Tensor, count: int, share: float) -> Tensor:
    """The same, for all elements of a channel together, in the shape of the elements."""
    if visits.ndim <= 2:  # an element is a channel
        return _usual(visits, count, share)
    plane = visits[0, 0].numel()
    whole = _usual(visits.flatten(2).sum(2), count * plane, share)
    return whole.reshape(-1, *(1,) * (visits.ndim - 2)).expand(visits.shape[1:])


def _change(state: State, after: Graph, pieces: Mapping[str, Tensor]) -> dict[str, float]:
    if state.regions is None:
        return {}
    if after is state.graph:
        return {"output_change": 0.0}
    return {"output_change": largest(change_of(state, after, pieces))}


def change_of(state: State, after: Graph, pieces: Mapping[str, Tensor]) -> tuple[Bounds, ...]:
    """Bounds of the change of each output over the regions, from the known bounds of the graph, and from those by
    interval bound propagation of both; widened by what rounding may have done to them, and does to the outputs."""
    state.require(DEFAULT_ANALYSIS)
    known = dict(state.bounds)
    for name, tensor in state.operands.items():
        known[name] = Bounds(tensor, tensor, "given")
    assert state.regions is not None
    changed = run(after, DEFAULT_ANALYSIS, state.regions, operands=state.operands)
    change = output_change(Pair(state.graph, after, known, changed.bounds, pieces))
    try:
        slacks = [
            first + second
            for first, second in zip(
                output_tolerances(state.graph, state.regions, state.operands),
                output_tolerances(after, state.regions, state.operands),
                strict=True,
            )
        ]
    except UnsupportedError:  # rounded outward, an operator has no value somewhere
        slacks = [torch.full_like(bounds.lower, torch.inf) for bounds in change]
    return tuple(
        Bounds(bounds.lower - slack, bounds.upper + slack, bounds.source)
        for bounds, slack in zip(change, slacks, strict=True)
    )
