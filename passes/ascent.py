"""Gradient ascent on the lower bounds of rows, over the free lines around the nonlinear operators of a graph.

The intermediate bounds stay as they are, so that a step costs one backward pass of the rows and its gradient. Rows are
independent of one another; those that are decided, or no longer get better, leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irverify.passes.backward import Context, Rows, lower_bounds
from irverify.passes.freedom import Family, Free, Line
from irverify.passes.relaxations import Gathered, Relaxation, Relaxed
from irverify.regions.base import rowwise

DECAY = 0.98
"""What the step size is multiplied by after each step."""
MOMENTS = (0.9, 0.999)
"""Adam's decay rates of the first and the second moment."""
PATIENCE = 10
"""A row whose bound has not got better for so many steps is given up."""
THINNED = 0.75
"""The rows that are done leave once no more than this share of the rows goes on."""


@dataclass(frozen=True)
class Schedule:
    """`steps` steps of size `size` (a share of the range of each choice); rows above `stop_above` are done."""

    steps: int
    size: float
    stop_above: float | None


class Ascent:
    """Optimises rows over the value `target`. `steps` counts the gradients that were taken, `unfinished` has the
    examples that had rows to the end."""

    def __init__(self, context: Context, target: str, free: Mapping[str, Free], schedule: Schedule) -> None:
        self.context = context
        self.target = target
        self.schedule = schedule
        reached = _reached(context, target)
        self.free = {name: part for name, part in free.items() if name in reached and any(part)}
        self.steps = 0
        self.unfinished = torch.zeros(0, dtype=torch.long)

    def best(self, rows: Rows) -> Tensor:
        """The best lower bound that was met for each row, `[rows]`."""
        if not self.free:
            return lower_bounds(self.context, self.target, rows)
        best = rows.coefficients.new_full((rows.owner.shape[0],), -torch.inf)
        places = torch.arange(rows.owner.shape[0], device=best.device)
        patience = torch.zeros_like(places)
        climber = _Climber(self.context, self.target, self.free, rows)
        for step in range(self.schedule.steps + 1):
            last = step == self.schedule.steps
            bounds, moving = climber.evaluate(gradient=not last)
            better = bounds > best[places]
            best[places] = torch.where(better, bounds, best[places])
            if last:
                break
            self.steps += 1
            patience = torch.where(better, 0, patience + 1)
            goes_on = moving & (patience < PATIENCE)
            if self.schedule.stop_above is not None:
                goes_on = goes_on & ~(best[places] > self.schedule.stop_above)
            count = int(goes_on.sum())
            if count == 0:
                places = places[:0]
                break
            if count <= THINNED * places.shape[0]:
                kept = goes_on.nonzero()[:, 0]
                places, patience = places[kept], patience[kept]
                climber = climber.selected(kept)
            climber.move(self.schedule.size * DECAY**step)
        self.unfinished = rows.owner[places].unique()
        return best


class _Climber:
    """The rows that are still going, their choices, and Adam's moments of these, `[rows, choices]`."""

    def __init__(self, context: Context, target: str, free: Mapping[str, Free], rows: Rows) -> None:
        self.context = context
        self.target = target
        self.free = free
        self.rows = rows
        self.lines = {name: _Lines(context.relaxed[name], part, rows.gathered) for name, part in free.items()}
        families = [family for lines in self.lines.values() for family in lines.families]
        count = rows.owner.shape[0]
        self.shapes = [tuple(family.start.shape[1:]) for family in families]
        self.sizes = [family.start[0].numel() for family in families]
        self.least = torch.cat([rowwise(family.least) for family in families], 1)
        self.most = torch.cat([rowwise(family.most) for family in families], 1)
        self.range = self.most - self.least
        self.choices = torch.cat([rowwise(family.start) for family in families], 1).repeat(
            count if self.least.shape[0] == 1 else 1, 1
        )
        self.first, self.second = torch.zeros_like(self.choices), torch.zeros_like(self.choices)
        self.gradient = self.first
        self.moves = 0

    def selected(self, kept: Tensor) -> _Climber:
        """Only these rows."""
        rows = Rows(self.rows.coefficients[kept], self.rows.owner[kept], self.rows.batch)
        other = _Climber(self.context, self.target, self.free, rows)
        other.choices, other.gradient = self.choices[kept], self.gradient[kept]
        other.first, other.second, other.moves = self.first[kept], self.second[kept], self.moves
        return other

    def evaluate(self, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """The bounds for the present choices `[rows]`, and for which rows a choice could move."""
        choices = [
            part.reshape(-1, *shape).requires_grad_(gradient)
            for part, shape in zip(self.choices.split(self.sizes, 1), self.shapes, strict=True)
        ]
        with torch.set_grad_enabled(gradient):
            rest = list(choices)
            relaxed: dict[str, Relaxed] = dict(self.context.relaxed)
            for name, lines in self.lines.items():
                mine, rest = rest[: len(lines.families)], rest[len(lines.families) :]
                relaxed[name] = lines.chosen(mine)
            context = Context(self.context.graph, self.context.regions, relaxed, self.context.known)
            bounds = lower_bounds(context, self.target, self.rows)
            if not bounds.requires_grad:  # nobody asked for gradients, or the rows pass none of the free lines
                return bounds, torch.zeros_like(bounds, dtype=torch.bool)
            parts = torch.autograd.grad(bounds.sum(), choices, allow_unused=True, materialize_grads=True)
        self.gradient = torch.cat([rowwise(part) for part in parts], 1).nan_to_num_(0.0, 0.0, 0.0).mul_(self.range)
        return bounds.detach(), self.gradient.any(1)

    def move(self, size: float) -> None:
        """One step of Adam, within the range of each choice."""
        self.moves += 1
        decay, decay_square = MOMENTS
        self.first.lerp_(self.gradient, 1 - decay)
        self.second.mul_(decay_square).addcmul_(self.gradient, self.gradient, value=1 - decay_square)
        scale = size * (1 - decay_square**self.moves) ** 0.5 / (1 - decay**self.moves)
        step = self.first / self.second.sqrt().add_(torch.finfo(self.first.dtype).tiny ** 0.5)
        self.choices = torch.addcmul(self.choices, step, self.range, value=scale).clamp_(self.least, self.most)


class _Lines:
    """The lines around one node for rows: those that are free by choice, the others as the relaxation has them."""

    def __init__(self, relaxed: Relaxed, free: Free, gather: Gathered) -> None:
        assert isinstance(relaxed, Relaxation)
        self.below = None if free.below is None else free.below.gathered(gather)
        self.above = None if free.above is None else free.above.gathered(gather)
        self.fixed_below = Line(gather(relaxed.lower_slope), gather(relaxed.lower_intercept))
        self.fixed_above = Line(gather(relaxed.upper_slope), gather(relaxed.upper_intercept))

    @property
    def families(self) -> list[Family]:
        return [family for family in (self.below, self.above) if family is not None]

    def chosen(self, choices: list[Tensor]) -> Relaxed:
        rest = iter(choices)
        below = self.fixed_below if self.below is None else self.below.line(next(rest))
        above = self.fixed_above if self.above is None else self.above.line(next(rest))
        return _Chosen(below, above)


@dataclass(frozen=True)
class _Chosen:
    """A nonlinear node between lines that are known for each row."""

    below: Line
    above: Line

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        passed, constant = _Bend.apply(coefficients, *self.below, *self.above)  # type: ignore[no-untyped-call]
        return (passed,), constant


class _Bend(torch.autograd.Function):
    """`a s` and the sum of `a t` for each row, with the line (s, t) below where a >= 0 and the one above elsewhere."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, below: Tensor, base: Tensor | None, above: Tensor, top: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        positive = coefficients >= 0
        slope = torch.where(positive, below, above)
        intercept = None
        if base is not None and top is not None:
            intercept = torch.where(positive, base, top)
        elif base is not None:
            intercept = torch.where(positive, base, 0.0)
        elif top is not None:
            intercept = torch.where(positive, 0.0, top)
        constant = coefficients.new_zeros(coefficients.shape[0])
        if intercept is not None:
            constant = torch.linalg.vecdot(rowwise(coefficients), rowwise(intercept))
        ctx.save_for_backward(coefficients, positive, slope, intercept)
        return coefficients * slope, constant

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        passed, constant = gradients
        coefficients, positive, slope, intercept = ctx.saved_tensors
        constant = constant.reshape(-1, *(1,) * (coefficients.ndim - 1))
        wanted = ctx.needs_input_grad
        by_slope = passed * coefficients if wanted[1] or wanted[3] else None
        by_intercept = constant * coefficients if wanted[2] or wanted[4] else None
        onward = passed * slope if wanted[0] else None
        if onward is not None and intercept is not None:
            onward = torch.addcmul(onward, constant, intercept)
        return (
            onward,
            by_slope.masked_fill(~positive, 0.0) if wanted[1] and by_slope is not None else None,
            by_intercept.masked_fill(~positive, 0.0) if wanted[2] and by_intercept is not None else None,
            by_slope.masked_fill(positive, 0.0) if wanted[3] and by_slope is not None else None,
            by_intercept.masked_fill(positive, 0.0) if wanted[4] and by_intercept is not None else None,
        )


def _reached(context: Context, target: str) -> set[str]:
    """The nodes that rows over `target` pass."""
    reached = {target}
    for node in reversed(context.graph.nodes):
        if node.name in reached and node.name not in context.known:
            reached.update(node.inputs)
    return reached
