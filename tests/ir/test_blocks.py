"""Adjoints of convolutions as convolutions into blocks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.ops.blocks import Along, filled, in_blocks, spaced
from irverify.ir.ops.padding import pad_spatial
from irverify.ir.ops.scatter import CONV_TRANSPOSE, scatter
from irverify.ir.ops.taps import Steps, tap_by_tap


def test_blocks_by_hand() -> None:
    """Windows of a kernel (1, 2, 3) begin at -1, 1 and 3 of five places: place 1 has tap 2 of the first and tap 0 of
    the second window."""
    axis = Along(stride=2, first=1, kernel=3, windows=3, extent=5)
    assert (axis.least, axis.most, axis.span, axis.blocks) == (-1, 0, 2, 3)
    rows, weight = torch.tensor([[[1.0, 10.0, 100.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]])
    assert in_blocks(rows, weight, (2,), (1,), (5,)).tolist() == [[[2.0, 13.0, 20.0, 130.0, 200.0]]]


def test_one_element_by_hand() -> None:
    rows, weight = torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[2.0], [3.0]]])
    assert spaced(rows, weight, (2,), (4,)).tolist() == [[[2.0, 0.0, 20.0, 0.0], [3.0, 0.0, 30.0, 0.0]]]
    assert spaced(rows, weight, (2,), (2,)).tolist() == [[[2.0, 0.0], [3.0, 0.0]]]


@st.composite
def adjoints(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Rows, weight, stride, first and extents."""
    axes = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    count, out, channels = draw(st.sampled_from((1, 2, 17))), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    kernel = draw(st.sampled_from((each(1, 4), (1,) * axes)))
    rows = torch.randint(-5, 6, (count, out, *each(1, 5)), generator=generator).float()
    if axes == 2 and draw(st.booleans()):
        rows = rows.contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-5, 6, (out, channels, *kernel), generator=generator).float()
    return rows, weight, each(1, 3), draw(st.sampled_from((each(-2, 3), (0,) * axes))), each(1, 9)


@settings(max_examples=150, deadline=None)
@given(adjoints())
def test_blocks_are_the_adjoint(
    case: tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    rows, weight, stride, first, extents = case
    full = CONV_TRANSPOSE[len(extents)](rows, weight, None, stride)
    ends = zip(first, extents, full.shape[2:], strict=True)
    expected = pad_spatial(full, tuple((-before, extent + before - n) for before, extent, n in ends))
    found = in_blocks(rows, weight, stride, first, extents)
    assert torch.equal(found, expected)
    if rows.ndim == 4 and not rows.is_contiguous():
        assert found.is_contiguous(memory_format=torch.channels_last)
    if weight[0, 0].numel() == 1 and not any(first):
        assert torch.equal(spaced(rows, weight, stride, extents), expected)


def test_filled_keeps_the_order_and_pads() -> None:
    rows = torch.rand(17, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    found = filled(rows, ((1, 0), (0, 2)))
    assert found.shape == (18, 3, 3, 4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found[:17], pad_spatial(rows, ((1, 0), (0, 2))))
    assert not found[17].any()
    assert torch.equal(filled(rows, ((-1, 0), (0, 0)))[:17], rows[:, :, 1:])


@settings(max_examples=60, deadline=None)
@given(adjoints())
def test_taps_are_the_adjoint(
    case: tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    rows, weight, stride, first, extents = case
    steps = Steps(stride, (1,) * len(stride), 1)
    found = tap_by_tap(rows.double(), weight.double(), steps, first, extents)
    assert torch.equal(found.float(), in_blocks(rows, weight, stride, first, extents))


@settings(max_examples=60, deadline=None)
@given(adjoints(), st.sampled_from((torch.float32, torch.float64)), st.integers(1, 3))
def test_adjoints_are_the_same_in_both_precisions_and_with_many_channels(
    case: tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...]], dtype: torch.dtype, times: int
) -> None:
    rows, weight, stride, first, extents = case
    many = weight.repeat(1, 5 * times, *(1,) * len(stride))
    steps = Steps(stride, (1,) * len(stride), 1)
    found = scatter(rows.to(dtype), many.to(dtype), steps, first, extents)
    expected = in_blocks(rows, weight, stride, first, extents)
    assert torch.equal(found.float(), expected.repeat(1, 5 * times, *(1,) * len(stride)))


@settings(max_examples=100, deadline=None)
@given(adjoints(), st.sampled_from((torch.float32, torch.float64)))
def test_gradients_of_adjoints(
    case: tuple[Tensor, Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...]], dtype: torch.dtype
) -> None:
    """First and second derivatives, against those of the transposed convolution of torch."""
    rows, weight, stride, first, extents = case
    steps, found = Steps(stride, (1,) * len(stride), 1), list[list[Tensor]]()
    for own in (True, False):
        leaves = operand, kernel = rows.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        if own:
            result = scatter(operand, kernel, steps, first, extents)
        else:
            full = CONV_TRANSPOSE[len(extents)](operand, kernel, None, stride)
            ends = zip(first, extents, full.shape[2:], strict=True)
            result = pad_spatial(full, tuple((-before, extent + before - n) for before, extent, n in ends))
        places = torch.arange(result.numel(), dtype=dtype).reshape(result.shape) % 7
        firsts = torch.autograd.grad(((places + result) ** 2).sum(), leaves, create_graph=True)
        seconds = torch.autograd.grad(firsts[0].sum() + firsts[1].sum(), leaves)
        found.append([result, *firsts, *seconds])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
