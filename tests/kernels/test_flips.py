"""Rows up and down the lines around ReLUs, and little convolutions, by compiled code against PyTorch's operations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from irverify.kernels import available
from irverify.kernels.adjoint import Met
from irverify.kernels.flips import turned, upward
from irverify.kernels.forward import FEW, LITTLE, forward
from tests.kernels.last_axis import over

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
SEEDS = st.integers(0, 2**16)
DTYPES = st.sampled_from((torch.float32, torch.float64))


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lines(examples: int, size: tuple[int, ...], seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, rise and top around ReLUs, some of which are stable."""
    lower, upper = random(2, examples, *size, seed=seed, dtype=dtype).sort(0).values
    high = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, upper / (upper - lower))).to(dtype)
    slope = (upper > -lower).to(dtype)
    return slope, high - slope, torch.where((lower < 0) & (upper > 0), -lower * high, 0.0)


def test_upward_by_hand() -> None:
    """Slope 1 or 0 below, in between a half x + 1 above; the last is stable."""
    rows = torch.tensor([[2.0, 3.0, -1.0, 5.0]])
    values = torch.tensor([[-1.5, 0.5, 4.0, -7.0]])
    slope, rise = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([-0.5, 0.5, -0.5, 0.0])
    greatest = torch.tensor([0.25])
    gains = upward(rows, values, None, slope, rise, torch.tensor([1.0, 1.0, 1.0, 0.0]), greatest)
    assert gains is not None
    assert gains.tolist() == [[3.0, 1.5, 0.0, 0.0]]
    assert values.tolist() == [[-1.5, 0.0, 3.0, -7.0]]
    assert greatest.tolist() == [3.0]


def test_turned_by_hand() -> None:
    """The first slope is turned over, the second does not gain enough, and above nothing is."""
    rows, gains = torch.tensor([[2.0, 3.0, -1.0]]), torch.tensor([[3.0, 1.5, 9.0]])
    slope, rise = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-0.5, 0.5, -0.5])
    found = turned(rows, gains, torch.tensor([1.5]), None, slope, rise, torch.tensor([1.0, 1.0, 1.0]))
    assert found is not None
    assert found[0].tolist() == [[0.0, 0.0, -0.5]]
    assert found[1].tolist() == [-1.0]


@settings(max_examples=60, deadline=None)
@given(SEEDS, DTYPES, st.sampled_from(((7,), (1500,), (3, 4, 5))), st.integers(1, 40), st.integers(1, 3))
def test_up_and_down(seed: int, dtype: torch.dtype, size: tuple[int, ...], count: int, examples: int) -> None:
    slope, rise, top = lines(examples, size, seed, dtype)
    owner = torch.randint(examples, (count,), generator=torch.Generator().manual_seed(seed)).sort().values
    rows, values = (random(count, *size, seed=seed + k, dtype=dtype) for k in (1, 2))
    rows[rows.abs() < 0.3] = 0
    s, r, t = slope[owner], rise[owner], top[owner]
    expected = torch.where(rows >= 0, values * s, values * (s + r) + t)
    gain = torch.where(r == 0, 0.0, rows.clamp(min=0) * values * ((values > 0).to(dtype) - s))
    greatest = torch.zeros(count, dtype=dtype)
    up = values.clone()
    gains = upward(rows, up, owner, slope, rise, top, greatest)
    assert gains is not None
    spent, again, most = rows.clone(), values.clone(), torch.zeros(count, dtype=dtype)
    over = upward(spent, again, owner, slope, rise, top, most, spent=True)
    assert over is spent
    assert torch.equal(over, gains)
    assert torch.equal(again, up)
    assert torch.equal(most, greatest)
    close = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(up, expected, rtol=close, atol=close)
    torch.testing.assert_close(gains, gain, rtol=close, atol=close)
    torch.testing.assert_close(greatest, gains.flatten(1).amax(1).clamp(min=0))
    least = greatest / 5
    below = torch.where(gains > least.reshape(-1, *(1,) * len(size)), 1 - s, s)
    negative = rows.clamp(max=0)
    found = turned(rows, gains, least, owner, slope, rise, top)
    assert found is not None
    passed = torch.where(rows > 0, rows * below, rows * s + negative * r)
    torch.testing.assert_close(found[0], passed, rtol=close, atol=close)
    torch.testing.assert_close(found[1], (negative * t).flatten(1).sum(1), rtol=10 * close, atol=10 * close)


def test_nothing_for_what_does_not_fit() -> None:
    slope, rise, top = lines(2, (6,), 0, torch.float32)
    rows, least = torch.randn(4, 6), torch.zeros(4)
    owner = torch.tensor([0, 0, 1, 1])
    assert turned(rows, rows, least, owner, slope, rise, top) is not None
    assert turned(rows, rows, least, owner + 1, slope, rise, top) is None
    assert turned(rows, rows, least, owner - 1, slope, rise, top) is None
    assert turned(rows, rows, least, owner[:3], slope, rise, top) is None
    assert turned(rows, rows[:, :5], least, owner, slope, rise, top) is None
    assert turned(rows, rows, least[:3], owner, slope, rise, top) is None
    assert turned(rows, rows, least, owner, slope, rise, top[:1]) is None
    assert turned(rows, rows, least, owner, slope.double(), rise, top) is None
    assert turned(rows, torch.randn(6, 4).T, least, owner, slope, rise, top) is None
    assert turned(rows[:0], rows[:0], least[:0], None, slope, rise, top) is None
    assert turned(rows, rows, least, None, slope, rise, top) is None
    assert turned(rows, rows, least, None, slope[0], rise[0], top[0]) is not None
    assert turned(rows, rows, least, owner, slope[:0], rise[:0], top[:0]) is None
    strange = torch.randn(2, 18)[:, ::3]
    assert turned(rows[:1], rows[:1], least[:1], owner[:1], strange, strange, strange) is None
    strange = torch.as_strided(torch.randn(40), (1, 6), (9, 1))
    lines_ = torch.as_strided(torch.randn(40), (2, 6), (9, 1))
    assert turned(strange, strange, least[:1], owner[:1], lines_, lines_, lines_) is None
    assert upward(rows, rows.clone(), owner + 1, slope, rise, top, least) is None


def test_what_is_not_a_number_stays_none() -> None:
    slope, rise, top = lines(1, (40,), 1, torch.float32)
    for place in (0, 17, 39):
        rows = torch.randn(3, 40)
        rows[1, place] = math.nan
        found = turned(rows, torch.zeros(3, 40), torch.ones(3), None, slope[0], rise[0], top[0])
        assert found is not None
        assert found[0].isnan().nonzero().tolist() == [[1, place]]
        assert found[1].isnan().tolist() == [False, True, False]


@settings(max_examples=60, deadline=None)
@given(
    SEEDS, DTYPES, st.integers(1, 9), st.integers(1, 5), st.integers(1, 35), st.integers(1, 4), st.integers(1, 3),
    st.tuples(*[st.integers(0, 3)] * 4), st.booleans(),
)  # fmt: skip
def test_little_convolutions(
    seed: int, dtype: torch.dtype, count: int, channels: int, out: int, taps: int, stride: int,
    around: tuple[int, int, int, int], biased: bool,
) -> None:  # fmt: skip
    rows = random(count, 6, 5, channels, seed=seed, dtype=dtype)
    weight = random(out, channels, taps, min(taps + 1, 5), seed=seed + 1, dtype=dtype)
    bias = random(out, seed=seed + 2, dtype=dtype) if biased else None
    top, bottom, left, right = around
    found = forward(rows, weight, bias, (stride, 1), ((top, bottom), (left, right)))
    padded = functional.pad(rows.permute(0, 3, 1, 2), (left, right, top, bottom))
    expected = functional.conv2d(padded, weight, bias, (stride, 1)).permute(0, 2, 3, 1)
    assert found is not None
    near = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(found, expected, rtol=near, atol=near)


def test_no_little_convolution() -> None:
    rows, weight = torch.randn(2, 6, 5, 3), torch.randn(4, 3, 2, 2)
    assert forward(rows, weight, None, (1, 1), ((0, 0), (0, 0))) is not None
    assert forward(rows.permute(0, 3, 1, 2), weight, None, (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, weight.double(), None, (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, torch.randn(4, 2, 2, 2), None, (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, torch.randn(4, 3, 7, 2), None, (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, weight.permute(1, 0, 2, 3), None, (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, weight, torch.randn(8)[::2], (1, 1), ((0, 0), (0, 0))) is None
    assert forward(rows, weight, torch.randn(3), (1, 1), ((0, 0), (0, 0))) is None
    much = torch.randn(FEW - 1, 60, 60, 3), torch.randn(LITTLE // 100000, 3, 2, 2)
    assert forward(*much, None, (1, 1), ((0, 0), (0, 0))) is None


@settings(max_examples=40, deadline=None)
@given(SEEDS, DTYPES, st.integers(8, 40), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_turned_on_the_way_through_a_convolution(
    seed: int, dtype: torch.dtype, count: int, examples: int, stride: int, biased: bool
) -> None:
    """At once against one after the other."""
    weight = random(7, 5, 3, 3, seed=seed, dtype=dtype)
    offset = random(7, seed=seed + 1, dtype=dtype) if biased else None
    windows = (5, 4) if stride == 1 else (3, 2)
    slope, rise, top = lines(examples, (*windows, 7), seed, dtype)
    rows, gains = (random(count, *windows, 7, seed=seed + k, dtype=dtype) for k in (2, 3))
    owner = torch.randint(examples, (count,), generator=torch.Generator().manual_seed(seed)).sort().values
    least = torch.full((count,), 0.3, dtype=dtype)
    moves = (stride, stride), (1, 1), (5, 4)
    at_once = over(Met(slope, rise, None, top), weight, offset, *moves, windows)
    plain = over(None, weight, offset, *moves, windows)
    if at_once is None or plain is None:
        pytest.skip("no compiled code for convolutions here")
    bent = turned(rows, gains, least, owner, slope, rise, top)
    assert bent is not None
    after, found = plain(bent[0], owner), at_once(rows, owner, gains, least)
    assert after is not None
    assert found is not None
    near = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found[0], after[0], rtol=near, atol=near)
    torch.testing.assert_close(found[1], after[1] + bent[1], rtol=near, atol=near)
    assert at_once(rows, owner, gains[:, 1:], least) is None
    assert at_once(rows, owner, gains, least[1:]) is None
    assert at_once(rows, owner, gains) is None
    assert plain(rows, owner, gains, least) is None
