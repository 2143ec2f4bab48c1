"""One region of several: examples that came apart, as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from irverify.errors import RegionError
from irverify.regions.balls import Ball
from irverify.regions.base import Box, Region


def join(regions: Sequence[Region]) -> Region:
    """The examples of all regions, one region after the other, as one batch.

    RegionError unless all are of one kind, shape and element type, and all or none are clipped.
    """
    first = regions[0]
    if len(regions) == 1:
        return first
    for other in regions[1:]:
        if type(other) is not type(first) or other.shape != first.shape or other.dtype != first.dtype:
            raise RegionError(f"expected regions of one kind, got {_named(first)} and {_named(other)}")
    if isinstance(first, Box):
        boxes = [region.box() for region in regions]
        return Box(torch.cat([lower for lower, _ in boxes]), torch.cat([upper for _, upper in boxes]))
    assert isinstance(first, Ball)
    balls = [region for region in regions if isinstance(region, Ball)]
    clips = [ball.clip for ball in balls if ball.clip is not None]
    if len(clips) not in (0, len(balls)):
        raise RegionError("expected regions that are all clipped or none, got both")
    clip = (_joined([low for low, _ in clips]), _joined([high for _, high in clips])) if clips else None
    eps = _joined([torch.as_tensor(ball.eps) for ball in balls])
    return replace(first, x=torch.cat([ball.x for ball in balls]), eps=eps, clip=clip)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors `[batch, ...]` whose other axes may be 1 in some, one after the other."""
    shape = torch.broadcast_shapes(*(part.shape[1:] for part in parts))
    return torch.cat([part.expand(part.shape[0], *shape) for part in parts])


def _named(region: Region) -> str:
    return f"{type(region).__name__} {list(region.shape)} of {region.dtype}"
