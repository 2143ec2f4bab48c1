"""Compiled steps over rows against PyTorch's operations, by hand and at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from irverify.ir.ops.padding import pad_spatial
from irverify.ir.ops.scatter import Steps, scatter
from irverify.kernels import available, bounds, columns, native, rows
from irverify.kernels.ascent import climb
from irverify.kernels.folding import fold
from irverify.kernels.rows import Frame, Spots
from irverify.passes import ascent
from irverify.passes.adjoints import constants
from irverify.passes.ascent import Adam
from irverify.passes.bent import Lines
from irverify.passes.curves import kinked
from irverify.passes.forms import Dense, Patches, minimum
from irverify.passes.half_relu import Parallel, Zero
from irverify.passes.lines import Choice
from irverify.passes.propagate import Interval
from irverify.passes.windows import Grid, Windows

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SEEDS = st.integers(0, 2**16)
ODD = (0.0, -0.0, math.nan, math.inf, -math.inf)


def whole(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Small whole numbers, whose sums of products are exact."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def planes_last(x: Tensor) -> Tensor:
    """Columns of planes with the channels last in memory."""
    return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_by_hand() -> None:
    """(1, -2) through slopes (0.5, 0) below and (0.75, 1) above, constants (1, 1) below and (3, 5) above."""
    row = torch.tensor([[1.0, -2.0]])
    slope, rise, base, top = (torch.tensor([part]) for part in ([0.5, 0.0], [0.25, 1.0], [1.0, 1.0], [3.0, 5.0]))
    found = rows.bend(row, Spots.whole(1, 2), slope, rise, base, top)
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([[0.5, -2.0]], [1.0 - 10.0])
    least = rows.minimum(row, Spots.whole(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 1.0]]))
    assert least is not None
    assert least.tolist() == [3 - 8 - 0.5 - 2]


def test_lines_by_hand() -> None:
    """Active, inactive, a point at 0, l = -1 and u = 3; offset 2 adds 2 to what the ReLU reads."""
    lower = torch.tensor([[1.0, -2.0, 0.0, -1.0]])
    upper = torch.tensor([[2.0, -1.0, 0.0, 3.0]])
    found = bounds.lines(lower, upper, torch.full((4,), 2.0))
    assert found is not None
    slope, rise, base, top = found
    assert slope.tolist() == [[1, 0, 0, 1]]
    assert rise.tolist() == [[0, 0, 0, -0.25]]
    assert base is not None
    assert base.tolist() == [[2, 0, 0, 2]]
    assert top.tolist() == [[2, 0, 0, 0.75 + 1.5]]


@settings(max_examples=30)
@given(st.data(), DTYPES, SEEDS, st.booleans())
def test_windows_meet_what_stands_there(data: st.DataObject, dtype: torch.dtype, seed: int, last: bool) -> None:
    """Windows anywhere, also wholly beyond the plane, of rows with owners, against the planes that they stand for."""
    axes = [data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3),
                                st.integers(-6, 6))) for _ in range(2)]  # fmt: skip
    window, plane, starts, scale, shift = zip(*axes, strict=True)
    channels, count, examples = (data.draw(st.integers(1, top)) for top in (3, 6, 3))
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(math.prod(starts), (count,), generator=generator)
    owner = torch.randint(examples, (count,), generator=generator)
    row = whole(count, channels, *window, seed=seed, dtype=dtype)
    met = [whole(examples, channels, *plane, seed=seed + part, dtype=dtype) for part in range(1, 5)]
    planes = torch.zeros(count, channels, *plane, dtype=dtype)
    clean = torch.zeros_like(row)
    for r in range(count):
        begin = [s * p + f for s, p, f in zip(scale, divmod(int(place[r]), starts[1]), shift, strict=True)]
        for y in range(window[0]):
            for x in range(window[1]):
                at = begin[0] + y, begin[1] + x
                if 0 <= at[0] < plane[0] and 0 <= at[1] < plane[1]:
                    planes[r, :, at[0], at[1]] = row[r, :, y, x]
                    clean[r, :, y, x] = row[r, :, y, x]
    form = torch.channels_last if last else torch.contiguous_format
    row, met = row.contiguous(memory_format=form), [part.contiguous(memory_format=form) for part in met]
    spots = Spots.windows(channels, Frame(window, plane, starts[1], scale, shift), place, owner, last=last)

    spread = rows.spread(row, spots)
    assert spread is not None
    added = torch.ones_like(spread)
    assert rows.add(row, spots, added, -1)
    same(added, 1 - spread)
    apart = torch.ones(*spread.shape, 2, dtype=spread.dtype)[..., 0]
    assert not rows.add(row, spots, apart, 1) or apart.is_contiguous()
    assert not rows.add(row, spots, added[1:], 1)
    shaped = spread.reshape(count, *plane, channels).permute(0, 3, 1, 2) if last else spread.reshape(planes.shape)
    same(shaped, planes)

    slope, (rise, base, top) = met[0], (data.draw(st.sampled_from((part, None))) for part in met[1:])
    found = rows.bend(row, spots, slope, rise, base, top)
    spent = row.clone()
    over = rows.bend(spent, spots, slope, rise, base, top, spent=True)
    assert (over is None) == (found is None)
    if over is not None:
        same(over, found)
        assert over[0] is spent
    assert found is not None
    negative = planes.clamp(max=0)
    passed = planes * slope[owner] + (0 if rise is None else negative * rise[owner])
    constant = torch.zeros_like(planes)
    constant += 0 if base is None else (planes - negative) * base[owner]
    constant += 0 if top is None else negative * top[owner]
    same(found[1], constant.flatten(1).sum(1))
    again = rows.spread(found[0], spots)
    assert again is not None
    same(again.reshape(count, *plane, channels).permute(0, 3, 1, 2) if last else again.reshape(planes.shape), passed)
    same(found[0] == 0, (found[0] == 0) | (clean == 0))  # and nothing beyond the plane

    least = rows.minimum(row, spots, met[0], met[1].abs())
    expected = planes * met[0][owner] - planes.abs() * met[1].abs()[owner]
    same(least, expected.flatten(1).sum(1))


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.integers(1, 4), st.integers(0, 3), st.sampled_from((1, 3, 16, 1500)), st.booleans())
def test_gradients_of_rows(
    dtype: torch.dtype, seed: int, examples: int, count: int, size: int, based: bool
) -> None:
    row = random(examples, count, size, seed=seed, dtype=dtype).requires_grad_()
    slope, rise, base, top = (random(examples, size, seed=seed + k, dtype=dtype).requires_grad_() for k in range(1, 5))
    inner = random(examples, count, size, seed=seed + 5, dtype=dtype)
    outer = random(examples, count, seed=seed + 6, dtype=dtype)
    negative = row.clamp(max=0)
    passed = row * slope[:, None] + negative * rise[:, None]
    constants = (negative * top[:, None]).sum(2) + (((row - negative) * base[:, None]).sum(2) if based else 0)
    given = [row, rise, top, *([base] if based else [])]
    expected = torch.autograd.grad([passed, constants], given, [inner, outer])
    a, s, r, b, t = (part.detach() for part in (row, slope, rise, base, top))
    found = rows.bend_back(a, s, r, b if based else None, t, inner.clone(), outer, through=True)
    assert found is not None
    torch.testing.assert_close(found[0], passed.detach())
    for mine, theirs in zip((found[1], found[2], found[4], found[3]), expected, strict=False):
        torch.testing.assert_close(mine, theirs)

    center, radius = slope, rise
    least = (row * center[:, None] - row.abs() * radius[:, None]).sum(2)
    wanted = torch.autograd.grad(least, [row, center, radius], outer)
    got = rows.minimum_back(a, s, r, outer, of_center=True, of_radius=True)
    assert got is not None
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.sampled_from((1, 5, 1500)), st.booleans())
def test_lines_and_their_gradients(dtype: torch.dtype, seed: int, size: int, shifted: bool) -> None:
    lower = random(3, size, seed=seed, dtype=dtype)
    upper = lower + random(3, size, seed=seed + 1, dtype=dtype).abs()
    assume(bool((lower != 0).all()) and bool((upper != 0).all()))  # where a ReLU has no derivative
    offset = random(size, seed=seed + 2, dtype=dtype) if shifted else None
    given = [part.requires_grad_() for part in (lower, upper, offset) if part is not None]
    above, below = upper.clamp(min=0), -lower.clamp(max=0)
    high = above / (above + below).where(above + below != 0, torch.ones(()).to(dtype))
    slope = (above > below).to(dtype)
    base, top = torch.zeros_like(slope), high * below
    if offset is not None:
        base, top = slope * offset, top + high * offset
    outer = [random(3, size, seed=seed + k, dtype=dtype) for k in (3, 4, 5)]
    results = [(high - slope, outer[0]), (top, outer[2]), *([(base, outer[1])] if shifted else [])]
    expected = torch.autograd.grad([part for part, _ in results], given, [gradient for _, gradient in results])
    plain = [None if part is None else part.detach() for part in (lower, upper, offset)]
    assert plain[0] is not None
    assert plain[1] is not None
    found = bounds.lines(plain[0], plain[1], plain[2])
    assert found is not None
    for mine, theirs in zip(found, (slope, high - slope, base if shifted else None, top), strict=True):
        torch.testing.assert_close(mine, theirs)
    back = bounds.lines_back(plain[0], plain[1], plain[2], outer[0], outer[1] if shifted else None, outer[2])
    assert back is not None
    near = 1e-3 if dtype == torch.float32 else 1e-8  # bounds may be close together
    for mine, theirs in zip(back, expected, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=near, atol=near)


@settings(max_examples=30)
@given(st.data(), DTYPES, SEEDS)
def test_fold_is_the_adjoint(data: st.DataObject, dtype: torch.dtype, seed: int) -> None:
    """Against the transposed convolution, cut out or padded with zeros to what was asked for."""
    kernel, stride, windows, first, extents = (
        tuple(data.draw(st.integers(low, high)) for _ in range(2))
        for low, high in ((1, 4), (1, 3), (1, 4), (-2, 3), (6, 14))
    )
    count, out, channels = (data.draw(st.integers(low, 3)) for low in (0, 1, 1))
    row = whole(count, out, *windows, seed=seed, dtype=dtype)
    weight = whole(out, channels, *kernel, seed=seed + 1, dtype=dtype)
    full = functional.conv_transpose2d(row, weight, stride=stride)
    expected = pad_spatial(full, tuple((-b, e + b - n) for b, e, n in zip(first, extents, full.shape[2:], strict=True)))
    found = fold(row.permute(0, 2, 3, 1).contiguous(), weight, stride, first, extents)
    assert found is not None
    same(found.permute(0, 3, 1, 2), expected)


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.booleans(), st.booleans())
def test_columns(dtype: torch.dtype, seed: int, last: bool, odd: bool) -> None:
    shape = (2, 3, 4) if last else (5,)
    tensor, drawn = whole(3, 4, *shape, seed=seed, dtype=dtype), whole(1, 4, *shape, seed=seed + 1, dtype=dtype)
    slope, radius, gradient = (whole(3, *shape, seed=seed + k, dtype=dtype) for k in (2, 3, 4))
    outer = whole(3, 4, *shape, seed=seed + 5, dtype=dtype)
    if odd:
        tensor.view(-1)[: len(ODD)] = torch.tensor(ODD)
    if last:  # channels last in memory, like the columns of planes
        tensor, drawn, outer = (planes_last(x) for x in (tensor, drawn, outer))
        slope, radius, gradient = (x.contiguous(memory_format=torch.channels_last) for x in (slope, radius, gradient))
    same(columns.columns(tensor, slope, radius, drawn), tensor * slope[:, None] + radius[:, None] * drawn)
    expected = outer * slope[:, None], (outer * tensor).sum(1), (outer * drawn).sum(1)
    same(columns.columns_back(tensor, slope, drawn, outer), expected)
    low, high = tensor.abs()[:, 0], tensor.abs()[:, 2]
    low, high = (torch.empty_like(slope).copy_(x) for x in (low, high))
    magnitude = tensor.abs()
    share = (magnitude == low[:, None]).to(dtype) + (magnitude == high[:, None]).to(dtype)
    half = (gradient[:, None] / 2 * share * tensor.sign()).nan_to_num(0.0)
    same(columns.middle_back(tensor, low, high, gradient), half)


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.sampled_from((1, 7, 40_000)), st.booleans(), st.booleans())
def test_halves(dtype: torch.dtype, seed: int, size: int, free: bool, odd: bool) -> None:
    """The same numbers as operation by operation, in place or not, whatever they are."""
    center, gap = random(size, seed=seed, dtype=dtype), random(size, seed=seed + 1, dtype=dtype).abs()
    outer, inner = random(size, seed=seed + 2, dtype=dtype), random(size, seed=seed + 3, dtype=dtype)
    if odd and size > 10:
        center[: len(ODD)] = torch.tensor(ODD)
        gap[1:4] = torch.tensor([0.0, math.inf, math.nan])
    for curve in (Zero(), Parallel()):
        compiled = curve.ahead(center.clone(), gap.clone(), free)
        back = curve.back(compiled, outer.clone(), inner.clone(), free)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "native", None)
            plain = curve.ahead(center.clone(), gap.clone(), free)
            torch.testing.assert_close(compiled, plain, equal_nan=True)
            expected = curve.back(plain, outer.clone(), inner.clone(), free)
            torch.testing.assert_close(back, expected, equal_nan=True)


def test_bounds_met_by_hand() -> None:
    """Of elements 2 and 0: at least 1 and 5, the first at most 3, the second no number; then 2 at most 2, alone."""
    lower, upper = torch.tensor([4.0, -9.0, 0.0]), torch.tensor([9.0, 9.0, 9.0])
    elements = torch.tensor([2, 0])
    lean = torch.tensor([7.0, 7.0, 7.0])
    found = bounds.meet(lower, upper, torch.tensor([1.0, 5.0, -3.0, math.nan]), elements, None, None, lean)
    assert found is not None
    assert lean.tolist()[1:] == [7, 4]
    assert lean[0].isnan()
    assert [part.tolist() for part in (*found, lower, upper)] == [[1, 5], [3, 9], [5, -9, 1], [9, 9, 3]]
    sides = torch.tensor([-1.0, 1.0])
    lean = torch.tensor([7.0, 7.0, 7.0])
    again = bounds.meet(lower, upper, torch.tensor([-2.0, 6.0]), elements, None, sides, lean)
    assert lean.tolist() == [13, 7, 9]
    assert again is not None
    assert [part.tolist() for part in (*again, lower, upper)] == [[1, 6], [2, 9], [6, -9, 1], [9, 9, 2]]


@given(DTYPES, SEEDS, st.sampled_from((0, 1, 7)), st.booleans(), st.booleans(), st.booleans())
def test_bounds_met(dtype: torch.dtype, seed: int, pairs: int, owned: bool, sided: bool, odd: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 5) if owned else (15,)
    places = torch.randperm(15, generator=generator)[:pairs]
    owner, elements = (places // 5, places % 5) if owned else (None, places)
    sides = whole(pairs, seed=seed, dtype=dtype).sign() if sided else None
    lower, upper = whole(*shape, seed=seed, dtype=dtype), whole(*shape, seed=seed + 1, dtype=dtype)
    found = whole(pairs if sided else 2 * pairs, seed=seed + 2, dtype=dtype)
    if odd:
        for number, values in enumerate((lower.view(-1), upper.view(-1), found)):
            for value in range(min(len(ODD), values.numel())):
                values[(number + 2 * value) % values.numel()] = ODD[value]
    low, high = found.chunk(2) if sides is None else (found.masked_fill(sides < 0, -math.inf), found)
    high = high if sides is None else high.masked_fill(sides > 0, -math.inf)
    index = places if owner is None else (owner, elements)
    expected = lower.clone(), upper.clone()
    expected[0][index] = torch.fmax(lower[index], low)
    expected[1][index] = torch.fmin(upper[index], -high)
    lean = whole(*shape, seed=seed + 3, dtype=dtype)
    leaning = lean.clone()
    leaning[index] = found[:pairs] - found[pairs:] if sides is None else lean[index] + sides * found
    known = bounds.meet(lower, upper, found, elements, owner, sides, lean)
    assert known is not None
    same(lean, leaning)
    same((lower, upper), expected)
    same(known, (lower[index], upper[index]))


@given(DTYPES, SEEDS, st.sampled_from([(7,), (2, 3, 4, 5), (0, 3), (40_000,)]), st.booleans(), st.integers(1, 3))
def test_points_inside(dtype: torch.dtype, seed: int, shape: tuple[int, ...], last: bool, count: int) -> None:
    """Strictly, of one point or several, with infinite bounds and no numbers, whatever the order in memory."""
    lower, upper = random(*shape, seed=seed, dtype=dtype), random(*shape, seed=seed + 1, dtype=dtype)
    for side in (lower, upper):
        side.view(-1)[: len(ODD)] = torch.tensor(ODD, dtype=dtype)[: side.numel()]
    if last and len(shape) == 4:
        lower, upper = (side.contiguous(memory_format=torch.channels_last) for side in (lower, upper))
    points = [0.1, -0.5, 0.0][:count]
    found = bounds.inside(lower, upper, points)
    assert found is not None
    same(found, torch.stack([(lower < point) & (point < upper) for point in points]).any(0))
    assert bounds.inside(lower, upper, []) is None
    assert bounds.inside(lower, upper[..., :-1], points) is None
    assert bounds.inside(lower, upper.half(), points) is None


def test_elements_beyond_their_example_are_left_to_pytorch() -> None:
    lower, upper, found = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2,), 0.5)
    for element, owner in ((3, 0), (-1, 1), (0, 2), (0, -1)):
        assert bounds.meet(lower, upper, found, torch.tensor([element]), torch.tensor([owner]), None) is None
    assert bounds.meet(lower, upper, found, torch.tensor([0]), None, None) is None
    assert bounds.meet(lower[0], upper[0], found, torch.tensor([0]), torch.tensor([0]), None) is None
    assert bounds.meet(lower[0], upper[0], found, torch.tensor([0, 1]), None, None) is None
    assert bounds.meet(lower[0], upper[0].double(), found, torch.tensor([0]), None, None) is None
    assert bounds.meet(lower[:, 0], upper[:, 0], found, torch.tensor([0]), None, None) is None
    for lean in (lower, lower[0].double(), torch.zeros(6)[::2], lower[0][:2]):
        assert bounds.meet(lower[0].clone(), upper[0].clone(), found, torch.tensor([0]), None, None, lean) is None
    same((lower, upper), (torch.zeros(2, 3), torch.ones(2, 3)))


def test_a_step_up_by_hand() -> None:
    """From 1 along 4 with moments 0 and half of it taken in: 2 / sqrt(8) of a range of 2, times sqrt(2); then no more
    than the most."""
    choices, gradient = torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, -4.0]])
    moments, limits = (torch.zeros(1, 2), torch.zeros(1, 2)), (torch.zeros(1, 2), torch.full((1, 2), 1.5))
    assert climb(choices, gradient, moments, (*limits, torch.full((1, 2), 2.0)), (0.5, 0.5), 2**0.5 / 4, 0.0)
    assert [part.tolist() for part in moments] == [[[2.0, -2.0]], [[8.0, 8.0]]]
    torch.testing.assert_close(choices, torch.tensor([[1.5, 0.5]]))


@given(DTYPES, SEEDS, st.sampled_from((0, 1, 3)), st.sampled_from((1, 9)), st.booleans())
def test_steps_up(dtype: torch.dtype, seed: int, rows_: int, size: int, alike: bool) -> None:
    hill = SimpleNamespace()
    hill.least = random(1 if alike else rows_, size, seed=seed, dtype=dtype)
    hill.range = random(*hill.least.shape, seed=seed + 1, dtype=dtype).abs()
    hill.most = hill.least + hill.range
    choices = hill.least + hill.range / 2 + torch.zeros(rows_, size, dtype=dtype)
    compiled, plain = Adam(choices), Adam(choices)
    expected = choices.clone()
    for number in range(3):
        gradient = random(rows_, size, seed=seed + 2 + number, dtype=dtype)
        gradient[:, ::3] = 0.0
        choices = compiled.climb(choices, gradient.clone(), hill, 0.3)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ascent, "climb", lambda *_: False)
            expected = plain.climb(expected, gradient, hill, 0.3)  # type: ignore[arg-type]
        torch.testing.assert_close(choices, expected)
        torch.testing.assert_close((compiled.first, compiled.second), (plain.first, plain.second))
    assert not climb(choices, choices[:, :0], (choices, choices), (choices, choices, choices), (1.0, 1.0), 1.0, 0.0)


def test_what_is_not_a_number_stays_none() -> None:
    row, ones = torch.tensor([[math.nan, 1.0], [math.inf, 1.0]]), torch.ones(1, 2)
    found = rows.bend(row, Spots.whole(2, 2), ones, ones, None, ones)
    assert found is not None
    assert found[0][0, 0].isnan()
    assert found[1].isnan().tolist() == [True, False]
    least = rows.minimum(row, Spots.whole(2, 2), ones, ones)
    assert least is not None
    assert least.isnan().all()  # inf - inf
    lines = bounds.lines(torch.tensor([[math.nan, -1.0]]), torch.tensor([[1.0, math.nan]]), None)
    assert lines is not None
    assert lines[1].isnan().all()


def test_left_to_pytorch() -> None:
    """Types and kinds of tensors that compiled code does not read."""
    spots, row, half = Spots.whole(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.float16)
    assert rows.minimum(half, spots, half, half) is None
    assert rows.minimum(row, spots, row.double(), row) is None
    assert rows.minimum(row.to("meta"), spots, row, row) is None
    assert torch.func.vmap(lambda x: torch.tensor(rows.minimum(x, spots, x, x) is None))(torch.ones(3, 1, 2)).all()




@given(DTYPES, SEEDS, st.sampled_from((0, 1, 5)), st.sampled_from((1, 3, 1500)), st.integers(1, 3))
def test_numbers_that_repeat(dtype: torch.dtype, seed: int, count: int, period: int, times: int) -> None:
    row, numbers = whole(count, times, period, seed=seed, dtype=dtype), whole(period, seed=seed + 1, dtype=dtype)
    same(rows.dot(row, numbers), (row * numbers).flatten(1).sum(1))
    assert rows.dot(row, whole(period * times + 1, seed=seed, dtype=dtype)) is None or count * times * period == 0


@given(DTYPES, SEEDS, st.sampled_from((1, 7, 40_000)), st.sampled_from(("adaptive", "zero", "same")))
def test_lines_around_relus(dtype: torch.dtype, seed: int, size: int, choice: Choice) -> None:
    """Slopes and constants as by PyTorch, on any side of 0; infinite or no numbers are found."""
    lower = whole(size, seed=seed, dtype=dtype)
    upper = lower + whole(size, seed=seed + 1, dtype=dtype).abs()
    lean = whole(size, seed=seed + 2, dtype=dtype)
    lean[size // 3] = math.nan
    for chosen in (choice, lean):
        found = bounds.relu_lines(lower, upper, chosen)
        assert found is not None
        expected = kinked(0.0, 1.0, Interval(lower, upper), chosen)
        same(found[:3], (expected.lower_slope, expected.upper_slope, expected.upper_intercept))
        assert found[3]
    for unlike in (lean[:-1], lean.to(torch.float16), lean.expand(2, -1)):
        assert bounds.relu_lines(lower, upper, unlike) is None
    for number in (math.inf, math.nan):
        odd = upper.clone()
        odd[size // 2] = number
        wrong = bounds.relu_lines(lower, odd, choice)
        assert wrong is not None
        assert not wrong[3]


@pytest.mark.filterwarnings("ignore:.*(deprecated|boolean)")
def test_what_follows_operations_sees_all_of_them() -> None:
    """Tracers record no compiled code: their programs would return memory that nobody writes. Forward derivatives."""
    spots, row, met = Spots.whole(2, 3), whole(2, 3, seed=0), whole(1, 3, seed=1)
    form = Dense(row)

    def least(row: Tensor) -> Tensor:
        return minimum(form.with_coefficients(row), met[0], met[0].abs())

    assert rows.minimum(row, spots, met, met) is not None
    same(make_fx(least)(row)(-row), least(-row))
    same(torch.jit.trace(least, row)(-row), least(-row))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(least(forward_ad.make_dual(row, torch.ones_like(row)))).tangent
    torch.testing.assert_close(tangent, (met - row.sign() * met.abs()).sum(1))


def test_no_memory_and_negated_views() -> None:
    spots, row = Spots.whole(2, 3), random(2, 3, seed=0)
    assert rows.minimum(torch._efficientzerotensor((2, 3), dtype=row.dtype), spots, row[:1], row[:1]) is None
    assert rows.minimum(torch._neg_view(row), spots, row[:1], row[:1]) is None


def test_places_and_owners_of_any_type_and_step() -> None:
    """Indices of 32 bits, and every other of a tensor."""
    frame = Frame((1, 1), (2, 2), 2, (1, 1), (0, 0))
    row, met = whole(3, 1, 1, 1, seed=0), whole(2, 1, 2, 2, seed=1)
    place, owner = torch.tensor([[3, 0], [1, 0], [2, 0]]), torch.tensor([[0, 5], [1, 5], [1, 5]])
    expected = row.flatten() * met[owner[:, 0], 0, place[:, 0] // 2, place[:, 0] % 2]
    for dtype in (torch.int64, torch.int32):
        spots = Spots.windows(1, frame, place[:, 0].to(dtype), owner.to(dtype)[:, 0], last=False)
        same(rows.minimum(row, spots, met, torch.zeros_like(met)), expected)


def test_other_sizes_are_left_to_pytorch() -> None:
    """What would be read beyond its end."""
    row, met = random(4, 3, seed=0), random(2, 3, seed=1)
    each = Spots.whole(4, 3, each=2)
    assert rows.minimum(row, each, met, met) is not None
    assert rows.minimum(row, each, met, met[:1]) is None
    assert rows.minimum(row, each, met[:1], met[:1]) is None
    assert rows.minimum(row[:3], each, met, met) is None
    assert rows.bend(row, each, met, None, met[:1], None) is None
    assert rows.spread(row, Spots.whole(5, 3)) is None
    assert bounds.lines(met, met[:1], None) is None
    assert bounds.lines(met, met, met[:, 0]) is None
    several, outer = row.view(2, 2, 3), torch.ones(2, 2).double()
    assert rows.minimum_back(several, met, met, outer[:1], of_center=True, of_radius=True) is None
    assert rows.bend_back(several, met, met, None, met[:1], several.clone(), outer, through=False) is None


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_windows_over_one_axis_have_one_order(channels: int, count: int) -> None:
    """A single row `[1, channels, window]` may be taken for a plane with the channels last."""
    row = whole(count, channels, 3, seed=0)
    windows = Windows(row, torch.arange(count) + 2, Grid((6,), (1,), (0,), (10,)), True)
    expected = torch.stack([functional.pad(part, (2 + at, 5 - at)) for at, part in enumerate(row)])
    same(windows.dense(), expected)
    offset = torch.arange(1.0, channels + 1).double().reshape(-1, 1)
    same(constants(Patches(windows), offset, (channels, 10)), (expected * offset).flatten(1).sum(1))


def test_no_elements() -> None:
    none = torch.empty(0, 2, 3)
    assert columns.columns(none, none[:, 0], none[:, 0], torch.ones(1, 2, 3)) is None
    found = fold(torch.ones(2, 1, 1, 3), torch.ones(3, 0, 2, 2), (2, 2), (0, 0), (4, 4))
    assert found is not None
    assert found.shape == (2, 4, 4, 0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap(dtype: torch.dtype) -> None:
    """Which cannot say how planes are stored."""
    row, met = whole(2, 6, 2, 3, 3, seed=0, dtype=dtype), whole(2, 2, 3, 3, seed=1, dtype=dtype)
    owner, weight = torch.arange(6) // 3, whole(2, 4, 3, 3, seed=2, dtype=dtype)
    strides, grid = Steps((2, 2), (1, 1), 1), Grid((3, 3), (1, 1), (-1, -1), (5, 5))
    steps: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: minimum(Dense(x, owner), met, met.abs()),
        lambda x: Lines(met, met, met, met).bend(Dense(x, owner))[0].dense(),
        lambda x: Windows(x, torch.arange(6), grid, False).dense(),
        lambda x: constants(Dense(x), met[0, :, :1, :1], (2, 3, 3)),
        lambda x: scatter(x, weight, strides, (1, 1), (6, 6)),
    )
    for step in steps:
        same(torch.func.vmap(step)(row), torch.stack([step(part) for part in row]))
