"""Attacks: searches for a point of the region at which a property is violated. What they find are candidates, no
verdicts.

A candidate becomes a counterexample only when it is replayed on the source model (`irverify.verify.replay`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.passes.chords import Mixed
from irverify.pipeline.facts import Bounds
from irverify.properties import Property
from irverify.regions import Region

SAMPLED_AT_ONCE = 20_000
"""How many random points are evaluated together."""
Candidate = tuple[Tensor, ...]
"""One point for each network input, `[1, *shape]`, in the graph's element type."""


@dataclass(frozen=True)
class Pgd:
    """Projected gradient descent on the margin of each disjunct (Madry et al. 2018), from the centre, from vertices
    and from random points.

    `steps` per run, `restarts` runs for each disjunct, `step` as a fraction of the region's half width, shrinking by
    `decay` each step; `seed` fixes the random starts. Over the first part `chords` of the steps activations are mixed
    with the chords over their pre-activation bounds, which fade out: this leads across flat parts of the network.
    With `sample` the runs start from the most violating of so many random points.
    """

    steps: int = 40
    restarts: int = 8
    step: float = 0.5
    decay: float = 0.93
    seed: int = 0
    chords: float = 0.0
    sample: int = 0

    def __str__(self) -> str:
        """In the words of a pipeline: `pgd{steps=40,restarts=8}`."""
        extra = [f",{name}={number:g}" for name, number in (("chords", self.chords), ("sample", self.sample)) if number]
        return f"pgd{{steps={self.steps},restarts={self.restarts}{''.join(extra)}}}"


@dataclass(frozen=True)
class Rows:
    """The disjuncts of a property as one stack of rows: the margin of disjunct k is the largest margin of its rows
    `A_i x + C_i y + d_i`, and the disjunct is satisfied (the property violated) where that is <= 0."""

    outputs: Tensor  # [disjuncts, rows, n_out]; padded rows repeat the first one
    inputs: Tensor | None  # [disjuncts, rows, n_in]
    offset: Tensor  # [disjuncts, rows]

    @staticmethod
    def of(prop: Property, dtype: torch.dtype, device: torch.device) -> Rows:
        width = max(disjunct.offset.shape[0] for disjunct in prop.disjuncts)

        def stacked(parts: Sequence[Tensor]) -> Tensor:
            padded = [torch.cat([part, part[:1].expand(width - part.shape[0], *part.shape[1:])]) for part in parts]
            return torch.stack(padded).to(device=device, dtype=dtype)

        mixed = [disjunct.inputs for disjunct in prop.disjuncts]
        columns = max((part.shape[1] for part in mixed if part is not None), default=0)
        inputs = None
        if columns:
            inputs = stacked([
                part if part is not None else disjunct.offset.new_zeros(disjunct.offset.shape[0], columns)
                for part, disjunct in zip(mixed, prop.disjuncts, strict=True)
            ])
        return Rows(
            stacked([disjunct.outputs for disjunct in prop.disjuncts]),
            inputs,
            stacked([disjunct.offset for disjunct in prop.disjuncts]),
        )

    def margins(self, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        """The margin of disjunct `which[b]` at each example: x `[batch, n_in]`, y `[batch, n_out]` -> `[batch]`."""
        rows = torch.einsum("bro,bo->br", self.outputs[which], y) + self.offset[which]
        if self.inputs is not None:
            rows = rows + torch.einsum("bri,bi->br", self.inputs[which], x)
        return rows.amax(dim=1)


def pgd(
    graph: Graph,
    regions: Sequence[Region],
    prop: Property,
    attack: Pgd,
    accept: Callable[[Candidate], bool],
    deadline: float | None = None,
    bounds: Mapping[str, Bounds] | None = None,
) -> Candidate | None:
    """The first candidate that violates `prop` in the graph's own arithmetic and that `accept` agrees to.

    `regions` (one for each network input, a batch of one) must be inner regions in the graph's element type: every
    point that is tried lies inside. `deadline` is a time of `time.monotonic`; `bounds` of the graph's values are what
    an attack with chords takes these from. None where nothing was found, which proves nothing.
    """
    names = [node.name for node in graph.inputs]
    center = regions[0].center
    rows = Rows.of(prop, center.dtype, center.device)
    disjuncts = len(prop.disjuncts)
    points = _best_of_sample(graph, regions, rows, attack) if attack.sample else _starts(regions, attack, disjuncts)
    runs = points[0].shape[0]
    which = torch.arange(disjuncts, device=center.device).repeat_interleave(runs // disjuncts)
    widths = [(region.box()[1] - region.box()[0]) / 2 for region in regions]
    spread = [_repeat(region, runs) for region in regions]
    step = attack.step
    mixed = Mixed(graph, bounds) if attack.chords and bounds else None
    for iteration in range(attack.steps + 1):
        free = [point.detach().requires_grad_(True) for point in points]
        share = max(0.0, 1 - iteration / (attack.chords * attack.steps)) if mixed is not None and mixed.any else 0.0
        if mixed is not None and share:
            with torch.no_grad():
                found = _accepted(free, _margins(graph, rows, names, free, which), accept)
            mixed.fade(share)
            margins = _margins(mixed.graph, rows, names, free, which)
        else:
            margins = _margins(graph, rows, names, free, which)
            found = _accepted(free, margins.detach(), accept)
        if found is not None or iteration == attack.steps or (deadline is not None and time.monotonic() > deadline):
            return found
        if not margins.requires_grad:  # nothing between inputs and margins has a slope, such as a step
            return None
        gradients: Sequence[Tensor | None] = torch.autograd.grad(margins.sum(), free, allow_unused=True)
        points = [
            point if gradient is None else region.project(_moved(point, gradient, width * step, region))
            for point, gradient, width, region in zip(free, gradients, widths, spread, strict=True)
        ]
        step *= attack.decay
    return None


def _margins(graph: Graph, rows: Rows, names: Sequence[str], points: Sequence[Tensor], which: Tensor) -> Tensor:
    """The margin of disjunct `which[b]` at each point, `[batch]`."""
    values = graph.values(dict(zip(names, points, strict=True)))
    outputs = torch.cat([values[name].reshape(len(values[name]), -1) for name in graph.outputs], dim=1)
    return rows.margins(torch.cat([point.reshape(len(point), -1) for point in points], dim=1), outputs, which)


def _accepted(points: Sequence[Tensor], margins: Tensor, accept: Callable[[Candidate], bool]) -> Candidate | None:
    """The first of the most violating points that `accept` agrees to; a few are offered, since each may cost a
    replay."""
    for index in margins.argsort()[:3].tolist():
        if not float(margins[index]) <= 0:
            return None
        candidate = tuple(point[index : index + 1].detach() for point in points)
        if accept(candidate):
            return candidate
    return None


def _moved(point: Tensor, gradient: Tensor, width: Tensor, region: Region) -> Tensor:
    """A step of descent: by signs in a box, along the normalised gradient in a ball."""
    if region.is_box:
        return point.detach() - width * gradient.sign()
    norm = gradient.reshape(len(gradient), -1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    direction: Tensor = gradient / norm.reshape(-1, *(1,) * (gradient.ndim - 1))
    return point.detach() - width.amax() * direction


def _starts(regions: Sequence[Region], attack: Pgd, disjuncts: int) -> list[Tensor]:
    """Starting points `[disjuncts * restarts, *shape]` for each input: the centre, then vertices and random points."""
    starts = []
    for region in regions:
        generator = torch.Generator(device=region.center.device).manual_seed(attack.seed)
        total = disjuncts * attack.restarts
        sampled = region.sample(total, generator)[:, 0]
        vertices = region.sample(total, generator, corners=True)[:, 0]
        order = torch.arange(total, device=sampled.device) % attack.restarts
        mask = (order % 2 == 1).reshape(-1, *(1,) * (sampled.ndim - 1))
        first = (order == 0).reshape(mask.shape)
        starts.append(torch.where(first, region.center, torch.where(mask, vertices, sampled)))
    return starts


def _best_of_sample(graph: Graph, regions: Sequence[Region], rows: Rows, attack: Pgd) -> list[Tensor]:
    """Starting points `[disjuncts * restarts, *shape]` for each input: the most violating of a random sample."""
    names = [node.name for node in graph.inputs]
    generators = [torch.Generator(device=region.center.device).manual_seed(attack.seed) for region in regions]
    best: list[Tensor] = []
    for start in range(0, attack.sample, SAMPLED_AT_ONCE):
        count = max(attack.restarts, min(SAMPLED_AT_ONCE, attack.sample - start))
        fresh = [region.sample(count, generator)[:, 0] for region, generator in zip(regions, generators, strict=True)]
        chosen = []
        for disjunct in range(rows.offset.shape[0]):
            part = slice(disjunct * attack.restarts, (disjunct + 1) * attack.restarts)
            pool = [torch.cat([old[part], new]) for old, new in zip(best, fresh, strict=True)] if best else fresh
            which = torch.full((pool[0].shape[0],), disjunct, device=pool[0].device)
            with torch.no_grad():
                order = _margins(graph, rows, names, pool, which).argsort()[: attack.restarts]
            chosen.append([points[order] for points in pool])
        best = [torch.cat(parts) for parts in zip(*chosen, strict=True)]
    return best


def _repeat(region: Region, runs: int) -> Region:
    return region.select(torch.zeros(runs, dtype=torch.long))
