"""The adjoint of a convolution on rows that are zero in many places, against the transposed convolution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from irverify.ir.ops.padding import pad_spatial
from irverify.ir.ops.scatter import Steps, scatter, through
from irverify.kernels.adjoint import CHIP, SHORT, Met, adjoint
from irverify.passes.windows import Grid, Windows
from tests.kernels.last_axis import over

pytestmark = [
    pytest.mark.skipif(not CHIP, reason="no kernels here, or no processor for this one"),
    pytest.mark.usefixtures("threads", "chip"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SEEDS = st.integers(0, 2**16)


def whole(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Small whole numbers, whose sums of products are exact."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(dtype: torch.dtype) -> None:
    """Two windows of three elements, two elements apart: the middle one of five is reached by both."""
    rows = torch.zeros(SHORT, 1, 2, 1, dtype=dtype)
    rows[0, 0, :, 0] = torch.tensor([10.0, 1.0])
    rows[3, 0, 1, 0] = 2.0
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=dtype).reshape(1, 1, 1, 3)
    found = adjoint(rows, weight, (1, 2), (0, 0), (1, 5))
    assert found is not None
    assert found[0, 0, :, 0].tolist() == [10.0, 20.0, 31.0, 2.0, 3.0]
    assert found[3, 0, :, 0].tolist() == [0.0, 0.0, 2.0, 4.0, 6.0]
    assert found.count_nonzero() == 8


@settings(max_examples=60)
@given(st.data(), DTYPES, SEEDS, st.sampled_from((0.0, 0.3, 1.0)), st.booleans())
def test_it_is_the_adjoint(data: st.DataObject, dtype: torch.dtype, seed: int, dense: float, ordered: bool) -> None:
    kernel, stride, windows, first, extents = (
        tuple(data.draw(st.integers(low, high)) for _ in range(2))
        for low, high in ((1, 4), (1, 5), (1, 4), (-3, 4), (1, 12))
    )
    count, out = data.draw(st.integers(SHORT, 40)), data.draw(st.integers(1, 19))
    channels = data.draw(st.one_of(st.integers(1, 9), st.integers(10, 70)))
    generator = torch.Generator().manual_seed(seed)
    row = whole(count, out, *windows, seed=seed, dtype=dtype)
    row *= torch.rand(1, out, *windows, generator=generator) < dense  # zero in all rows
    row *= torch.rand(row.shape, generator=generator) < 0.8  # zero in some
    weight = whole(out, channels, *kernel, seed=seed + 1, dtype=dtype)
    full = functional.conv_transpose2d(row, weight, stride=stride)
    expected = pad_spatial(full, tuple((-b, e + b - n) for b, e, n in zip(first, extents, full.shape[2:], strict=True)))
    order = torch.randperm(count, generator=generator) if ordered else None
    found = adjoint(row.permute(0, 2, 3, 1).contiguous(), weight, stride, first, extents, order)
    assert found is not None
    same(found.permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("far", [2**31, 2**32, 2**33 + 1, -(2**32)])
@pytest.mark.parametrize("channels", [2, 5])
def test_places_far_from_all_windows_are_zero(far: int, channels: int) -> None:
    row, weight = torch.ones(20, 2, 2, 3), torch.ones(3, channels, 2, 2)
    for first in ((0, far), (far, 0)):
        found = adjoint(row, weight, (1, 1), first, (3, 4))
        assert found is not None
        assert not found.count_nonzero()


@settings(max_examples=15)
@given(DTYPES, SEEDS, st.sampled_from((700, 1100)), st.sampled_from((1, 3, 40)))
def test_more_channels_than_are_looked_at_at_once(dtype: torch.dtype, seed: int, out: int, channels: int) -> None:
    row = whole(13, out, 1, 2, seed=seed, dtype=dtype) * (whole(1, out, 1, 2, seed=seed + 2, dtype=dtype) > 1)
    weight = whole(out, channels, 1, 2, seed=seed + 1, dtype=dtype)
    found = adjoint(row.permute(0, 2, 3, 1).contiguous(), weight, (1, 1), (0, 0), (1, 3))
    assert found is not None
    same(found.permute(0, 3, 1, 2), functional.conv_transpose2d(row, weight))


@pytest.mark.parametrize("channels", [1, 3, 20])
def test_sums_are_as_exact_as_products_of_matrices(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    row, weight = torch.randn(50, 6, 6, 30, generator=generator), torch.randn(30, channels, 3, 3, generator=generator)
    found = adjoint(row, weight, (1, 1), (1, 1), (6, 6))
    assert found is not None
    exact = functional.conv_transpose2d(row.permute(0, 3, 1, 2).double(), weight.double(), padding=1)
    scale = functional.conv_transpose2d(row.permute(0, 3, 1, 2).double().abs(), weight.double().abs(), padding=1)
    error = (found.permute(0, 3, 1, 2) - exact).abs() / scale
    assert float(error.max()) < 40 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channels", [2, 5])
def test_what_is_not_a_number_stays_none(odd: float, channels: int) -> None:
    row = torch.zeros(20, 1, 3, 2)
    row[13, 0, 1, 0] = odd
    weight = torch.ones(2, channels, 1, 2)
    found = adjoint(row, weight, (1, 1), (0, 0), (1, 4))
    assert found is not None
    reached = found[13, 0, 1:3]
    same(reached, torch.full_like(reached, odd))
    assert found.isfinite().sum() == found.numel() - reached.numel()
    weight[0, 0] = odd
    assert adjoint(row.nan_to_num(0, 0, 0), weight, (1, 1), (0, 0), (1, 4)) is None


def test_left_to_other_ways() -> None:
    row, weight = torch.ones(20, 2, 2, 3), torch.ones(3, 2, 2, 2)
    assert adjoint(row, weight, (1, 1), (0, 0), (3, 3)) is not None
    assert adjoint(row[: SHORT - 1], weight, (1, 1), (0, 0), (3, 3)) is None
    assert adjoint(row.half(), weight.half(), (1, 1), (0, 0), (3, 3)) is None
    assert adjoint(row, weight.double(), (1, 1), (0, 0), (3, 3)) is None
    assert adjoint(row.transpose(1, 2)[:, :, :, :2], weight[:2], (1, 1), (0, 0), (3, 3)) is None
    assert adjoint(row[..., :0], weight[:0], (1, 1), (0, 0), (3, 3)) is None
    steps, last = Steps((1, 1), (1, 1), 1), row.permute(0, 3, 1, 2)
    assert through(last, weight, steps, (0, 0), (3, 3)) is not None
    assert through(last, weight, Steps((1, 1), (2, 1), 1), (0, 0), (4, 3)) is None
    assert through(last, weight, Steps((1, 1), (1, 1), 3), (0, 0), (3, 3)) is None
    assert through(last.requires_grad_(), weight, steps, (0, 0), (3, 3)) is None
    assert through(last[..., 0], weight[..., 0], Steps((1,), (1,), 1), (0,), (3,)) is None


@settings(max_examples=20)
@given(SEEDS, st.booleans())
def test_windows_of_one_place_are_looked_at_together(seed: int, owned: bool) -> None:
    """Whatever the order, the result is that of each row by itself."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(9, (30,), generator=generator)
    owner = torch.randint(2, (30,), generator=generator) if owned else None
    grid = Grid((3, 3), (1, 1), (0, 0), (3, 3))
    rows = whole(30, 2, 2, 4, seed=seed, dtype=torch.float64).permute(0, 3, 1, 2)
    windows = Windows(rows, place, grid, True, owner)
    keys = place if owner is None else place + 9 * owner
    together = windows._together()
    assert keys[together].tolist() == sorted(keys.tolist())
    weight, steps = whole(4, 6, 2, 2, seed=seed + 1, dtype=torch.float64), Steps((1, 1), (1, 1), 1)
    found = through(rows, weight, steps, (0, 0), (3, 3), together)
    assert found is not None
    one_by_one = [scatter(row[None], weight, steps, (0, 0), (3, 3)) for row in rows]
    same(found, torch.cat(one_by_one))


def adjoint_of_bent(
    rows: Tensor, met: Met | None, owner: Tensor | None, weight: Tensor, offset: Tensor | None, *moves: tuple[int, ...]
) -> tuple[Tensor, Tensor] | None:
    stride, first, extents = moves
    through = over(met, weight, offset, stride, first, extents, rows.shape[1:3])
    return None if through is None else through(rows, owner)


def test_through_lines_by_hand() -> None:
    """One window of two elements, which nothing but itself reaches; the first row is positive, the others negative."""
    rows = torch.tensor([[2.0, 4.0]] + (SHORT - 1) * [[-2.0, -4.0]]).reshape(SHORT, 1, 2, 1)
    slope, rise, base, top = (
        torch.tensor(pair).reshape(1, 1, 2, 1) for pair in ((1.0, 0.0), (0.0, 0.5), (3.0, 0.0), (0.0, 7.0))
    )
    moves, weight, offset = ((1, 1), (0, 0), (1, 2)), torch.full((1, 1, 1, 1), 5.0), torch.tensor([10.0])
    found = adjoint_of_bent(rows, Met(slope, rise, base, top), None, weight, offset, *moves)
    assert found is not None
    assert found[0].reshape(SHORT, 2).tolist() == [[10.0, 0.0]] + (SHORT - 1) * [[-10.0, -10.0]]
    assert found[1].tolist() == [26.0] + (SHORT - 1) * [-68.0]
    plain = adjoint_of_bent(rows, None, None, weight, offset, *moves)
    assert plain is not None
    assert plain[1].tolist() == [60.0] + (SHORT - 1) * [-60.0]


@settings(max_examples=60)
@given(st.data(), DTYPES, SEEDS, st.booleans())
def test_through_lines(data: st.DataObject, dtype: torch.dtype, seed: int, owned: bool) -> None:
    kernel, stride, windows, first, extents = (
        tuple(data.draw(st.integers(low, high)) for _ in range(2))
        for low, high in ((1, 3), (1, 3), (1, 9), (-2, 3), (1, 9))
    )
    count, out = data.draw(st.integers(SHORT, 40)), data.draw(st.sampled_from((1, 3, 16, 70, 600)))
    channels, examples = data.draw(st.one_of(st.integers(1, 9), st.integers(10, 40))), 3 if owned else 1
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(examples, (count,), generator=generator).sort().values if owned else None
    of = torch.zeros(count, dtype=torch.long) if owner is None else owner
    rows = whole(count, *windows, out, seed=seed, dtype=dtype)
    weight, offset = (whole(*shape, seed=seed + 1, dtype=dtype) for shape in ((out, channels, *kernel), (out,)))
    slope, *rest = (whole(examples, *windows, out, seed=seed + 2 + k, dtype=dtype).clamp(min=0) for k in range(4))
    rise, base, top = (part if data.draw(st.booleans()) else None for part in rest)
    met = Met(slope, rise, base, top) if data.draw(st.booleans()) else None
    adds = offset if data.draw(st.booleans()) else None
    moves = stride, first, extents
    found = adjoint_of_bent(rows, met, owner, weight, adds, *moves)
    bent, constants, negative = rows, rows.new_zeros(count), rows.clamp(max=0)
    if met is not None:
        nothing = torch.zeros_like(slope)
        more, below, above = (nothing if part is None else part for part in (rise, base, top))
        bent = rows * slope[of] + negative * more[of]
        constants = ((rows - negative) * below[of] + negative * above[of]).flatten(1).sum(1)
    if adds is not None:
        constants = constants + (bent * adds).flatten(1).sum(1)
    expected = adjoint(bent, weight, *moves)
    assert found is not None
    assert expected is not None
    same(found[0], expected)
    same(found[1], constants)
    through, fits = over(met, weight, adds, *moves, windows), found[0].shape == rows.shape
    written = None if through is None else through(rows, owner, spent=True)
    assert written is not None
    assert torch.equal(written[0], found[0])
    assert torch.equal(written[1], found[1])
    assert (written[0].data_ptr() == rows.data_ptr()) == fits


@settings(max_examples=40)
@given(st.data(), DTYPES, SEEDS, st.booleans())
def test_negatives_behind(data: st.DataObject, dtype: torch.dtype, seed: int, owned: bool) -> None:
    """Rows and their negatives, which are not there, are what both are where they are."""
    count, examples = data.draw(st.integers(SHORT // 2, 30)), 3 if owned else 1
    out, channels = data.draw(st.sampled_from((1, 3, 16, 600))), data.draw(st.sampled_from((1, 4, 9, 40)))
    owner = torch.arange(count) * examples // count if owned else None
    rows = whole(count, 3, 2, out, seed=seed, dtype=dtype)
    weight, offset = (whole(*shape, seed=seed + 1, dtype=dtype) for shape in ((out, channels, 2, 2), (out,)))
    lines = [whole(examples, 3, 2, out, seed=seed + 2 + k, dtype=dtype) for k in range(4)]
    rise, base, top = (part if data.draw(st.booleans()) else None for part in lines[1:])
    adds, moves = offset if data.draw(st.booleans()) else None, ((1, 1), (1, 0), (4, 3))
    through = over(Met(lines[0], rise, base, top), weight, adds, *moves, rows.shape[1:3])
    assert through is not None
    both, kept = None if owner is None else owner.repeat(2), rows.clone()
    found, expected = through(rows, both, twice=True, spent=True), through(torch.cat([rows, -rows]), both)
    assert (found is None) == (2 * count < SHORT)
    same(found, expected)
    assert torch.equal(rows, kept)
    assert owner is None or through(rows, owner, twice=True) is None
    assert through(rows, both, rows, rows[:, 0, 0, 0], twice=True) is None
    plain = over(None, weight, adds, *moves, rows.shape[1:3])
    assert plain is not None
    assert plain(rows, both, twice=True) is None


def test_lines_that_do_not_fit_are_left_to_others() -> None:
    rows, slope, weight = torch.ones(SHORT, 2, 3, 4), torch.ones(2, 2, 3, 4), torch.ones(4, 5, 2, 2)
    met, owner, moves = Met(slope, None, None, slope), torch.zeros(SHORT, dtype=torch.long), ((1, 1), (0, 0), (3, 4))
    assert adjoint_of_bent(rows, met, owner, weight, torch.ones(4), *moves) is not None
    assert adjoint_of_bent(rows[1:], met, owner[1:], weight, None, *moves) is None
    assert adjoint_of_bent(rows, met, owner[1:], weight, None, *moves) is None
    assert adjoint_of_bent(rows, met, owner + 2, weight, None, *moves) is None
    assert adjoint_of_bent(rows, met, owner - 1, weight, None, *moves) is None
    assert adjoint_of_bent(rows, met, owner, weight, torch.ones(5), *moves) is None
    assert adjoint_of_bent(rows, met, owner, weight, torch.ones(8)[::2], *moves) is None
    assert adjoint_of_bent(rows, met, owner, weight.double(), None, *moves) is None
    assert adjoint_of_bent(rows, met, owner, weight * math.nan, None, *moves) is None
    for wrong in (slope[:1], slope[:, 1:], slope.transpose(1, 2), slope.double(), slope[..., :1].expand(slope.shape)):
        assert adjoint_of_bent(rows, met._replace(top=wrong), owner, weight, None, *moves) is None
    assert adjoint_of_bent(rows.permute(0, 2, 1, 3), None, None, weight, None, *moves) is None
