"""Facts about the values of a graph, for a batch of input regions: bounds, stability, and estimates, which are none.

Bounds are computed in the element type of the value, in round-to-nearest arithmetic: they hold up to rounding.
Whoever turns one into a verdict compares with a margin that covers that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from irverify.errors import UsageError
from irverify.kernels.bounds import ordered

GIVEN = "given"
"""The source of bounds that a user has injected."""
ROUNDING = 1e4
"""How many units in the last place of a value's magnitude bounds may cross and still count as equal up to rounding."""


class BoundsFault(RuntimeError):
    """An analysis gave NaN, crossed or contradictory bounds: a fault of that analysis, and never a verdict."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """`lower <= value <= upper` for every input of the region, both `[batch, *shape]`, closed; -inf and inf: no bound.

    `source` names the analyses that they come from, such as `ibp` or `given & crown`.
    """

    lower: Tensor
    upper: Tensor
    source: str

    @property
    def width(self) -> Tensor:
        """`upper - lower`, `[batch, *shape]`."""
        return self.upper - self.lower

    @cached_property
    def ordered(self) -> bool:
        """Whether lower <= upper everywhere, and none is infinite on the wrong side (an overflow); NaN fails."""
        lower, upper = self.lower, self.upper
        if lower.requires_grad or upper.requires_grad:
            lower, upper = lower.detach(), upper.detach()
        at_once = ordered(lower, upper)
        if at_once is not None:
            return at_once
        # The minimum is several times faster than a comparison. Equal infinities fail it.
        if lower.is_floating_point() and lower.numel() and float((upper - lower).min()) >= 0:
            return True
        return not bool(_wrong(lower, upper).any())

    def assume_ordered(self) -> None:
        """Says that they are `ordered`, for who knows it without looking."""
        self.__dict__["ordered"] = True

    def check(self, name: str) -> None:
        """Raises BoundsFault (UsageError for given bounds) unless they are `ordered`."""
        if self.ordered:
            return
        bad = _wrong(self.lower, self.upper)
        message = f"bounds of %{name} from {self.source}: {_first(bad, self.lower, self.upper)}"
        raise UsageError(message) if self.source == GIVEN else BoundsFault(message)

    def meet(self, other: Bounds, name: str, coarsest: torch.dtype | None = None) -> Bounds:
        """The intersection. Raises BoundsFault, or UsageError where given bounds are concerned, where it is empty.

        Where the two miss each other by no more than rounding, the gap between them is the intersection. `coarsest` is
        the element type that rounded the most in what they come from; None: their own.
        """
        if self.lower is other.lower and self.upper is other.upper:
            return self
        source = _joined(self.source, other.source)
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        crossed = ~(lower <= upper)
        if bool(crossed.any()):
            slack = ROUNDING * torch.finfo(coarsest or lower.dtype).eps * _magnitude(self, other)
            far = ~(lower - upper <= slack)
            if bool(far.any()):
                message = f"bounds of %{name} from {self.source} and from {other.source} contradict each other"
                detail = f"{message}: {_first(far, lower, upper)}"
                raise UsageError(detail) if GIVEN in source.split(" & ") else BoundsFault(detail)
            lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
        return Bounds(lower, upper, source)


def _wrong(lower: Tensor, upper: Tensor) -> Tensor:
    return ~((lower <= upper) & (lower < math.inf) & (upper > -math.inf))


def _joined(first: str, second: str) -> str:
    return " & ".join(dict.fromkeys([*first.split(" & "), *second.split(" & ")]))


def _magnitude(first: Bounds, second: Bounds) -> Tensor:
    """The greatest finite magnitude of the bounds of each example, at least 1, shaped to broadcast."""
    ends = torch.stack([first.lower, first.upper, second.lower, second.upper], dim=1).detach().flatten(1)
    return ends.abs().nan_to_num(nan=0.0, posinf=0.0).amax(1).clamp(min=1.0).reshape(-1, *(1,) * (first.lower.ndim - 1))


def _first(bad: Tensor, lower: Tensor, upper: Tensor) -> str:
    at = tuple(bad.nonzero()[0].tolist())
    coordinate = ", ".join(map(str, at[1:]))
    return f"lower {lower[at].item()!r}, upper {upper[at].item()!r} at example {at[0]}, coordinate [{coordinate}]"


@dataclass(frozen=True, eq=False)
class Stability:
    """On which piece each element of a piecewise linear activation is certain to be, for every input of the region.

    `piece` `[batch, *shape]` (int8) counts the pieces from the left, -1 where more than one is possible. `slopes` are
    the slopes of the pieces. For a ReLU: piece 0 where u <= 0 (inactive), piece 1 where l >= 0 (active), else -1
    (unstable).
    """

    piece: Tensor
    slopes: tuple[float, ...]

    @property
    def unstable(self) -> Tensor:
        """More than one piece is possible."""
        return self.piece < 0

    @property
    def active(self) -> Tensor:
        """Certain to be on a steepest piece."""
        return self._on(steepest=True)

    @property
    def inactive(self) -> Tensor:
        """Certain to be on a piece that is flatter than the steepest: for ReLU the zero, for clip the two constants."""
        return self._on(steepest=False)

    def _on(self, *, steepest: bool) -> Tensor:
        top = max(map(abs, self.slopes))
        chosen = [index for index, slope in enumerate(self.slopes) if (abs(slope) == top) == steepest]
        return torch.isin(self.piece, torch.tensor(chosen, dtype=self.piece.dtype, device=self.piece.device))

    def counts(self) -> tuple[int, int, int]:
        """How many elements of the whole batch are active, inactive, unstable."""
        return int(self.active.sum()), int(self.inactive.sum()), int(self.unstable.sum())


@dataclass(frozen=True, eq=False)
class Estimate:
    """A guess of the range of a value over the region, `[batch, *shape]` each. Nothing holds: not a bound, and never
    the reason of a verdict. `source` names the estimator."""

    lower: Tensor
    upper: Tensor
    source: str


@dataclass(frozen=True, eq=False)
class Facts:
    """What one analysis found out: bounds by value, stability by activation (both by name), and numbers of its own.

    An estimator gives `estimates` by value instead, and no bounds. `leans` is how values lean, `[batch, *shape]`, that
    functions with a kink at 0 read: above 0 where adaptive slopes are those to the right of it (see `relaxed`).
    """

    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    stability: Mapping[str, Stability] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    statistics: Mapping[str, int | float] = field(default_factory=dict)
    leans: Mapping[str, Tensor] = field(default_factory=dict)
