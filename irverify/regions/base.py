"""Regions as such, and boxes.

Bounds are computed over `box()` or `lower_of()`, which never leave a point of the set out; `contains`, `project`,
`sample` and `inner` never let a point in that is outside. The two differ by rounding only: x - eps is seldom a float,
so the box hull of a ball is rounded outward, and what an attack may use is rounded inward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from irverify.errors import RegionError
from irverify.rounding import round_down, round_up

Index = int | slice | Sequence[int] | Tensor


class Region(ABC):
    """A closed set of real inputs for each example of a batch, over one tensor [batch, *shape]."""

    is_box: ClassVar[bool]  # whether the set equals its box hull

    @property
    @abstractmethod
    def center(self) -> Tensor:
        """A point in the middle of the region, [batch, *shape]."""

    @property
    def batch(self) -> int:
        return int(self.center.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.center.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.center.dtype

    @property
    def device(self) -> torch.device:
        return self.center.device

    @abstractmethod
    def box(self) -> tuple[Tensor, Tensor]:
        """The box hull (lower, upper), rounded outward: every point of the region lies in it."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Whether `x` lies in the region, with zero tolerance, [batch] of bool. NaN is outside.

        Exact for boxes and Linf; for L2 and L1 a point within rounding of the sphere counts as outside.
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A point of the region near `x`, in the region's type: the nearest of a box, else `x` moved to the centre."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator | None = None, *, corners: bool = False) -> Tensor:
        """`count` random points inside, [count, batch, *shape]; with `corners` vertices or other extreme points."""

    @abstractmethod
    def minimizer(self, coefficients: Tensor) -> Tensor:
        """A point of the region at which `A.x` is least, up to rounding, [batch, *shape]; A is [batch, *shape].

        Coordinates that do not matter stay at the centre.
        """

    @abstractmethod
    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Region:
        """A region on another device or of another type that contains this one: a narrower type rounds outward."""

    @abstractmethod
    def inner(self, dtype: torch.dtype) -> Region:
        """A region of type `dtype` inside this one, for attacks. RegionError where no float of that type fits."""

    @abstractmethod
    def select(self, index: Index) -> Region:
        """The examples at `index`, as a region; an integer gives a batch of one."""

    @abstractmethod
    def as_example(self) -> Region:
        """The same numbers read as one example: a batch axis of one in front."""

    def lower_of(self, coefficients: Tensor) -> Tensor:
        """A lower bound of the minimum of A.x over the region; for boxes it is the minimum, up to rounding.

        A is [batch, spec, *shape] (its batch may be 1) of the region's type, the result [batch, spec].
        """
        lower, upper = self.box()
        matrix = flat_rows(coefficients, lower)
        return apply(matrix.clamp(min=0), lower) + apply(matrix.clamp(max=0), upper)


@dataclass(frozen=True, eq=False)
class Box(Region):
    """lower <= x <= upper, both [batch, *shape], finite, lower <= upper; a point box is legal."""

    lower: Tensor
    upper: Tensor
    is_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        lower, upper = float_tensor("lower", self.lower), float_tensor("upper", self.upper)
        if lower.shape != upper.shape:
            raise RegionError(f"lower has shape {tuple(lower.shape)} but upper has {tuple(upper.shape)}")
        if lower.dtype != upper.dtype:
            raise RegionError(f"lower is {lower.dtype} but upper is {upper.dtype}", hint="convert one of them")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        check_bounds(lower, upper)

    @property
    def center(self) -> Tensor:
        return torch.clamp(self.lower / 2 + self.upper / 2, self.lower, self.upper)

    # What the base class reads off the centre, without computing it.

    @property
    def batch(self) -> int:
        return int(self.lower.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lower.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.lower.dtype

    @property
    def device(self) -> torch.device:
        return self.lower.device

    def box(self) -> tuple[Tensor, Tensor]:
        return self.lower, self.upper

    def contains(self, x: Tensor) -> Tensor:
        check_points(x, self.lower)
        return rowwise((self.lower <= x) & (x <= self.upper)).all(1)

    def project(self, x: Tensor) -> Tensor:
        check_points(x, self.lower)
        return torch.clamp(x.to(self.dtype), self.lower, self.upper)

    def sample(self, count: int, generator: torch.Generator | None = None, *, corners: bool = False) -> Tensor:
        part = uniform((count, *self.lower.shape), self.lower, generator)
        if corners:
            return torch.where(part < 0.5, self.lower, self.upper)
        return torch.clamp(self.lower * (1 - part) + self.upper * part, self.lower, self.upper)

    def minimizer(self, coefficients: Tensor) -> Tensor:
        check_points(coefficients, self.lower)
        side = torch.where(coefficients > 0, self.lower, self.upper)
        return torch.where(coefficients == 0, self.center, side)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Box:
        kind = dtype or self.dtype
        if kind == self.dtype and (device is None or self.device == torch.device(device)):
            return self
        return Box(round_down(self.lower.to(device=device), kind), round_up(self.upper.to(device=device), kind))

    def inner(self, dtype: torch.dtype, *, nearest: bool = False) -> Box:
        """The box of all floats of type `dtype` inside this one.

        A coordinate that holds none is an error, or with `nearest` it is fixed to the float nearest to it, outside by
        less than one unit in the last place: good enough to run a model on.
        """
        lower, upper = round_up(self.lower, dtype), round_down(self.upper, dtype)
        gap = ~(lower <= upper)
        if bool(gap.any()):
            if not nearest:
                where, at = first(gap)
                message = f"no {dtype} number lies between {float(self.lower[at])!r} and {float(self.upper[at])!r}"
                raise RegionError(message, where=where)
            closest = self.center.to(dtype)
            lower, upper = torch.where(gap, closest, lower), torch.where(gap, closest, upper)
        return Box(lower, upper)

    def select(self, index: Index) -> Box:
        return Box(take(self.lower, index), take(self.upper, index))

    def as_example(self) -> Box:
        return Box(self.lower.unsqueeze(0), self.upper.unsqueeze(0))


def float_tensor(name: str, value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        hint = "convert it with .float() or .double()"
        raise RegionError(f"{name} must be a tensor of floats, got {tensor.dtype}", hint=hint)
    if tensor.ndim == 0:
        raise RegionError(f"{name} has no batch axis", hint="the shape is [batch, *shape]")
    return tensor


def check_bounds(lower: Tensor, upper: Tensor) -> None:
    """RegionError naming the first coordinate whose bounds are crossed or not finite."""
    good = (lower <= upper) & torch.isfinite(lower) & torch.isfinite(upper)
    if bool(good.all()):
        return
    where, at = first(~good)
    low, high = float(lower[at]), float(upper[at])
    problem = "crossed bounds, the region is empty" if low > high else "bounds that are not finite"
    raise RegionError(f"{problem}: lower {low!r}, upper {high!r}", where=where)


def first(bad: Tensor) -> tuple[str, tuple[int, ...]]:
    """The first true entry, in words and as an index."""
    at = tuple(int(i) for i in bad.nonzero()[0])
    return f"example {at[0]}, coordinate [{', '.join(map(str, at[1:]))}]", at


def check_points(x: Tensor, like: Tensor) -> None:
    if x.shape != like.shape:
        raise RegionError(f"expected points of shape {tuple(like.shape)}, got {tuple(x.shape)}")


def rowwise(x: Tensor) -> Tensor:
    """`x` `[batch, *shape]` as `[batch, elements]`; an example may be a scalar."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


def flat_rows(coefficients: Tensor, x: Tensor) -> Tensor:
    """Coefficients [batch, spec, *shape] as [batch, spec, n], checked against points like `x`."""
    if coefficients.ndim != x.ndim + 1 or coefficients.shape[2:] != x.shape[1:] or coefficients.dtype != x.dtype:
        expected = f"{[x.shape[0], 'spec', *x.shape[1:]]} of {x.dtype}"
        raise RegionError(f"expected coefficients {expected}, got {list(coefficients.shape)} of {coefficients.dtype}")
    return coefficients.flatten(2) if coefficients.ndim > 2 else coefficients.unsqueeze(2)


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """[batch, spec, n] times [batch, *shape] -> [batch, spec]."""
    return (matrix @ x.reshape(x.shape[0], matrix.shape[2], 1)).squeeze(-1)


def uniform(size: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(size, dtype=like.dtype, device=like.device, generator=generator)


def take(value: Tensor, index: Index) -> Tensor:
    try:
        if isinstance(index, int):
            return value[index].unsqueeze(0)
        return value[index] if isinstance(index, slice) else value[torch.as_tensor(index, device=value.device)]
    except IndexError as error:
        raise RegionError(f"no such example in a batch of {value.shape[0]}: {error}") from None
