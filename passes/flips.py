"""A specification's rows once more, with the slopes below ReLUs that their first way shows to be the wrong ones.

Below an unstable ReLU `crown` takes slope 0 or 1 by its bounds alone; which one is better depends on where a row ends.
Its lower bound is its value at the worst input x* along the lines that it took: with a coefficient a >= 0 of the ReLU
and the value z of the pre-activation at x* its derivative by the slope is `a z` (the envelope theorem), so that the
other slope gains `a |z|` to first order where z is on its side of 0. The rows go down once with crown's slopes and up
again with x*, turn over the slopes that promise most, and go down with these. Every slope in [0, 1] is sound (Zhang et
al. 2018), and the better bound counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.errors import RegionError
from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Add, Conv, Input, Linear, LinearOp, Operand, Relu, Spec
from irverify.ir.ops.memory import stands_last, stored_as, taken
from irverify.ir.params import value
from irverify.kernels.flips import turned, upward
from irverify.kernels.forward import forward
from irverify.passes.bent import Lines
from irverify.passes.forms import Dense, Form, Rows, Wide
from irverify.passes.lines import sums
from irverify.passes.needs import exact_ranges
from irverify.passes.onward import Onward, Turning
from irverify.passes.passage import Passage
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Affine
from irverify.passes.view import View, poolings
from irverify.regions.base import rowwise

SHARE = 0.2
"""Slopes are turned over that promise more than this part of what the most promising one of their row does: what is
gained to first order is not gained by all of them together."""


@once_a_graph
def worthwhile(graph: Graph) -> bool:
    """Whether there are ReLUs and linear operators alone, and some ReLU reads what intervals do not bound exactly:
    without rows for values in between, those of the specification are all that takes time."""
    relus = [node for node in graph if isinstance(node.op, Relu)]
    plain = all(isinstance(node.op, Input | Operand | Relu | LinearOp | Spec) for node in graph) and not poolings(graph)
    return plain and any(node.inputs[0] not in exact_ranges(graph) for node in relus)


class _Places(NamedTuple):
    """Where rows are noted, inputs and results of ReLUs; those ReLUs, and which of them read memory that others read
    too; the values that have to be known for those of pre-activations; by the name of a node, which of all these nobody
    reads after it; how many elements the results of all ReLUs have."""

    ends: frozenset[str]
    relus: frozenset[str]
    shared: frozenset[str]
    ahead: frozenset[str]
    last: Mapping[str, Sequence[str]]
    width: int


@once_a_graph
def _places(graph: Graph, target: str, known: frozenset[str]) -> _Places:
    """Those of rows over a target, which end at what is `known` exactly: they do not reach all that stands before."""
    reached, ahead = {target}, set[str]()
    for node in reversed(graph.nodes):
        if node.name in reached and node.name not in known:
            reached.update(node.inputs)
    reached -= known
    relus = {node.name: node.type.size for node in graph if isinstance(node.op, Relu) and node.name in reached}
    for node in reversed(graph.nodes):
        if node.name in relus or (node.name in ahead and node.name not in known):
            ahead.update(node.inputs)
    ends = frozenset(relus).union(node.name for node in graph.inputs if node.name in reached)
    shared = frozenset(name for name in relus if not _own(graph, graph[name].inputs[0]))
    reads = [node for node in graph if node.name in relus or (node.name in ahead and node.name not in known)]
    last: dict[str, list[str]] = {}
    for name, reader in {name: node.name for node in reads for name in node.inputs}.items():
        last.setdefault(reader, []).append(name)
    return _Places(ends, frozenset(relus), shared, frozenset(ahead), last, sum(relus.values()))


def _own(graph: Graph, name: str) -> bool:
    """Whether a value has memory of its own, which its only reader may write over."""
    return isinstance(graph[name].op, Add | Conv | Linear) and len(graph.users(name)) == 1


@torch.no_grad()
def flipped(view: View, target: Node, bounds: Interval, limit: int) -> Tensor:
    """Lower bounds of all elements of a specification, `[batch, elements]` like these `bounds`; rows go together that
    take up to `limit` bytes of coefficients over all ReLUs."""
    batch, count = bounds.lower.shape
    pairs = torch.arange(batch * count, device=bounds.lower.device)
    if batch == 1:
        view, bounds, owner, elements = view.single(0), Interval(*(side[0] for side in bounds)), None, pairs
    else:
        owner, elements = torch.div(pairs, count, rounding_mode="floor"), pairs % count
    places = _places(view.context.graph, target.name, frozenset(view.context.known))
    step = max(1, limit // max(1, places.width * bounds.lower.element_size()))
    best = []
    for start in range(0, batch * count, step):
        some = slice(start, start + step)
        trail = Trail(view, target.name, places, elements[some], bounds, None if owner is None else owner[some])
        best.append(torch.fmax(trail.lower_bounds(), trail.again()))
    return (best[0] if len(best) == 1 else torch.cat(best)).reshape(batch, count)


class Trail(Passage):
    """The rows of a specification `target`, one each, which note what they are at ReLUs and inputs on their way."""

    _noted = True

    def __init__(
        self, view: View, target: str, places: _Places, elements: Tensor, bounds: Interval, owner: Tensor | None
    ) -> None:
        self._places = places
        self._given = target, elements, bounds, bounds.lower.new_ones(elements.shape[0]), owner
        super().__init__(_Turned(view, {}, bounds.lower), *self._given)

    def lower_bounds(self) -> Tensor:
        self._met: dict[str, Tensor] = {}
        """The coefficients there, `[rows, *shape]`."""
        self._begun: tuple[Mapping[str, Rows], Tensor] = {}, self.constant
        """All rows and their constants where they meet the first of them."""
        return super().lower_bounds()

    def _step(self, node: Node) -> None:
        if node.name in self._places.ends:
            if not self._met:
                self._begun = dict(self.pending), self.constant
            self._met[node.name] = self.pending[node.name].dense()
        super()._step(node)

    def again(self) -> Tensor:
        """Lower bounds of the rows, which have come to their end, `[rows]`, with the slopes turned over that promise
        most."""
        met, self._met = self._met, {}  # which gains take the place of
        taken = [form.dense() for form in self._begun[0].values()]
        up = _Up(self.view, self._places, self.owner, met, taken, torch.zeros_like(self.constant))
        del met, taken
        if not bool((up.greatest > 0).any()):
            return self.constant
        turned_ = _Turned(self.view, up.gains, up.greatest * SHARE)
        del up
        second = _Second(turned_, *self._given)
        second.pending, second.constant = dict(self._begun[0]), self._begun[1]
        return second.lower_bounds()


class _Second(Passage):
    """Rows with slopes turned over, which forget where once they have passed."""

    view: _Turned

    def _step(self, node: Node) -> None:
        super()._step(node)
        self.view.forget(node.name)

    def _skipped(self, name: str) -> None:
        self.view.forget(name)


class _Up:
    """The way up of the worst input of each row, `[rows, *shape]`, along the lines that the row took; `met` are its
    coefficients at inputs and results of ReLUs, which are written over but for those in memory that is `taken`."""

    def __init__(
        self,
        view: View,
        places: _Places,
        owner: Tensor | None,
        met: dict[str, Tensor],
        taken: Sequence[Tensor],
        greatest: Tensor,
    ) -> None:
        self._view = view
        self._places = places
        self._owner = owner
        self._met = met
        self._often = Counter(rows.untyped_storage().data_ptr() for rows in (*met.values(), *taken))
        """How many read the memory of each."""
        self.gains: dict[str, Tensor] = {}
        """By the name of a ReLU, what each row gains to first order where it turns a slope over, `[rows, *shape]`."""
        self.greatest = greatest
        """The greatest of these, `[rows]`."""
        graph, values = view.context.graph, dict[str, Tensor]()
        for node in graph:
            if node.name in places.relus:
                values[node.name] = self._bend(node.name, values[node.inputs[0]])
            elif node.name in places.ahead:
                values[node.name] = self._value(node, values)
            for name in places.last.get(node.name, ()):
                del values[name]

    def _value(self, node: Node, values: Mapping[str, Tensor]) -> Tensor:
        """What another node is there."""
        context = self._view.context
        if node.name in context.known:
            return self._gathered(self._view.known(node.name)).expand(len(self.greatest), *node.type.shape)
        if isinstance(node.op, Input):
            return self._worst(node.name)
        affine, operands = context.relaxed[node.name], [values[operand] for operand in node.inputs]
        assert isinstance(affine, Affine)
        return _convolved(affine.op, operands[0]) if isinstance(affine.op, Conv) else affine.op.evaluate(*operands)

    def _worst(self, name: str) -> Tensor:
        region, rows = self._view.context.regions[name], self._met[name]
        if region.is_box:
            center, radius = (self._gathered(side) for side in self._view.box(name))
            return torch.addcmul(center, rows.sign(), radius, value=-1)
        owner = torch.zeros(len(rows), dtype=torch.int64, device=rows.device) if self._owner is None else self._owner
        chosen = region.select(owner)
        try:
            return chosen.minimizer(rows)
        except RegionError:  # rows that are not finite have no such point; of some balls no float is known to be inside
            return chosen.center

    def _bend(self, name: str, value: Tensor) -> Tensor:
        """What a ReLU is along the lines, for the value of its operand."""
        lines, rows = self._view.lines(name), self._met.pop(name)
        if lines is None:  # some are infinite; what is found above them is worth little
            return torch.zeros_like(rows)
        if lines.rise is None or lines.top is None or lines.base is not None:  # there is no choice
            return value * self._gathered(lines.slope)
        found = value.clone() if name in self._places.shared else value
        found = stored_as(rows, found)
        spent = self._often[rows.untyped_storage().data_ptr()] == 1
        around = lines.slope, lines.rise, lines.top
        gains = upward(rows, found, self._owner, *around, self.greatest, spent=spent)
        if gains is not None:
            self.gains[name] = gains
            return found
        slope, rise, top = (self._gathered(part) for part in (lines.slope, lines.rise, lines.top))
        gains = (rows.clamp(min=0) * value * ((value > 0).to(rows.dtype) - slope)).masked_fill_(rise == 0, 0)
        self.gains[name] = gains
        self.greatest = torch.fmax(self.greatest, rowwise(gains).amax(1))
        return torch.where(rows >= 0, value * slope, value * (slope + rise) + top)

    def _gathered(self, tensor: Tensor) -> Tensor:
        """A tensor `[*shape]` of the one example, or `[batch, *shape]`, for the rows."""
        return tensor[None] if self._owner is None else taken(tensor, self._owner)


def _convolved(op: Conv, operand: Tensor) -> Tensor:
    """The result of a convolution, by compiled code where it is little."""
    if stands_last(operand) and max(*op.dilation, op.groups) == 1:
        bias = None if op.bias is None else value(op.bias)
        found = forward(operand.permute(0, 2, 3, 1), value(op.weight), bias, op.stride, op.padding)
        if found is not None:
            return found.permute(0, 3, 1, 2)
    return op.evaluate(operand)


class _Turned(View):
    """What rows meet that have some slopes turned over."""

    def __init__(self, view: View, gains: Mapping[str, Tensor], least: Tensor) -> None:
        super().__init__(view.context, view.example, {})
        self._before = view
        self._turning: dict[str, TurnedLines] = {}
        for name, own in gains.items():
            lines = view.lines(name)
            if lines is not None:
                self._turning[name] = TurnedLines(lines.slope, lines.rise, None, lines.top, Turning(own, least))

    def lines(self, name: str, form: Form | None = None) -> Lines | None:
        return self._turning.get(name) or self._before.lines(name, form)

    def onward(self, name: str) -> Onward | None:
        found, lines = self._before.onward(name), self._turning.get(name)
        return found if found is None or lines is None else replace(found, turning=lines.turning)

    def forget(self, name: str) -> None:
        """No row meets a node any more."""
        self._turning.pop(name, None)

    def box(self, name: str) -> tuple[Tensor, Tensor]:
        return self._before.box(name)

    def support(self, name: str) -> None:
        """A specification has few rows: a part of a weight takes longer to copy than all of it to multiply."""


@dataclass(frozen=True)
class TurnedLines(Lines):
    """Lines around a ReLU; the slope below is the other one where that is worth it to a row."""

    turning: Turning

    def bend(self, form: Wide, *, spent: bool = False) -> tuple[Wide, Tensor | None]:
        rows = form.dense()
        assert self.rise is not None
        assert self.top is not None
        lines, (gains, least) = (self.slope, self.rise, self.top), self.turning
        found = turned(rows, gains, least, form.owner, *lines)
        if found is not None:
            return Dense(found[0], form.owner), found[1]
        slope, rise, top = Dense(rows, form.owner).at(lines)
        least = least.reshape(-1, *(1,) * (rows.ndim - 1))
        below = torch.where(gains > least, 1 - slope, slope)
        negative = rows.clamp(max=0)
        passed = torch.where(rows > 0, rows * below, rows * slope + negative * rise)
        return Dense(passed, form.owner), sums(negative * top)
