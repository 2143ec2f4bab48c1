"""Regions for the inputs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from irverify.errors import RegionError
from irverify.regions.base import Region


def regions_for(
    given: Region | Sequence[Region] | Mapping[str, Region], names: Sequence[str], shapes: Sequence[Sequence[int]]
) -> tuple[Region, ...]:
    """One region for each input of a network, in the order of `names`; `shapes` are without the batch axis.

    `given` is one region (for a network with one input), a sequence in that order, or a mapping from input names. A
    region over a tensor of exactly an input's shape is read as one example. RegionError for a wrong number, name, shape
    or type, and for unequal batches.
    """
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise RegionError(f"expected a region for each of the inputs {list(names)}, got {sorted(given)}")
        listed = [given[name] for name in names]
    else:
        listed = [given] if isinstance(given, Region) else list(given)
    if len(listed) != len(names):
        raise RegionError(f"expected {len(names)} region(s) for the inputs {list(names)}, got {len(listed)}")
    regions = tuple(_fitted(region, name, shape) for region, name, shape in zip(listed, names, shapes, strict=True))
    if len({region.batch for region in regions}) > 1:
        raise RegionError(f"regions of unequal batch: {[region.batch for region in regions]}")
    return regions


def _fitted(region: Region, name: str, shape: Sequence[int]) -> Region:
    if not isinstance(region, Region):
        raise RegionError(f"expected a region, got {type(region).__name__}", where=f"input {name}")
    if region.shape == tuple(shape):
        return region
    if (region.batch, *region.shape) == tuple(shape):
        return region.as_example()
    message = f"expected {list(shape)} or {['batch', *shape]}, got {[region.batch, *region.shape]}"
    raise RegionError(message, where=f"input {name}")
