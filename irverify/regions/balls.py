"""Norm balls with clipping: Linf (which is a box), L2 and L1."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from irverify.errors import RegionError
from irverify.regions.base import (
    Box,
    Index,
    Region,
    apply,
    check_bounds,
    check_points,
    first,
    flat_rows,
    float_tensor,
    rowwise,
    take,
    uniform,
)
from irverify.regions.extremes import l1_fall, l1_step, l2_fall, l2_step
from irverify.rounding import UNIT, difference, round_down, round_up

Clip = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Ball(Region):
    """|x' - x|_p <= eps, intersected with the box `clip` = (lo, hi) where it is given. The subclasses fix p.

    `x` is [batch, *shape]; `eps` is a number or a tensor that broadcasts to `x` ([batch, 1, ...]: one per example), in
    raw input units. Both `eps` and `clip` are kept as float64, so that 0.1 means 0.1 for a float32 `x` too.
    """

    x: Tensor
    eps: float | Tensor
    clip: Clip | None = None

    def __post_init__(self) -> None:
        x = float_tensor("x", self.x)
        object.__setattr__(self, "x", x)
        if not bool(torch.isfinite(x).all()):
            where, at = first(~torch.isfinite(x))
            raise RegionError(f"the centre is {float(x[at])}, expected a finite number", where=where)
        object.__setattr__(self, "eps", self._radius())
        if self.clip is not None:
            object.__setattr__(self, "clip", self._limits(self.clip))
        check_bounds(*self._hull)

    def _radius(self) -> Tensor:
        eps = torch.as_tensor(self.eps, dtype=torch.float64, device=self.x.device)
        good = (eps >= 0) & torch.isfinite(eps)
        if not bool(good.all()):
            raise RegionError(f"eps must be a finite number >= 0, got {float(eps[~good].flatten()[0])}")
        return _broadcast("eps", eps, self.x)

    def _limits(self, clip: Clip) -> tuple[Tensor, Tensor]:
        if len(clip) != 2:
            raise RegionError(f"clip must be a pair (lo, hi), got {clip!r}")
        sides = [torch.as_tensor(side, dtype=torch.float64, device=self.x.device) for side in clip]
        low, high = (_broadcast("clip", side, self.x) for side in sides)
        if not bool((low <= high).all()):
            hint = "clip=(lo, hi) with lo <= hi"
            raise RegionError(f"clip is crossed or not a number: lo {clip[0]}, hi {clip[1]}", hint=hint)
        return low, high

    @property
    def _eps(self) -> Tensor:
        """eps as float64, [batch, ...] with as many axes as x."""
        assert isinstance(self.eps, Tensor)
        return self.eps

    @cached_property
    def _hull(self) -> tuple[Tensor, Tensor]:
        """The box hull in float64, rounded outward."""
        center = self.x.double()
        lower, upper = difference(center, self._eps, -math.inf), -difference(-center, self._eps, -math.inf)
        if self.clip is not None:
            lower, upper = torch.maximum(lower, self.clip[0]), torch.minimum(upper, self.clip[1])
        return lower, upper

    @property
    def batch(self) -> int:
        return int(self.x.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    def box(self) -> tuple[Tensor, Tensor]:
        return round_down(self._hull[0], self.dtype), round_up(self._hull[1], self.dtype)

    def select(self, index: Index) -> Ball:
        clip = None if self.clip is None else (take(self.clip[0], index), take(self.clip[1], index))
        return replace(self, x=take(self.x, index), eps=take(self._eps, index), clip=clip)

    def as_example(self) -> Ball:
        clip = None if self.clip is None else (self.clip[0].unsqueeze(0), self.clip[1].unsqueeze(0))
        return replace(self, x=self.x.unsqueeze(0), eps=self._eps.unsqueeze(0), clip=clip)

    def _on(self, device: torch.device | str | None) -> Ball:
        if device is None or self.device == torch.device(device):
            return self
        clip = None if self.clip is None else (self.clip[0].to(device), self.clip[1].to(device))
        return replace(self, x=self.x.to(device), eps=self._eps.to(device), clip=clip)


@dataclass(frozen=True, eq=False)
class Linf(Ball):
    """|x' - x|_inf <= eps, clipped: a box, in the tightest form."""

    is_box: ClassVar[bool] = True

    @cached_property
    def _points(self) -> Box:
        """All float64 points of the region: x - eps rounded up, x + eps rounded down."""
        center = self.x.double()
        lower, upper = difference(center, self._eps, math.inf), -difference(-center, self._eps, math.inf)
        if self.clip is not None:
            lower, upper = torch.maximum(lower, self.clip[0]), torch.minimum(upper, self.clip[1])
        return Box(lower, upper)

    @cached_property
    def _inside(self) -> Box:
        return self._points.inner(self.dtype)

    @property
    def center(self) -> Tensor:
        return self._inside.project(self.x)

    def contains(self, x: Tensor) -> Tensor:
        return self._points.contains(x)

    def project(self, x: Tensor) -> Tensor:
        return self._inside.project(x)

    def sample(self, count: int, generator: torch.Generator | None = None, *, corners: bool = False) -> Tensor:
        return self._inside.sample(count, generator, corners=corners)

    def minimizer(self, coefficients: Tensor) -> Tensor:
        return self._inside.minimizer(coefficients)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Region:
        if dtype is None or dtype == self.dtype:
            return self._on(device)
        return Box(*self._hull).to(dtype=dtype, device=device)

    def inner(self, dtype: torch.dtype, *, nearest: bool = False) -> Box:
        return self._points.inner(dtype, nearest=nearest)


@dataclass(frozen=True, eq=False)
class _RoundBall(Ball):
    """What l2 and l1 balls share: bounds by the dual norm, membership with an error term, projection along a ray."""

    is_box: ClassVar[bool] = False
    order: ClassVar[float]
    dual: ClassVar[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.prod(self._eps.shape[1:]) != 1:
            raise RegionError(f"an l{self.order:g} ball has one eps per example, got shape {tuple(self._eps.shape)}")
        if self.clip is not None:
            nearest = torch.clamp(self.x.double(), *self.clip)
            far = ~(self._distance(nearest) <= self._eps.flatten() * (1 + self._slack))
            if bool(far.any()):
                example = int(far.nonzero()[0, 0])
                raise RegionError("the ball has no point inside clip: the region is empty", where=f"example {example}")

    @property
    def _slack(self) -> float:
        """An upper bound of the relative error of `_distance`."""
        return (math.prod(self.shape) + 8) * UNIT

    def _distance(self, x: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(rowwise(x.double() - self.x.double()), ord=self.order, dim=1)
        return distance

    def _per_example(self, value: Tensor) -> Tensor:
        """[batch] -> [batch, 1, ...]."""
        return value.view(-1, *[1] * len(self.shape))

    def _clamp(self, x: Tensor) -> Tensor:
        """`x` clipped and in the region's type."""
        if self.clip is None:
            return x.to(self.dtype)
        return torch.clamp(x.to(self.dtype), round_up(self.clip[0], self.dtype), round_down(self.clip[1], self.dtype))

    @property
    def center(self) -> Tensor:
        return self._clamp(self.x)

    def lower_of(self, coefficients: Tensor) -> Tensor:
        """A.x - eps |A|_q with the dual norm q (Hoelder's inequality, attained when nothing is clipped).

        With `clip` the largest of that, the minimum over the clipped box hull, and a bound over both at once by
        Lagrangian duality, which comes close to the minimum (see `extremes`).
        """
        matrix = flat_rows(coefficients, self.x)
        radius = round_up(self._eps, self.dtype).reshape(-1, 1)
        value = apply(matrix, self.x)
        bound: Tensor = value - radius * torch.linalg.vector_norm(matrix, ord=self.dual, dim=2)
        if self.clip is None:
            return bound
        low, high = (rowwise((end - self.x.double()).to(self.dtype).expand(self.x.shape)) for end in self.clip)
        cut = value + self._fall(matrix, radius.unsqueeze(1), low.unsqueeze(1), high.unsqueeze(1))
        return torch.maximum(torch.maximum(bound, cut), super().lower_of(coefficients))

    def contains(self, x: Tensor) -> Tensor:
        check_points(x, self.x)
        inside: Tensor = self._distance(x) * (1 + self._slack) <= self._eps.flatten()
        if self.clip is None:
            return inside
        within: Tensor = rowwise((self.clip[0] <= x) & (x <= self.clip[1])).all(1)
        return inside & within

    def project(self, x: Tensor) -> Tensor:
        check_points(x, self.x)
        anchor = self.center.double()
        ray = self._clamp(x).double() - anchor
        # The ball of radius eps - |anchor - x| around the anchor lies inside the ball around x, and clip is convex.
        room = (self._eps.flatten() - self._distance(anchor)).clamp(min=0)
        length = torch.linalg.vector_norm(rowwise(ray), ord=self.order, dim=1)
        part = torch.where(length > room, room / length, torch.ones_like(length))
        step = torch.finfo(self.dtype).eps
        while True:
            result = self._clamp(anchor + self._per_example(part) * ray)
            outside = ~self.contains(result)
            if not bool(outside.any()):
                return result
            if not bool(part[outside].any()):
                raise RegionError(f"no {self.dtype} point is known inside the region")
            # Rounding to the region's type has left the ball again: move towards the anchor, faster every time.
            part = torch.where(outside, (part * (1 - step)).clamp(min=0), part)
            step *= 4

    def sample(self, count: int, generator: torch.Generator | None = None, *, corners: bool = False) -> Tensor:
        points = self.x.double() + self._eps * self._ball(count, generator, corners)
        return torch.stack([self.project(point) for point in points]) if count else points.to(self.dtype)

    def _ball(self, count: int, generator: torch.Generator | None, corners: bool) -> Tensor:
        """Random points of the unit ball, or extreme ones, float64 [count, batch, *shape]."""
        size = (count, self.batch, math.prod(self.shape))
        draw = torch.randn(size, dtype=torch.float64, device=self.x.device, generator=generator)
        if corners:
            direction = self._extreme(draw)
        else:
            radius = uniform((count, self.batch, 1), draw, generator) ** (1 / max(1, size[2]))
            direction = radius * self._direction(draw, generator)
        return direction.view(count, *self.x.shape)

    def minimizer(self, coefficients: Tensor) -> Tensor:
        check_points(coefficients, self.x)
        center = self.x.double()
        ends = self.clip or (torch.full_like(center, -math.inf), torch.full_like(center, math.inf))
        low, high = (rowwise((end - center).expand(center.shape)) for end in ends)
        step = self._steepest(rowwise(coefficients.double()), self._eps.reshape(-1, 1), low, high)
        return self.project(center + step.reshape(center.shape))

    @staticmethod
    @abstractmethod
    def _steepest(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The step from the centre that minimises a linear function; see `extremes`."""

    @staticmethod
    @abstractmethod
    def _fall(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """A lower bound of how far a linear function can fall from its value at the centre; see `extremes`."""

    @abstractmethod
    def _direction(self, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        """Points of the unit sphere, uniform by its cone measure, from normal draws [count, batch, n]."""

    @abstractmethod
    def _extreme(self, draw: Tensor) -> Tensor:
        """Extreme points of the unit ball from normal draws."""

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Region:
        same = dtype is None or dtype == self.dtype
        return self._on(device) if dtype is None or same else self._recentred(dtype, outward=True)._on(device)

    def inner(self, dtype: torch.dtype) -> Region:
        return self._recentred(dtype, outward=False)

    def _recentred(self, dtype: torch.dtype, *, outward: bool) -> Ball:
        """The ball around the centre rounded to `dtype`, its radius changed by how far the centre moved."""
        x = self.x.to(dtype)
        shift = self._per_example(self._distance(x) * (1 + self._slack))
        eps = -difference(-self._eps, shift, -math.inf) if outward else difference(self._eps, shift, -math.inf)
        if not bool((eps >= 0).all()):
            raise RegionError(f"no {dtype} point is known inside: eps is smaller than the rounding of the centre")
        return replace(self, x=x, eps=eps)


@dataclass(frozen=True, eq=False)
class L2(_RoundBall):
    """|x' - x|_2 <= eps, clipped."""

    order: ClassVar[float] = 2
    dual: ClassVar[float] = 2

    def _direction(self, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(draw, dim=2, keepdim=True)
        return draw / norm.clamp(min=1e-300)

    def _extreme(self, draw: Tensor) -> Tensor:
        return self._direction(draw, None)

    _steepest = staticmethod(l2_step)
    _fall = staticmethod(l2_fall)


@dataclass(frozen=True, eq=False)
class L1(_RoundBall):
    """|x' - x|_1 <= eps, clipped."""

    order: ClassVar[float] = 1
    dual: ClassVar[float] = math.inf

    def _direction(self, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        size = -torch.log1p(-uniform(tuple(draw.shape), draw, generator))
        return draw.sign() * size / size.sum(2, keepdim=True).clamp(min=1e-300)

    def _extreme(self, draw: Tensor) -> Tensor:
        best = draw.abs().argmax(2, keepdim=True)  # the vertices of an l1 ball are +- e_i
        return torch.zeros_like(draw).scatter(2, best, draw.gather(2, best).sign())

    _steepest = staticmethod(l1_step)
    _fall = staticmethod(l1_fall)


def _broadcast(name: str, value: Tensor, x: Tensor) -> Tensor:
    """`value` with as many axes as `x`: the batch axis in full, the others of size 1 or that of `x`."""
    full = value.reshape(*[1] * max(0, x.ndim - value.ndim), *value.shape)
    if full.ndim != x.ndim or any(a not in (1, b) for a, b in zip(full.shape, x.shape, strict=True)):
        message = f"{name} of shape {tuple(value.shape)} does not broadcast to x of shape {tuple(x.shape)}"
        raise RegionError(message, hint="one value per example has shape [batch, 1, ...]")
    return full.expand(x.shape[0], *full.shape[1:])
