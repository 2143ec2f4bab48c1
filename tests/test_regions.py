"""Regions: hand-computed values, exactness of membership, soundness of bounds, rounding, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.errors import RegionError
from irverify.regions import L1, L2, Ball, Box, Linf, Region, join, regions_for
from irverify.rounding import difference, fraction_above, fraction_below, nearest_float, round_down, round_up

X = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.25]], dtype=torch.float64)
A = torch.tensor([[[1.0, -2.0, 0.0], [3.0, 0.0, 4.0]]], dtype=torch.float64).expand(2, 2, 3)
BALLS = [Linf, L2, L1]


def test_box_bounds_by_hand() -> None:
    box = Box(X - 1, X + 2)
    # row 0, example 0: 1*(-1) - 2*3 = -7; row 1: 3*(-1) + 4*(-3) = -15; example 1: 2 - 2*2.5 = -3; 6 + 4*(-0.75) = 3
    assert box.lower_of(A).tolist() == [[-7, -15], [-3, 3]]


def test_ball_bounds_by_hand() -> None:
    # A.x0 is -2 and -8 at the first example; the dual norms of the rows are 3, 7 (l1), sqrt(5), 5 (l2), 2, 4 (l-inf)
    assert Linf(X, 0.5).lower_of(A)[0].tolist() == [-2 - 1.5, -8 - 3.5]
    assert L2(X, 0.5).lower_of(A)[0].tolist() == pytest.approx([-2 - 0.5 * math.sqrt(5), -8 - 2.5], abs=1e-14)
    assert L1(X, 0.5).lower_of(A)[0].tolist() == [-2 - 1, -8 - 2]


def test_a_clipped_linf_ball_is_a_box() -> None:
    region = Linf(torch.tensor([[0.1, 0.5, 1.0]]), 0.25, clip=(0, 1))
    lower, upper = region.box()
    assert region.is_box
    assert lower.tolist() == [[0.0, 0.25, 0.75]]
    assert upper[0].tolist() == pytest.approx([0.35, 0.75, 1.0])


def test_clipping_tightens_round_balls() -> None:
    row = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    x = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    for ball in (L1, L2):
        assert ball(x, 0.3).lower_of(row).item() == pytest.approx(-0.2)
        assert ball(x, 0.3, clip=(0, 1)).lower_of(row).item() == 0.0


def test_eps_and_clip_broadcast() -> None:
    eps = torch.tensor([[0.5], [0.25]])
    assert Linf(X, eps).box()[0].tolist() == [[-0.5, 0.5, -2.5], [2.75, 0.25, 0.0]]
    assert L2(X, eps).select(1).box()[0].tolist() == [[2.75, 0.25, 0.0]]
    per_coordinate = Linf(X, torch.tensor([0.0, 1.0, 2.0]), clip=(torch.tensor([0.0, 0.0, -3.0]), 9.0))
    assert per_coordinate.box()[0].tolist() == [[0, 0, -3], [3, 0, -1.75]]


def test_a_point_is_a_region() -> None:
    for region in (Box(X, X), Linf(X, 0), L2(X, 0), L1(X, 0.0)):
        assert region.contains(X).all()
        assert torch.equal(region.sample(2)[1], X)
        assert torch.equal(region.project(X + 1), X)
        assert not region.contains(X + 1e-15).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(X, torch.where(X == 1.0, 0.5, X)), r"example 0, coordinate \[1\].*crossed.*lower 1.0, upper 0.5"),
        (lambda: Box(X * math.nan, X), "not finite"),
        (lambda: Box(X, X + math.inf), "not finite"),
        (lambda: Box(X, X[0]), "shape"),
        (lambda: Box(X, X.float()), "float32"),
        (lambda: Box(X.long(), X.long()), "floats"),
        (lambda: Box(torch.tensor(1.0), torch.tensor(2.0)), "batch axis"),
        (lambda: Linf(X, -0.1), "eps must be"),
        (lambda: L2(X, math.nan), "eps must be"),
        (lambda: L1(X, math.inf), "eps must be"),
        (lambda: Linf(X * math.nan, 0.1), "centre is nan"),
        (lambda: Linf(X, torch.zeros(2)), "broadcast"),
        (lambda: Linf(X, 0.1, clip=(1, 0)), "clip is crossed"),
        (lambda: Linf(X, 0.1, clip=(math.nan, 1)), "clip is crossed"),
        (lambda: Linf(X, 0.1, clip=(1,)), "pair"),  # type: ignore[arg-type]
        (lambda: Linf(X, 0.1, clip=(0, 1)), r"coordinate \[2\].*empty"),
        (lambda: L2(torch.tensor([[2.0, 2.0]]), 1.2, clip=(0, 1)), "no point inside clip"),
        (lambda: L1(torch.tensor([[2.0, 2.0]]), 1.9, clip=(0, 1)), "no point inside clip"),
        (lambda: L2(X, torch.ones(3)), "one eps per example"),
        (lambda: Box(X, X).lower_of(A.float()), "coefficients"),
        (lambda: Box(X, X).lower_of(A[..., :2]), "coefficients"),
        (lambda: Box(X, X).contains(X[0]), "points"),
        (lambda: Box(X, X).select(2), "no such example"),
    ],
)
def test_errors(make: object, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        make()  # type: ignore[operator]


@st.composite
def regions(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Region:
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    shape = draw(st.sampled_from([(1,), (4,), (2, 3), (1, 2, 2)]))
    x = torch.rand((draw(st.integers(1, 3)), *shape), generator=generator, dtype=dtype)
    eps = draw(st.sampled_from([0.0, 1e-7, 0.01, 0.3, 2.0]))
    clip = draw(st.sampled_from([None, (0.0, 1.0), (0.1, 0.9)])) if eps > 0.01 else None
    kind = draw(st.sampled_from([Box, Linf, L2, L1]))
    if kind is Box:
        return Box(x - eps, x + eps)
    while True:  # a small ball around a point outside clip may miss it
        try:
            ball: Region = kind(x, eps, clip)
            return ball
        except RegionError:
            eps *= 2


def rows(region: Region, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((region.batch, 5, *region.shape), generator=generator, dtype=torch.float64).to(region.dtype)


@settings(max_examples=60, deadline=None)
@given(regions(), st.booleans())
def test_samples_are_inside_and_bounds_hold(region: Region, corners: bool) -> None:
    points = region.sample(20, torch.Generator().manual_seed(1), corners=corners)
    matrix = rows(region)
    lower = region.lower_of(matrix)
    low, high = region.box()
    for point in points:
        assert region.contains(point).all()
        assert ((low <= point) & (point <= high)).all()
        values = (matrix.flatten(2) @ point.flatten(1).unsqueeze(2)).squeeze(2)
        assert (lower <= values + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(regions())
def test_minimizers_are_inside_and_least(region: Region) -> None:
    """No sample does better, and where nothing is clipped (or the region is a box) the bound is attained."""
    matrix = rows(region)[:, 0]
    point = region.minimizer(matrix)
    assert region.contains(point).all()
    least = (matrix * point).flatten(1).sum(1)
    for sample in region.sample(20, torch.Generator().manual_seed(1), corners=True):
        assert (least <= (matrix * sample).flatten(1).sum(1) + 1e-9).all()
    exact = region.is_box or getattr(region, "clip", None) is None
    bound = region.lower_of(matrix.unsqueeze(1))[:, 0]
    assert torch.allclose(least, bound, rtol=1e-6, atol=1e-9) if exact else (bound <= least + 1e-9).all()


@pytest.mark.parametrize("ball", [L1, L2])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0, 12.0])
def test_bounds_over_clipped_balls_are_close_to_the_minimum(ball: type[L1 | L2], eps: float) -> None:
    """Within a hundredth of how far the function falls, where ball and hull alone are off by up to a half."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 30, generator=generator, dtype=torch.float64).round(decimals=1)
    region = ball(x, eps, clip=(0, 1))
    for power in (1, 6):
        matrix = torch.randn(4, 30, generator=generator, dtype=torch.float64) ** power
        matrix = matrix * torch.randn(4, 30, generator=generator, dtype=torch.float64).sign()
        least, value = (matrix * region.minimizer(matrix)).sum(1), (matrix * x).sum(1)
        bound = region.lower_of(matrix.unsqueeze(1))[:, 0]
        assert bool((bound <= least + 1e-9).all())
        assert bool((least - bound <= 0.01 * (value - least)).all())


@settings(max_examples=60, deadline=None)
@given(regions(), st.floats(0, 5))
def test_projection_lands_inside_and_keeps_what_is_inside(region: Region, noise: float) -> None:
    generator = torch.Generator().manual_seed(2)
    outside = region.center + noise * torch.randn(region.center.shape, generator=generator, dtype=torch.float64)
    assert region.contains(region.project(outside)).all()
    if region.is_box:
        inside = region.sample(1, generator)[0]
        assert torch.equal(region.project(inside), inside)


@settings(max_examples=40, deadline=None)
@given(regions())
def test_rows_that_point_at_one_coordinate_give_the_box(region: Region) -> None:
    count = math.prod(region.shape)
    matrix = torch.eye(count, dtype=torch.float64).view(1, count, *region.shape)
    low, _ = region.box()
    assert (region.lower_of(matrix) >= low.flatten(1) - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(regions())
def test_a_narrower_type_rounds_outward_and_inner_rounds_inward(region: Region) -> None:
    outer = region.to(dtype=torch.float32)
    assert outer.dtype == torch.float32
    for point in region.sample(10, torch.Generator().manual_seed(3), corners=True):
        low, high = outer.box()
        assert ((low.double() <= point) & (point <= high.double())).all()
    try:
        inner = region.inner(torch.float32)
    except RegionError:
        assert not region.contains(region.center.float()).all() or not region.is_box
        return
    for point in inner.sample(10, torch.Generator().manual_seed(4), corners=True):
        assert point.dtype == torch.float32
        assert region.contains(point).all()


@pytest.mark.parametrize("ball", [L1, L2])
def test_the_gradient_of_a_bound_is_the_point_that_attains_it(ball: type[Ball]) -> None:
    # Clipped at 0.2 above: x1 moves to its limit, and x2 spends the rest of the radius, 0.3 of 0.5 in l1.
    region = ball(torch.zeros(1, 2, dtype=torch.float64), 0.5, clip=(-1.0, 0.2))
    row = torch.tensor([[[-2.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(region.lower_of(row).sum(), row)
    rest = 0.3 if ball is L1 else math.sqrt(0.5**2 - 0.2**2)
    assert gradient.flatten().tolist() == pytest.approx([0.2, -rest], abs=1e-6)


def test_linf_holds_its_exact_points_and_no_others() -> None:
    x, eps = torch.tensor([[0.3]], dtype=torch.float64), 0.1
    region = Linf(x, eps)
    end = Fraction(0.3) - Fraction(0.1)
    assert Fraction(region.box()[0].item()) <= end
    inside = region.project(x - 1)
    assert Fraction(inside.item()) >= end
    assert region.contains(inside).all()
    assert not region.contains(torch.nextafter(inside, inside - 1)).any()


def test_float32_linf_means_the_decimal_eps() -> None:
    x = torch.tensor([[0.7]])
    low, high = Linf(x, 0.1).box()
    exact = Fraction(x.item()) - Fraction(0.1), Fraction(x.item()) + Fraction(0.1)
    assert Fraction(low.item()) <= exact[0] <= Fraction(torch.nextafter(low, low + 1).item())
    assert Fraction(torch.nextafter(high, high - 1).item()) <= exact[1] <= Fraction(high.item())


def test_inner_of_a_coordinate_without_a_float() -> None:
    point = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    with pytest.raises(RegionError, match=r"coordinate \[0\]: no torch.float32 number"):
        Box(point, point).inner(torch.float32)
    nearest = Box(point, point).inner(torch.float32, nearest=True)
    assert nearest.box()[0].tolist() == [[torch.tensor(0.1).item(), 0.5]]


@pytest.mark.parametrize("ball", BALLS)
def test_bounds_are_differentiable_in_the_centre(ball: type[Ball]) -> None:
    x = torch.tensor([[0.1, 0.7]], requires_grad=True)
    region = ball(x, 0.1)
    (region.lower_of(torch.ones(1, 1, 2)).sum() + region.box()[0].sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 2.0]]


def test_select_and_example() -> None:
    for region in (Box(X, X + 1), L2(X, torch.tensor([[0.5], [1.0]]), clip=(-9, 9)), Linf(X, 0.5, clip=(-9, 9))):
        assert region.select([1]).box()[1].tolist() == region.box()[1][1:].tolist()
        assert region.select(torch.zeros(4, dtype=torch.long)).batch == 4
        assert region.select(slice(0, 1)).batch == 1
        assert region.as_example().shape == (2, 3) if not isinstance(region, L2) else True


def test_regions_for() -> None:
    one, two = Box(X, X), Linf(X[:, :2], 0.1)
    assert regions_for(one, ["x"], [(3,)]) == (one,)
    assert regions_for([one, two], ["x", "z"], [(3,), (2,)]) == (one, two)
    assert regions_for({"z": two, "x": one}, ["x", "z"], [(3,), (2,)]) == (one, two)
    (example,) = regions_for(one, ["x"], [(2, 3)])
    assert (example.batch, example.shape) == (1, (2, 3))


@pytest.mark.parametrize(
    ("given_", "names", "shapes", "message"),
    [
        (Box(X, X), ["x"], [(4,)], r"input x: expected \[4\]"),
        (Box(X, X), ["x", "z"], [(3,), (3,)], "expected 2"),
        ({"y": Box(X, X)}, ["x"], [(3,)], "got \\['y'\\]"),
        ([Box(X, X), Box(X[:1], X[:1])], ["x", "z"], [(3,), (3,)], "unequal batch"),
        ([X], ["x"], [(3,)], "got Tensor"),
    ],
)
def test_regions_for_errors(given_: object, names: list[str], shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(RegionError, match=message):
        regions_for(given_, names, shapes)  # type: ignore[arg-type]


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
)
def test_round_down_and_up_enclose(value: float, dtype: torch.dtype) -> None:
    exact = torch.tensor([value], dtype=torch.float64)
    low, high = round_down(exact, dtype), round_up(exact, dtype)
    assert low.double().item() <= value <= high.double().item()
    assert low == high or torch.nextafter(low, torch.full_like(low, math.inf)) == high


@given(*[st.floats(-1e200, 1e200)] * 2)
def test_difference_encloses(a: float, b: float) -> None:
    left, right = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    low, high = difference(left, right, -math.inf).item(), difference(left, right, math.inf).item()
    exact = Fraction(a) - Fraction(b)
    assert Fraction(low) <= exact <= Fraction(high)
    assert low == high or math.nextafter(low, math.inf) == high


@given(st.fractions())
def test_fractions_are_enclosed(value: Fraction) -> None:
    low, high = fraction_below(value), fraction_above(value)
    assert Fraction(low) <= value <= Fraction(high)
    assert nearest_float(value) in (low, high)


def test_fractions_beyond_the_range() -> None:
    huge = Fraction(10) ** 400
    assert (fraction_above(huge), fraction_below(-huge)) == (math.inf, -math.inf)
    assert fraction_below(huge) == math.nextafter(math.inf, 0)


@pytest.mark.parametrize("kind", ["box", "inf", "2", "1"])
@pytest.mark.parametrize("clipped", [False, True])
def test_joined_regions_are_the_same_examples(kind: str, clipped: bool) -> None:
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clip = (0.0, torch.ones(3)) if clipped else None
    eps = torch.linspace(0.1, 0.5, 5)[:, None]
    balls: dict[str, Callable[..., Region]] = {"inf": Linf, "2": L2, "1": L1}
    whole: Region = Box(x, x + eps) if kind == "box" else balls[kind](x, eps, clip=clip)
    parts = [whole.select([0, 1]), whole.select(2), whole.select([3, 4])]
    joined = join(parts)
    assert type(joined) is type(whole) and joined.batch == 5
    for one, other in zip(joined.box(), whole.box(), strict=True):
        assert torch.equal(one, other)
    rows = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(joined.lower_of(rows), whole.lower_of(rows), rtol=1e-13)


def test_regions_of_two_kinds_are_not_joined() -> None:
    x = torch.zeros(1, 2)
    for other in (L2(x, 0.1), Linf(torch.zeros(1, 3), 0.1), Linf(x.double(), 0.1), Linf(x, 0.1, clip=(0, 1))):
        with pytest.raises(RegionError, match="expected regions"):
            join([Linf(x, 0.1), other])
