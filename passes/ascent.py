"""Gradient ascent on the lower bounds of rows, over the lines that are chosen on their way.

The bounds of the values in between stay as they are, so that a step costs one backward pass of the rows and its
gradient. Rows are independent of one another; those that are decided, or no longer get better, leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.kernels.ascent import climb
from irverify.passes.hills import Hill

MOMENTS = (0.5, 0.8)
"""Adam's decay rates of the first and the second moment: short memories, for few steps."""
FINAL, MANY = 0.03, 45
"""What a step shrinks to, as a share of the first, in the course of `MANY` steps or more."""
PATIENCE = 20
"""A row whose bound has not got better for so many steps, and for half of all steps, is given up; not sooner, since a
bound that jumps about while steps are long gets better once they are short."""
THINNED = 0.75
"""The rows that are done leave once no more than this share of the rows goes on."""


@dataclass(frozen=True)
class Schedule:
    """`steps` steps, of size `size` at first: a share of the range of each choice."""

    steps: int
    size: float

    def at(self, step: int) -> float:
        """The size of a step. A few steps are all long; many get short towards the end."""
        return float(self.size * FINAL ** (step / max(MANY, self.steps)))


class Climbed(NamedTuple):
    """The best lower bound that was met for each row, `[rows]`; how many gradients were taken; the rows that went on to
    the last step."""

    best: Tensor
    steps: int
    unfinished: Tensor


def ascend(hill: Hill, schedule: Schedule) -> Climbed:
    """Climbs from where the hill starts."""
    choices = hill.start
    if choices.shape[1] == 0:
        return Climbed(hill.bounds(choices.expand(hill.rows, -1)), 0, torch.arange(0))
    choices = choices.repeat(hill.rows if choices.shape[0] == 1 else 1, 1)
    places = torch.arange(hill.rows, device=choices.device)
    best, idle = choices.new_full((hill.rows,), -torch.inf, dtype=hill.dtype), torch.zeros_like(places)
    adam = Adam(choices)
    for step in range(schedule.steps):
        bounds, gradient = hill.climbed(choices)
        better = bounds > best[places]
        best[places] = torch.where(better, bounds, best[places])
        idle = torch.where(better, 0, idle + 1)
        gradient = gradient.mul_(hill.range)
        if not math.isfinite(float(gradient.sum())):
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        going = _going(hill, best[places], gradient, idle < max(PATIENCE, schedule.steps // 2))
        count = int(going.sum())
        if count == 0:
            return Climbed(best, step + 1, places[:0])
        if count <= THINNED * places.shape[0]:
            kept = going.nonzero()[:, 0]
            hill, places, idle = hill.select(kept), places[kept], idle[kept]
            choices, gradient, adam = choices[kept], gradient[kept], adam.select(kept)
        choices = adam.climb(choices, gradient, hill, schedule.at(step))
    bounds = hill.bounds(choices)
    best[places] = torch.where(bounds > best[places], bounds, best[places])
    return Climbed(best, schedule.steps, places)


def _going(hill: Hill, best: Tensor, gradient: Tensor, hopeful: Tensor) -> Tensor:
    """The rows that a choice could still move, and are worth it."""
    done = hill.done(best)
    going = (gradient.abs().amax(1) > 0) & hopeful
    return hill.together(going if done is None else going & ~done)


class Adam:
    """The moments of a gradient `[rows, choices]` (Kingma and Ba 2015)."""

    def __init__(self, like: Tensor) -> None:
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.steps = 0

    def select(self, kept: Tensor) -> Adam:
        other = Adam(self.first[:0])
        other.first, other.second, other.steps = self.first[kept], self.second[kept], self.steps
        return other

    def climb(self, choices: Tensor, gradient: Tensor, hill: Hill, size: float) -> Tensor:
        """The choices a step further up, by at most about `size` times their range; those that are given may change."""
        self.steps += 1
        decay, decay_square = MOMENTS
        scale = (1 - decay_square**self.steps) ** 0.5 / (1 - decay**self.steps)
        tiny, moments = torch.finfo(gradient.dtype).tiny, (self.first, self.second)
        limits = hill.least, hill.most, hill.range
        if climb(choices, gradient, moments, limits, (1 - decay, 1 - decay_square), scale * size, tiny):
            return choices
        self.first.lerp_(gradient, 1 - decay)
        self.second.mul_(decay_square).addcmul_(gradient, gradient, value=1 - decay_square)
        spread = self.second.add(tiny).sqrt_()  # the root of less takes ten times as long
        move = torch.div(self.first, spread, out=spread).mul_(hill.range)
        return torch.add(choices, move, alpha=scale * size).clamp_(hill.least, hill.most)
