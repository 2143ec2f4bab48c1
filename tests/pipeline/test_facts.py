"""Bounds: checked, intersected, never silently contradictory."""

from __future__ import annotations

import pytest
import torch

from irverify.errors import UsageError
from irverify.pipeline import Bounds, BoundsFault


def bounds(lower: list[float], upper: list[float], source: str = "ibp", dtype: torch.dtype = torch.float64) -> Bounds:
    return Bounds(torch.tensor([lower], dtype=dtype), torch.tensor([upper], dtype=dtype), source)


def test_intersection() -> None:
    met = bounds([0, -1], [2, 1]).meet(bounds([1, -2], [3, 0], "crown"), "y")
    assert met.lower.tolist() == [[1, -1]]
    assert met.upper.tolist() == [[2, 0]]
    assert met.source == "ibp & crown"
    assert met.width.tolist() == [[1, 1]]


def test_sources_are_named_once() -> None:
    met = bounds([0], [1], "ibp & given").meet(bounds([0], [1], "crown & ibp"), "y")
    assert met.source == "ibp & given & crown"


def test_a_gap_within_rounding_is_the_intersection() -> None:
    met = bounds([0], [1]).meet(bounds([1 + 1e-14], [2], "crown"), "y")
    assert (met.lower.item(), met.upper.item()) == (1.0, 1 + 1e-14)
    single = bounds([0], [1], dtype=torch.float32).meet(bounds([1 + 1e-5], [2], "crown", torch.float32), "y")
    assert bool(single.lower <= single.upper)


def test_rounding_is_relative_to_the_magnitude_of_the_value() -> None:
    met = bounds([0, -1e6], [1, 1e6]).meet(bounds([1 + 1e-8, -1e6], [2, 1e6], "crown"), "y")
    assert bool((met.lower <= met.upper).all())
    with pytest.raises(BoundsFault):
        bounds([0], [1]).meet(bounds([1 + 1e-8], [2], "crown"), "y")


def test_rounding_of_a_scalar() -> None:
    below, above = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 2.0]).double()
    met = Bounds(below, above, "ibp").meet(Bounds(above + 1e-14, above + 1, "crown"), "y")
    assert met.lower.tolist() == above.tolist()


def test_contradicting_analyses_are_a_fault() -> None:
    message = r"%y from ibp and from crown contradict each other: lower 2.0, upper 1.0 at example 0, coordinate \[1\]"
    with pytest.raises(BoundsFault, match=message):
        bounds([0, 0], [1, 1]).meet(bounds([0, 2], [1, 3], "crown"), "y")


def test_contradicting_given_bounds_are_the_users_error() -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        bounds([0], [1], "given").meet(bounds([2], [3]), "y")


@pytest.mark.parametrize("bad", [bounds([1], [0]), bounds([float("nan")], [0]), bounds([0], [float("nan")])])
def test_crossed_and_nan_bounds_are_a_fault(bad: Bounds) -> None:
    with pytest.raises(BoundsFault, match="bounds of %y from ibp: lower"):
        bad.check("y")
    with pytest.raises(UsageError):
        Bounds(bad.lower, bad.upper, "given").check("y")
    with pytest.raises(BoundsFault):
        bad.meet(bounds([-5], [5], "crown"), "y")


def test_infinities_on_the_wrong_side_are_an_overflow() -> None:
    infinity = float("inf")
    assert bounds([-infinity, 0, -infinity], [0, infinity, infinity]).ordered
    assert not bounds([0, infinity], [0, infinity]).ordered
    assert not bounds([0, -infinity], [0, -infinity]).ordered
    with pytest.raises(BoundsFault, match="lower inf"):
        bounds([0, infinity], [0, infinity]).check("y")
    assert not bounds([infinity], [-infinity]).ordered
    assert not bounds([0, float("nan")], [infinity, float("nan")]).ordered
    assert Bounds(torch.zeros(0, 2), torch.zeros(0, 2), "ibp").ordered


def test_infinite_bounds_are_legal() -> None:
    wide = bounds([-float("inf")], [float("inf")])
    wide.check("y")
    met = wide.meet(bounds([0], [1]), "y")
    assert (met.lower.item(), met.upper.item()) == (0, 1)
