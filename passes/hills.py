"""Lower bounds of rows as functions of the lines that are chosen on their way: what `ascent` climbs."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.passes.backward import Context, Rows, identity_rows
from irverify.passes.course import Course, Maps, gathering
from irverify.passes.freedom import FREEDOM, Family, Free
from irverify.passes.lines import Gathered, Relaxation, Relaxed
from irverify.passes.maxima import Selected
from irverify.passes.needs import Need
from irverify.passes.propagate import Interval
from irverify.passes.shares import PACE, Shares
from irverify.passes.tangential import Tangential
from irverify.passes.turns import Bends, Pooled, Turn
from irverify.regions.base import rowwise
from irverify.rounding import round_down

AnyHill = TypeVar("AnyHill", bound="Hill")
AnyFlat = TypeVar("AnyFlat", bound="Flat")
AnyPairs = TypeVar("AnyPairs", bound="Pairs")


class Hill(ABC):
    """Rows, and one number for each choice that they have: in `[least, most]`, `start` where `crown` is. These and
    `range`, the width as steps see it, are `[rows, choices]`, or `[1, choices]` where they are the same for all rows.
    Bounds are of the element type `dtype`, that of the value that they are of; choices of the widest type of a node
    that has some."""

    rows: int
    dtype: torch.dtype
    least: Tensor
    most: Tensor
    range: Tensor

    @property
    @abstractmethod
    def start(self) -> Tensor: ...

    @abstractmethod
    def climbed(self, choices: Tensor) -> tuple[Tensor, Tensor]:
        """The lower bounds `[rows]` for `choices` `[rows, choices]`, and the gradient of each in its own choices."""

    @abstractmethod
    def bounds(self, choices: Tensor) -> Tensor:
        """The lower bounds alone."""

    @abstractmethod
    def done(self, bounds: Tensor) -> Tensor | None:
        """The rows that need not get any better than these bounds; None: all go on."""

    def together(self, rows: Tensor) -> Tensor:
        """Those of the rows `[rows]` that go on, and those that have to go with them."""
        return rows

    @abstractmethod
    def select(self: AnyHill, kept: Tensor) -> AnyHill:
        """Only these rows `[kept]`, with the same choices."""


def free_at(node: Node, operands: Sequence[Interval], relaxed: Relaxed) -> Free | Shares | None:
    """What may be chosen at a node that has this relaxation; None where nothing may."""
    if isinstance(relaxed, Selected):
        return Shares.of(relaxed, operands[0])
    freedom = FREEDOM.find(type(node.op))
    if freedom is None or not (isinstance(relaxed, Relaxation) and relaxed.finite):
        return None
    free = freedom(node, operands[0], relaxed)
    return free if any(free) else None


@dataclass(frozen=True)
class Start:
    """The relaxations that `crown` would take, and which of their lines are free, by the name of the node."""

    context: Context
    free: Mapping[str, Free | Shares]
    maps: Maps

    def turn(self, name: str, gather: Gathered) -> Turn:
        """The choices at a node for rows to which `gather` takes the tensors of their examples."""
        relaxed, free = self.context.relaxed[name], self.free[name]
        if isinstance(free, Shares):
            assert isinstance(relaxed, Selected)
            return Pooled(relaxed, free, gather)
        assert isinstance(relaxed, Relaxation)
        return Tangential.of(free, gather) or Bends(relaxed, free, gather)


class Flat(Hill):
    """Dense rows over the value `target`, of a whole batch; done above `enough`."""

    def __init__(self, start: Start, target: str, rows: Rows, enough: float | None) -> None:
        names = sorted(_reached(start.context, target) & set(start.free))
        gather = gathering(rows)
        turns = {name: start.turn(name, gather) for name in names}
        self._enough = enough
        self._go(Course(start.context, start.maps, target, rows, turns))

    def _go(self, course: Course) -> None:
        self._course = course
        self._turns = course.turns
        self.rows = course.rows.owner.shape[0]
        self.dtype = course.rows.coefficients.dtype
        least = [turn.least for turn in self._turns.values()]
        self._types, self._sizes = [part.dtype for part in least], [part.shape[1] for part in least]
        self.least = joined(least)
        del least  # what turns have is made for this, and large
        self.most = joined([turn.most for turn in self._turns.values()])
        self.range = self.most - self.least
        for turn, part in zip(self._turns.values(), self.range.split(self._sizes, 1), strict=True):
            if isinstance(turn, Pooled):
                part.mul_(PACE)

    @property
    def start(self) -> Tensor:
        return joined([turn.start for turn in self._turns.values()])

    def _split(self, choices: Tensor) -> dict[str, Tensor]:
        if not self._sizes:
            return {}
        parts = zip(self._turns, choices.split(self._sizes, 1), self._types, strict=True)
        return {name: part.to(kind) for name, part, kind in parts}

    def climbed(self, choices: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._split(choices)
        bounds, found = self._course.down(parts), self._course.up()
        gradient = torch.cat([found[name] if name in found else 0 * parts[name] for name in parts], 1)
        return round_down(bounds, self.dtype), gradient

    def bounds(self, choices: Tensor) -> Tensor:
        return round_down(self._course.down(self._split(choices)), self.dtype)

    def done(self, bounds: Tensor) -> Tensor | None:
        return None if self._enough is None else bounds > self._enough

    def select(self: AnyFlat, kept: Tensor) -> AnyFlat:
        other = copy.copy(self)
        other._go(self._course.select(kept))
        return other


class Pairs(Flat):
    """The dense rows `v_j` and `-v_j` for elements j `[pairs]` of the flat value `target`, each of its own example
    `owner`; a pair is done once `need` does not hold for its bounds. `like` `[batch, *shape]` gives shape and type,
    `bounds` `[batch, elements]` are those so far."""

    def __init__(
        self, start: Start, target: str, like: Tensor, pairs: tuple[Tensor, Tensor], bounds: Interval, need: Need
    ) -> None:
        super().__init__(start, target, identity_rows(like, *pairs), None)
        self._pairs = pairs
        self._bounds = bounds
        self._need = need

    def done(self, bounds: Tensor) -> Tensor | None:
        low, high = bounds.chunk(2)
        lower, upper = (side[self._pairs] for side in self._bounds)
        return ~self._need(torch.fmax(lower, low), torch.fmin(upper, -high)).repeat(2)

    def together(self, rows: Tensor) -> Tensor:
        first, second = rows.chunk(2)
        return (first | second).repeat(2)

    def select(self: AnyPairs, kept: Tensor) -> AnyPairs:
        other = super().select(kept)
        own = kept[: kept.shape[0] // 2]
        other._pairs = self._pairs[0][own], self._pairs[1][own]
        return other


def _reached(context: Context, target: str) -> set[str]:
    """The nodes that rows over `target` pass."""
    reached = {target}
    for node in reversed(context.graph.nodes):
        if node.name in reached and node.name not in context.known:
            reached.update(node.inputs)
    return reached


def widths(families: Sequence[Family | Shares]) -> Tensor:
    """How wide the ranges of all their choices are, as steps see them."""
    found = [family.most - family.least for family in families]
    pools = (isinstance(family, Shares) for family in families)
    return joined([PACE * width if pool else width for width, pool in zip(found, pools, strict=True)])


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors `[rows or 1, ...]` side by side, `[rows or 1, choices]`."""
    if not parts:
        return torch.zeros(1, 0)
    rows = max(part.shape[0] for part in parts)
    return torch.cat([rowwise(part).expand(rows, -1) for part in parts], 1)
