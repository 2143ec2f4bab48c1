"""Where the runs of an attack start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from irverify.attacks.protocols import Pgd
from irverify.attacks.targets import Target
from irverify.regions import Region

SAMPLED_AT_ONCE = 20_000
"""How many random points are evaluated together."""
Points = list[Tensor]
"""For each network input `[points, *shape]`."""


def own_starts(regions: Sequence[Region], attack: Pgd, goals: int) -> Points:
    """`[goals * restarts, *shape]` for each input: the centre, then vertices and random points in turn."""
    starts = []
    for region in regions:
        generator = torch.Generator(device=region.device).manual_seed(attack.seed)
        total = goals * attack.restarts
        sampled = region.sample(total, generator)[:, 0]
        if attack.untargeted:
            starts.append(sampled)
            continue
        vertices = region.sample(total, generator, corners=True)[:, 0]
        order = torch.arange(total, device=sampled.device) % attack.restarts
        mask = (order % 2 == 1).reshape(-1, *(1,) * (sampled.ndim - 1))
        first = (order == 0).reshape(mask.shape)
        starts.append(torch.where(first, region.center, torch.where(mask, vertices, sampled)))
    return starts


def given_starts(target: Target) -> tuple[Points, list[int]]:
    """The target's own starting points, projected, and the disjunct of each."""
    parts: list[Points] = []
    owner: list[int] = []
    for disjunct, points in enumerate(target.starts):
        if points and len(points[0]):
            parts.append([_projected(region, part) for region, part in zip(target.regions, points, strict=True)])
            owner += [disjunct] * len(points[0])
    return [torch.cat(same) for same in zip(*parts, strict=True)], owner


def _projected(region: Region, points: Tensor) -> Tensor:
    return region.select(torch.zeros(len(points), dtype=torch.long)).project(points.to(region.device, region.dtype))


def best_of_sample(
    regions: Sequence[Region], attack: Pgd, goals: int, margins: Callable[[Points, Tensor], Tensor]
) -> Points:
    """`[goals * restarts, *shape]` for each input: the most violating of a random sample. `margins(points, which)`
    evaluates the goals `which` `[points]` of this target."""
    generators = [torch.Generator(device=region.device).manual_seed(attack.seed) for region in regions]
    best: Points = []
    for start in range(0, attack.sample, SAMPLED_AT_ONCE):
        count = max(attack.restarts, min(SAMPLED_AT_ONCE, attack.sample - start))
        fresh = [region.sample(count, generator)[:, 0] for region, generator in zip(regions, generators, strict=True)]
        chosen = []
        for goal in range(goals):
            part = slice(goal * attack.restarts, (goal + 1) * attack.restarts)
            pool = [torch.cat([old[part], new]) for old, new in zip(best, fresh, strict=True)] if best else fresh
            which = torch.full((pool[0].shape[0],), goal, device=pool[0].device)
            order = margins(pool, which).argsort()[: attack.restarts]
            chosen.append([points[order] for points in pool])
        best = [torch.cat(parts) for parts in zip(*chosen, strict=True)]
    return best
