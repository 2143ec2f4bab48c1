"""Both bounds of elements of one example as functions of the lines that are chosen on the way: windows stay windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.passes.backward import Context
from irverify.passes.bent import Lines
from irverify.passes.forms import Form, Wide
from irverify.passes.hills import Hill, Start, joined, widths
from irverify.passes.landing import landed
from irverify.passes.lines import Gathered, Relaxation, Relaxed
from irverify.passes.maxima import Selected
from irverify.passes.needs import Need
from irverify.passes.passage import Passage
from irverify.passes.propagate import Interval
from irverify.passes.shares import PoolSteering, Shares
from irverify.passes.steering import Steering
from irverify.passes.view import View
from irverify.regions.base import rowwise
from irverify.rounding import round_down

Intervals: TypeAlias = Mapping[str, Interval]
AnySteering: TypeAlias = Steering | PoolSteering


class Swept(Hill):
    """The rows `v_j` and `-v_j` for `elements` j `[pairs]` of the flat value `target`, of one example; a pair is done
    once `need` does not hold for its bounds any more. `bounds` are those of the whole flat value so far."""

    def __init__(self, view: SteeredView, target: str, elements: Tensor, bounds: Interval, need: Need) -> None:
        self._view = view
        self._target = target
        self._elements = elements
        self._bounds = bounds
        self._need = need
        self.dtype = bounds.lower.dtype
        with torch.no_grad():
            self._value()  # makes the steerings
        self.rows = 2 * elements.shape[0]
        self._steerings = list(view.steerings.values())
        families = [family for steering in self._steerings for family in steering.families]
        self._shapes = [family.start.shape[1:] for family in families]
        self._sizes = [family.start[0].numel() for family in families]
        self._types = [family.start.dtype for family in families]
        self._least, self._most, self._fixed = (
            joined([getattr(family, side) for family in families]) for side in ("least", "most", "start")
        )
        self._range = widths(families)
        self._only((self._least < self._most).any(0).nonzero()[:, 0])

    def _only(self, places: Tensor) -> None:
        """Leaves the choice at these places alone: the others have a single possibility."""
        self._places = places
        self.least, self.most, self.range = (side[:, places] for side in (self._least, self._most, self._range))

    @property
    def start(self) -> Tensor:
        return self._fixed[:, self._places]

    def climbed(self, choices: Tensor) -> tuple[Tensor, Tensor]:
        """The lower bounds `[rows]` for `choices` `[rows, choices]`, and the gradient of each in its own choices."""
        parts = [part.requires_grad_() for part in self._parts(choices)]
        with torch.enable_grad():
            bounds = self._steered(parts)
            if not bounds.requires_grad:  # the rows pass none of the free lines
                return bounds, torch.zeros_like(choices)
            found = torch.autograd.grad(bounds.sum(), parts, allow_unused=True, materialize_grads=True)
        return bounds.detach(), torch.cat([rowwise(part) for part in found], 1).index_select(1, self._places)

    def bounds(self, choices: Tensor) -> Tensor:
        """The lower bounds alone."""
        return self._steered(self._parts(choices))

    def _parts(self, choices: Tensor) -> list[Tensor]:
        whole = self._fixed.expand(choices.shape[0], -1).index_copy(1, self._places, choices)
        parts = zip(whole.split(self._sizes, 1), self._shapes, self._types, strict=True)
        return [part.reshape(part.shape[0], *shape).to(kind) for part, shape, kind in parts]

    def _steered(self, parts: list[Tensor]) -> Tensor:
        taken = 0
        for steering in self._steerings:
            count = len(steering.families)
            steering.take(parts[taken : taken + count])
            taken += count
        return self._value()

    def _value(self) -> Tensor:
        found = _Landing(self._view, self._target, self._elements, self._bounds).lower_bounds()
        return round_down(found, self.dtype)

    def done(self, bounds: Tensor) -> Tensor | None:
        low, high = bounds[: self._elements.shape[0]], -bounds[self._elements.shape[0] :]
        lower, upper = (side[self._elements] for side in self._bounds)
        return ~self._need(torch.fmax(lower, low), torch.fmin(upper, high)).repeat(2)

    def together(self, rows: Tensor) -> Tensor:
        return (rows[: self._elements.shape[0]] | rows[self._elements.shape[0] :]).repeat(2)

    def select(self, kept: Tensor) -> Swept:
        pairs = kept[: kept.shape[0] // 2]
        other = Swept(self._view.again(), self._target, self._elements[pairs], self._bounds, self._need)
        other._only(self._places)
        return other


class _Landing(Passage):
    """A passage that takes rows through the last dense layer to the box of an input in one go."""

    def _step(self, node: Node) -> None:
        alone = self.signed and len(self.pending) == 1
        found = landed(self.view, node, self._whole(node.name)) if alone else None
        if found is None:
            super()._step(node)
        else:
            self.pending.clear()
            self.constant = self.constant + found


class SteeredView(View):
    """One example, with a steering at each node that has free lines, made when rows first come by."""

    def __init__(self, start: Start, example: int, intervals: Intervals) -> None:
        context = start.context
        pools = {name: _Pool(self, name) for name, free in start.free.items() if isinstance(free, Shares)}
        relaxed: dict[str, Relaxed] = {**context.relaxed, **pools}
        super().__init__(Context(context.graph, context.regions, relaxed, context.known), example, intervals)
        self._start = start
        self._of = example
        self.steerings: dict[str, AnySteering] = {}

    def again(self) -> SteeredView:
        """The same for some of the rows."""
        other = SteeredView(self._start, self._of, self._intervals)
        other._narrow = self._narrow  # or fewer rows might take another way, with other choices
        return other

    def pooled(self, name: str, rows: int) -> None:
        """Lines are chosen by themselves."""

    def lines(self, name: str, form: Form | None = None) -> Lines | None:
        plain = super().lines(name, form)
        if plain is None or name not in self._start.free:
            return plain
        return SteeredLines(**vars(plain), view=self, name=name)

    def steering(self, name: str, form: Wide | None) -> AnySteering:
        """The steering at a node for rows of this form; None is dense."""
        if name not in self.steerings:
            example = self._of
            gather = self.gathered if form is None else lambda tensor: form.at([tensor[example]])[0]
            self.steerings[name] = _steering(self._start, name, gather)
        return self.steerings[name]


@dataclass(frozen=True)
class _Pool:
    """The steering at a maximum over windows, made when rows first come by."""

    view: SteeredView
    name: str

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.view.steering(self.name, None).through(coefficients, gathered)


@dataclass(frozen=True)
class SteeredLines(Lines):
    """The lines of a steering in place of those of the relaxation."""

    view: SteeredView
    name: str

    def bend(self, form: Wide, *, spent: bool = False) -> tuple[Wide, Tensor | None]:
        steering = self.view.steering(self.name, form)
        assert isinstance(steering, Steering)
        passed, constant = steering.bend(form.coefficients)
        return form.with_coefficients(passed), constant


def _steering(start: Start, name: str, gather: Gathered) -> AnySteering:
    """The steering at a node for rows to whose coefficients `gather` takes the tensors of an example."""
    relaxed, free = start.context.relaxed[name], start.free[name]
    if isinstance(free, Shares):
        assert isinstance(relaxed, Selected)
        return PoolSteering(relaxed, free, gather)
    assert isinstance(relaxed, Relaxation)
    return Steering(relaxed, free, gather)
