"""Projected gradient descent on many targets at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from irverify.attacks.protocols import Pgd
from irverify.attacks.starts import best_of_sample, given_starts, own_starts
from irverify.attacks.targets import Candidate, Goals, Target
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.passes.chords import Chords
from irverify.pipeline.facts import Bounds
from irverify.properties import Disjunct, Property
from irverify.regions import Region, join
from irverify.regions.base import rowwise

OFFERED = 3
"""So many of the most violating points are offered at a time, since each may cost a replay."""


@dataclass
class Found:
    """What an attack found out about one target: the `candidate` that was accepted, None where there is none, which
    proves nothing; and `nearest`, for each disjunct the smallest margin that was met and where."""

    candidate: Candidate | None = None
    nearest: dict[Disjunct, tuple[float, Candidate]] = field(default_factory=dict)


def pgd(
    graph: Graph,
    regions: Sequence[Region],
    prop: Property,
    attack_: Pgd,
    accept: Callable[[Candidate], bool],
    deadline: float | None = None,
    bounds: Mapping[str, Bounds] | None = None,
) -> Candidate | None:
    """`attack` on one target: the candidate that was found, if any."""
    return attack(graph, [Target(regions, prop, accept, bounds=bounds or {})], attack_, deadline)[0].candidate


def attack(graph: Graph, targets: Sequence[Target], how: Pgd, deadline: float | None = None) -> list[Found]:
    """For each target the first candidate that violates its property in the graph's own arithmetic and that its
    `accept` agrees to.

    The targets share every evaluation of the network; what is found of one does not depend on the others, up to
    rounding. `deadline` is a time of `time.monotonic`. Raises UsageError for a target that is not one example.
    """
    if not targets:
        return []
    for batch in {region.batch for target in targets for region in target.regions} - {1}:
        raise UsageError(f"expected regions of one example each, got {batch}", hint="region.select(i) is example i")
    runs = _Runs(graph, targets, how)
    step = how.step
    for iteration in range(how.steps + 1):
        share = max(0.0, 1 - iteration / (how.chords * how.steps)) if how.chords else 0.0
        margins = runs.look(share)
        late = deadline is not None and time.monotonic() > deadline
        if iteration == how.steps or late or runs.done or not margins.requires_grad:
            break  # without a gradient nothing between inputs and margins has a slope, such as a step
        runs.move(margins, step)
        step *= how.decay
    return runs.results()


class _Runs:
    """The points that all runs have come to, in one batch; runs of a target that is done leave it."""

    def __init__(self, graph: Graph, targets: Sequence[Target], how: Pgd) -> None:
        self.graph, self.targets, self.how = graph, targets, how
        self.names = [node.name for node in graph.inputs]
        self.found = [Found() for _ in targets]
        self.device = targets[0].regions[0].device
        grouped = [[target.prop.disjuncts] if how.untargeted else [(d,) for d in target.prop.disjuncts]
                   for target in targets]  # fmt: skip
        self.goals = Goals.of([goal for goals in grouped for goal in goals], targets[0].regions[0].dtype, self.device)
        self.aims = [(place, goal) for place, goals in enumerate(grouped) for goal in goals]
        starts = self._starts([len(goals) for goals in grouped])
        self.points = [torch.cat(same) for same in zip(*(points for points, _ in starts), strict=True)]
        self.which = torch.tensor([goal for _, goals in starts for goal in goals], device=self.device)
        self.owner = torch.tensor([self.aims[goal][0] for _, goals in starts for goal in goals], device=self.device)
        self.regions = [join(same) for same in zip(*(target.regions for target in targets), strict=True)]
        self.chords = Chords(graph, [target.bounds for target in targets]) if how.chords else None
        self._spread()
        self.best = torch.full_like(self.which, math.inf, dtype=self.points[0].dtype)
        self.nearest = list(self.points)

    def _starts(self, counts: Sequence[int]) -> list[tuple[list[Tensor], list[int]]]:
        """The starting points of each target, and the goal of each of them."""
        result = []
        first = 0
        for target, goals in zip(self.targets, counts, strict=True):
            own = own_starts(target.regions, self.how, goals)
            if self.how.sample:
                own = best_of_sample(target.regions, self.how, goals, partial(self._sampled, first))
            given, disjuncts = given_starts(target)
            which = [first + goal for goal in range(goals) for _ in range(self.how.restarts)]
            which += [first + (0 if self.how.untargeted else disjunct) for disjunct in disjuncts]
            result.append(([torch.cat(same) for same in zip(own, given, strict=True)] if given else own, which))
            first += goals
        return result

    def _sampled(self, first: int, points: Sequence[Tensor], which: Tensor) -> Tensor:
        with torch.no_grad():
            return self._margins(self.graph, points, first + which)

    def _spread(self) -> None:
        """The regions and half widths of the runs."""
        self.spread = [region.select(self.owner) for region in self.regions]
        self.widths = [(upper - lower) / 2 for lower, upper in (region.box() for region in self.spread)]

    @property
    def done(self) -> bool:
        return all(found.candidate is not None for found in self.found)

    def look(self, share: float) -> Tensor:
        """The margins of all runs, over the network mixed with this share of chords, for gradients; what the network
        itself says of the points is remembered, and its best points are offered."""
        self.points = [point.detach().requires_grad_(True) for point in self.points]
        mixing = self.chords is not None and self.chords.any and share > 0
        with torch.set_grad_enabled(not mixing):
            margins = self._margins(self.graph, self.points, self.which)
        self._remember(margins.detach())
        if mixing and self.chords is not None and not self.done:
            margins = self._margins(self.chords.graph, self.points, self.which, self.chords.operands(share, self.owner))
        return margins

    def _margins(
        self, graph: Graph, points: Sequence[Tensor], which: Tensor, operands: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The margin of goal `which[b]` at each point, `[batch]`."""
        values = graph.values({**dict(zip(self.names, points, strict=True)), **(operands or {})})
        outputs = torch.cat([rowwise(values[name]) for name in graph.outputs], dim=1)
        return self.goals.margins(torch.cat([rowwise(point) for point in points], dim=1), outputs, which)

    def _remember(self, margins: Tensor) -> None:
        better = margins < self.best
        self.best = torch.where(better, margins, self.best)
        self.nearest = [
            torch.where(better.reshape(-1, *(1,) * (point.ndim - 1)), point.detach(), nearest)
            for point, nearest in zip(self.points, self.nearest, strict=True)
        ]
        hit = (margins <= 0).nonzero()[:, 0]
        for place in torch.unique(self.owner[hit]).tolist() if hit.shape[0] else ():
            mine = hit[self.owner[hit] == place]
            self._offer(place, mine[margins[mine].argsort()][:OFFERED].tolist())

    def _offer(self, place: int, runs: Sequence[int]) -> None:
        for run in runs:
            candidate = tuple(point[run : run + 1].detach() for point in self.points)
            if self.found[place].candidate is None and self.targets[place].accept(candidate):
                self.found[place].candidate = candidate

    def move(self, margins: Tensor, step: float) -> None:
        """A step of descent for every run; those of targets that are done are left out from here on."""
        gradients: Sequence[Tensor | None] = torch.autograd.grad(margins.sum(), self.points, allow_unused=True)
        self.points = [
            point if gradient is None else region.project(_moved(point, gradient, width * step, region))
            for point, gradient, width, region in zip(self.points, gradients, self.widths, self.spread, strict=True)
        ]
        going = torch.tensor([found.candidate is None for found in self.found], device=self.device)[self.owner]
        if not bool(going.all()):
            self._report(~going)
            self.points, self.nearest = [part[going] for part in self.points], [part[going] for part in self.nearest]
            self.owner, self.which, self.best = self.owner[going], self.which[going], self.best[going]
            self._spread()

    def results(self) -> list[Found]:
        self._report(torch.ones_like(self.owner, dtype=torch.bool))
        return self.found

    def _report(self, which: Tensor) -> None:
        """Writes down the nearest points of these runs."""
        if self.how.untargeted:
            return
        places = which.nonzero()[:, 0]
        places = places[self.best[places].argsort()]
        goals = self.which[places]
        for goal in torch.unique(goals).tolist():
            run = int(places[(goals == goal).to(torch.uint8).argmax()])  # the first of the goal is its best
            place, (disjunct,) = self.aims[goal]
            if math.isfinite(margin := float(self.best[run])):
                self.found[place].nearest[disjunct] = margin, tuple(part[run : run + 1] for part in self.nearest)


def _moved(point: Tensor, gradient: Tensor, width: Tensor, region: Region) -> Tensor:
    """A step of descent: by signs in a box, along the normalised gradient in a ball."""
    if region.is_box:
        return point.detach() - width * gradient.sign()
    shape = (-1, *(1,) * (gradient.ndim - 1))
    norm = rowwise(gradient).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    direction: Tensor = gradient / norm.reshape(shape)
    return point.detach() - rowwise(width).amax(1).reshape(shape) * direction
