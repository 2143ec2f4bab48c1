"""Splitting of the input box: branch and bound for networks with few inputs.

A box is cut into two along one input, again and again, until bounds refute the violation in each part. Parts are closed
boxes in float64 and share the face that they were cut at, so that they cover the box without a gap. What is known of a
box holds for its parts: bounds of values are handed down, and the tolerance is that of the whole box, whose values are
the largest. Many parts are bounded at once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irverify.attacks import Pgd, Target, attack
from irverify.passes.coefficients import coefficients_of
from irverify.passes.crown import Crown
from irverify.passes.needs import needs
from irverify.pipeline import Bounds, State
from irverify.regions import Box
from irverify.regions.base import rowwise
from irverify.verify.attacking import free_inputs
from irverify.verify.bounding import Stack
from irverify.verify.problem import Clock, Problem, achieved

MOST_INPUTS = 16
"""Up to how many free inputs splitting gets anywhere: the parts double with every cut."""
PARTS = 256
"""How many parts are bounded at once; more gain nothing."""
SHARE = 0.8
"""The part of the time that is left which splitting may take; the exact search behind it must get its turn."""
MOST_PARTS = 500_000
"""So many parts are bounded at most."""
LEAST = 2.0**-18
"""A part that is open although no input is wider than this, relative to the whole box, is hopeless: the property holds
by a hair, or not at all."""
NAME = "split"
LOOK = Pgd(steps=0, restarts=1)
"""What evaluates the points of parts."""


def splits(problem: Problem) -> bool:
    """Whether the problem is one for splitting: a box with few free inputs, whose bounds have a known tolerance."""
    boxes = all(region.is_box for region in problem.regions)
    return boxes and 0 < free_inputs(problem) <= MOST_INPUTS and math.isfinite(problem.tolerance)


def split(problem: Problem, clock: Clock) -> None:
    """Decides a problem over a box by splitting it, as far as time allows.

    Every disjunct is refuted where each part of the box has one of its rows bounded above the tolerance. Points of the
    parts at which the network violates the property are candidates for a replay.
    """
    with clock.stage(NAME) as outcome:
        left = clock.left()
        search = _Search(problem, None if left is None else time.monotonic() + SHARE * left)
        search.run()
        disjuncts = len(problem.open.disjuncts)
        outcome.append(f"{search.bounded} parts bounded, {search.open} open")
        if problem.counterexample is None and search.open == 0:
            problem.refute(range(disjuncts), NAME, search.smallest, problem.tolerance)
        found = problem.counterexample is not None
        outcome.append(achieved(found, disjuncts - len(problem.open.disjuncts), disjuncts))


@dataclass
class _Parts:
    """Boxes over all inputs, flattened one after the other, `[parts, inputs]`; the bound that a part's parent had, by
    which the most promising are bounded first; bounds of values that hold for each part."""

    lower: Tensor
    upper: Tensor
    promise: Tensor
    known: dict[str, tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, which: Tensor | slice) -> _Parts:
        known = {name: (low[which], high[which]) for name, (low, high) in self.known.items()}
        return _Parts(self.lower[which], self.upper[which], self.promise[which], known)

    def joined(self, other: _Parts) -> _Parts:
        known = {
            name: (torch.cat([low, other.known[name][0]]), torch.cat([high, other.known[name][1]]))
            for name, (low, high) in self.known.items()
        }
        lower, upper = torch.cat([self.lower, other.lower]), torch.cat([self.upper, other.upper])
        return _Parts(lower, upper, torch.cat([self.promise, other.promise]), known)


@dataclass
class _Search:
    """The parts that wait to be bounded, and what has come of those that have been."""

    problem: Problem
    deadline: float | None
    bounded: int = 0
    smallest: float = math.inf
    """By how much the part that was refuted most narrowly was."""
    stuck: int = 0
    """Parts that are open and too small to be cut."""
    waiting: _Parts = field(init=False)

    def __post_init__(self) -> None:
        self.stack = Stack.of([self.problem])
        graph = self.stack.graph
        boxes = [region.box() for region in self.problem.regions]
        lower, upper = (torch.cat([rowwise(box[side]) for box in boxes], dim=1) for side in (0, 1))
        state = self.stack.state()
        worth = needs(graph, True).stations - set(graph.outputs)
        known = {name: (state.bounds[name].lower, state.bounds[name].upper) for name in worth & set(state.bounds)}
        self.waiting = _Parts(lower, upper, lower.new_full((1,), -math.inf), known)
        self.sizes = [node.type.size for node in graph.inputs]
        self.least = LEAST * (upper - lower)

    @property
    def open(self) -> int:
        return len(self.waiting) + self.stuck

    @property
    def hopeless(self) -> bool:
        """The network's own margin at some point is within the tolerance: no bound of it refutes the disjunct."""
        nearest = (self.problem.nearest.get(disjunct) for disjunct in self.problem.open.disjuncts)
        return any(found is not None and found[0] <= self.problem.tolerance for found in nearest)

    def run(self) -> None:
        """Bounds and cuts parts until none is left, a counterexample is found, one cannot be cut, or time is over."""
        with torch.no_grad():
            while len(self.waiting) and not self.stuck and self.problem.counterexample is None:
                late = self.deadline is not None and time.monotonic() > self.deadline
                if late or self.hopeless or self.bounded >= MOST_PARTS:
                    return
                count = min(PARTS, len(self.waiting))
                part, self.waiting = self.waiting.take(slice(-count, None)), self.waiting.take(slice(0, -count))
                self._step(part)

    def _step(self, part: _Parts) -> None:
        state = self._state(part)
        state.require(Crown())
        worst = self._worst(state.bounds[state.graph.outputs[0]].lower)
        self.bounded += len(part)
        refuted = worst > self.problem.tolerance
        if bool(refuted.any()):
            self.smallest = min(self.smallest, float(worst[refuted].min()))
        still = (~refuted).nonzero()[:, 0]
        if not len(still):
            return
        known = {name: (state.bounds[name].lower, state.bounds[name].upper) for name in part.known}
        part = _Parts(part.lower, part.upper, worst, known).take(still)
        state = self._state(part)
        matrix = coefficients_of(state, state.graph.outputs[0], Crown.name).inputs
        slopes = torch.cat([matrix[node.name].flatten(2) for node in state.graph.inputs], dim=2)
        self._look(part, slopes)
        if self.problem.counterexample is None:
            self._cut(part, slopes.abs().amax(1).nan_to_num(1.0))

    def _state(self, part: _Parts) -> State:
        """What is known of some parts."""
        shapes = [node.type.shape for node in self.stack.graph.inputs]
        sides = zip(part.lower.split(self.sizes, 1), part.upper.split(self.sizes, 1), shapes, strict=True)
        boxes = tuple(Box(low.reshape(-1, *shape), high.reshape(-1, *shape)) for low, high, shape in sides)
        operands = {name: each.expand(len(part), *each.shape[1:]) for name, each in self.stack.operands.items()}
        bounds = {name: Bounds(low, high, Crown.name) for name, (low, high) in part.known.items()}
        return State(self.stack.graph, boxes, operands, bounds)

    def _worst(self, lower: Tensor) -> Tensor:
        """The smallest over the disjuncts of the largest lower bound of their rows, `[parts]`."""
        lower = torch.where(lower.isfinite(), lower, torch.full_like(lower, -math.inf))
        sizes = [disjunct.offset.shape[0] for disjunct in self.problem.open.disjuncts]
        return torch.stack([rows.amax(1) for rows in lower[:, : sum(sizes)].split(sizes, dim=1)]).amin(0)

    def _look(self, part: _Parts, slopes: Tensor) -> None:
        """Evaluates the network at the centre of each part and where the linear bound of each of its rows is least."""
        if self.problem.inner is None:
            return
        rows = slopes.shape[1]
        corners = torch.where(slopes > 0, part.lower[:, None], part.upper[:, None])
        centres = ((part.lower + part.upper) / 2)[:, None]
        points = torch.cat([corners, centres], dim=1).reshape(len(part) * (rows + 1), -1)
        shaped = tuple(
            each.reshape(-1, *node.type.shape)
            for each, node in zip(points.split(self.sizes, 1), self.stack.graph.inputs, strict=True)
        )
        problem = self.problem
        starts = [shaped for _ in problem.open.disjuncts]
        (found,) = attack(problem.graph, [Target(self.problem.inner, problem.open, problem.accept, starts)], LOOK)
        problem.note(found.nearest)

    def _cut(self, part: _Parts, slopes: Tensor) -> None:
        """Cuts each part in two along the input that its bound falls most along."""
        width = part.upper - part.lower
        along = (slopes * width + torch.finfo(width.dtype).tiny * width).argmax(1, keepdim=True)
        low, high = part.lower.gather(1, along), part.upper.gather(1, along)
        middle = low + (high - low) / 2
        fine = ((low < middle) & (middle < high))[:, 0] & (width > self.least).any(1)
        self.stuck += int((~fine).sum())
        if self.stuck:
            return
        left = _Parts(part.lower, part.upper.scatter(1, along, middle), part.promise, part.known)
        right = _Parts(part.lower.scatter(1, along, middle), part.upper, part.promise, part.known)
        fresh = left.joined(right)
        self.waiting = self.waiting.joined(fresh.take(fresh.promise.argsort()))
