"""What values executions of a network take: bounds have to leave room for them, and no program settles their sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from irverify.backends.milp.expressions import Affine
from irverify.backends.milp.model import Flags, Floats, Indices
from irverify.ir.graph import Graph
from irverify.regions import Region

SAMPLES = 32
"""Random points that every search starts with."""
STEPS = (2.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.125)
"""Step sizes of the ascent, in radii: the first one goes to a corner."""
ROWS = 256
"""How many ascents run at once."""


@dataclass
class Witnesses:
    """The least and the greatest value of each element, by value name, over all executions so far.

    They are real executions of the float64 network at points of the regions (up to rounding).
    """

    graph: Graph
    regions: Sequence[Region]
    seed: int = 0
    low: dict[str, Floats] = field(default_factory=dict)
    high: dict[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.regions = [region.to(dtype=torch.float64) for region in self.regions]
        points = []
        for region in self.regions:
            lower, upper = region.box()
            share = torch.rand((SAMPLES, *lower.shape[1:]), generator=generator, dtype=torch.float64)
            points.append(self._moved(region, lower + share * (upper - lower)))
        self._learn(self._values(points))

    def search(self, name: str, elements: Indices) -> None:
        """Ascends and descends in these elements of a value."""
        if not elements.size:
            return
        both = torch.from_numpy(np.concatenate([elements, elements]))
        signs = torch.ones(len(both), dtype=torch.float64)
        signs[len(elements) :] = -1.0
        for part, sign in zip(both.split(ROWS), signs.split(ROWS), strict=True):
            self._ascend(name, part, sign)

    def ranges(self, name: str, value: Affine, columns: Indices) -> tuple[Floats, Floats]:
        """What the variables `columns` (sorted) behind a value have been, least and greatest."""
        low, high = np.full(len(columns), np.inf), np.full(len(columns), -np.inf)
        places = np.searchsorted(columns, value.columns)
        known = (value.scale != 0) & (places < len(columns))
        known[known] = columns[places[known]] == value.columns[known]
        ends = [(side[name][known] - value.shift[known]) / value.scale[known] for side in (self.low, self.high)]
        np.minimum.at(low, places[known], np.minimum(*ends))
        np.maximum.at(high, places[known], np.maximum(*ends))
        return low, high

    def _ascend(self, name: str, elements: Tensor, signs: Tensor) -> None:
        points = [region.center.expand(len(elements), *region.shape) for region in self.regions]
        for step in STEPS:
            inputs = [point.detach().requires_grad_() for point in points]
            values = self._values(inputs)
            self._learn(values)
            rows = values[name].reshape(len(elements), -1).gather(1, elements[:, None])[:, 0]
            slopes: tuple[Tensor | None, ...] = torch.autograd.grad((rows * signs).sum(), inputs, allow_unused=True)
            points = [
                point if slope is None else self._moved(region, point.detach() + step * _radius(region) * slope.sign())
                for region, point, slope in zip(self.regions, points, slopes, strict=True)
            ]
        self._learn(self._values(points))

    def _moved(self, region: Region, points: Tensor) -> Tensor:
        """Points moved into a region of one example."""
        if region.is_box:
            lower, upper = region.box()
            return torch.minimum(torch.maximum(points, lower), upper)
        return torch.cat([region.project(point[None]) for point in points])

    def _values(self, points: Sequence[Tensor]) -> dict[str, Tensor]:
        return self.graph.values(dict(zip((node.name for node in self.graph.inputs), points, strict=True)))

    def _learn(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if value.is_floating_point():
                flat = value.detach().reshape(value.shape[0], -1)
                low, high = flat.amin(0).numpy(), flat.amax(0).numpy()
                self.low[name] = np.fmin(self.low.get(name, low), low)
                self.high[name] = np.fmax(self.high.get(name, high), high)


def _radius(region: Region) -> Tensor:
    lower, upper = region.box()
    return (upper - lower) / 2


def open_sides(knots: Floats, seen: tuple[Floats, Floats]) -> Flags:
    """`[targets, 2]`: whether the lower and the upper bound of a target may still settle on which side of its knot it
    is, given the least and the greatest value that it has had. NaN as a knot leaves both open."""
    return np.stack([~(seen[0] < knots), ~(seen[1] > knots)], axis=1)
