"""Compiled pooling against PyTorch's operations, by hand and at random."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from irverify.ir.graph import Node
from irverify.ir.ops import AveragePool, MaxPool
from irverify.ir.types import TensorType
from irverify.kernels import available, pooling
from irverify.passes.maxima import Selected, max_pool
from irverify.passes.propagate import Interval

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
NONE = ((0, 0), (0, 0))
WITHOUT = "irverify.kernels.native.native", "irverify.kernels.pooling.native"


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], Tensor]:
    """Windows, and planes of small whole numbers `[batch, channels, height, width]`, of which some are alike."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    extents = [k * draw(st.integers(1, 4)) + draw(st.integers(0, k - 1)) for k in kernel]
    shape = draw(st.integers(0, 3)), draw(st.integers(1, 3)), *extents
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return kernel, torch.randint(-5, 6, shape, generator=generator).to(draw(DTYPES))


def pool(kernel: tuple[int, int]) -> MaxPool:
    return MaxPool(kernel, kernel, NONE, (1, 1))


def selected(kernel: tuple[int, int], box: Interval) -> Selected:
    node = Node("y", pool(kernel), ("x",), TensorType((1,), box.lower.dtype))
    return max_pool(node, [box], "adaptive")


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_by_hand() -> None:
    """Of (1, 4 | 2, 3) the mean is 2.5 and the largest 4; the fifth column is in no window."""
    planes = torch.tensor([[[[1.0, 4.0, 0.0, 8.0, 9.0], [2.0, 3.0, 0.0, 0.0, 9.0]]]])
    means, largest = pooling.means(planes, (2, 2)), pooling.largest(planes, (2, 2))
    assert means is not None
    assert largest is not None
    assert (means.tolist(), largest.tolist()) == ([[[[2.5, 2.0]]]], [[[[4.0, 8.0]]]])
    back = pooling.means_back(means, (2, 2), (2, 5))
    assert back is not None
    assert back.tolist() == [[[[0.625, 0.625, 0.5, 0.5, 0.0]] * 2]]
    found = pooling.candidates(planes, planes + 2, (2, 2))
    assert found is not None
    index, certain, ceiling = found
    assert (index.tolist(), certain.tolist()) == ([[[[1, 3]]]], [[[[0.0, 1.0]]]])  # 3 + 2 may be more than 4
    rows, owner = torch.tensor([[[[-2.0, -3.0]]]]), torch.tensor([0])
    passed = pooling.select(rows, index, certain, ceiling, owner, (2, 5))
    assert passed is not None
    assert passed[0].tolist() == [[[[0.0, 0.0, 0.0, -3.0, 0.0], [0.0] * 5]]]
    assert passed[1].tolist() == [-2.0 * 6.0]


@settings(max_examples=60)
@given(cases(), st.booleans())
def test_means_and_largest(case: tuple[tuple[int, int], Tensor], last: bool) -> None:
    kernel, planes = case
    found, largest = pooling.means(planes, kernel), pooling.largest(planes, kernel)
    assert found is not None
    assert largest is not None
    expected = functional.avg_pool2d(planes, kernel, kernel)
    torch.testing.assert_close(found, expected)
    same(largest, functional.max_pool2d(planes, kernel, kernel))
    rows = torch.randn(expected.shape, dtype=planes.dtype, generator=torch.Generator().manual_seed(1))
    rows = rows.contiguous(memory_format=torch.channels_last) if last else rows
    back = pooling.means_back(rows, kernel, planes.shape[2:])
    assert back is not None
    x = planes.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(functional.avg_pool2d(x, kernel, kernel), x, rows)
    torch.testing.assert_close(back, wanted)
    assert not last or back.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=60)
@given(cases(), st.integers(0, 2**16), st.integers(0, 3), st.booleans(), st.booleans())
def test_maxima(case: tuple[tuple[int, int], Tensor], seed: int, count: int, last: bool, one: bool) -> None:
    """Ties among bounds included: the elements chosen are those that PyTorch chooses."""
    kernel, lower = case
    generator = torch.Generator().manual_seed(seed)
    box = Interval(lower, lower + torch.randint(0, 3, lower.shape, generator=generator))
    assert pooling.candidates(*box, kernel) is not None
    found = selected(kernel, box)
    with pytest.MonkeyPatch.context() as patch:
        for name in WITHOUT:
            patch.setattr(name, None)
        expected = selected(kernel, box)
    for name in ("index", "certain", "ceiling"):
        same(getattr(found, name), getattr(expected, name))
    if lower.shape[0] == 0:
        return
    owner = torch.randint(0, lower.shape[0], (1 if one else count,), generator=generator)
    rows = torch.randn(count, *found.index.shape[1:], dtype=lower.dtype, generator=generator)
    rows = rows.contiguous(memory_format=torch.channels_last) if last else rows
    met = found.index, found.certain, found.ceiling
    stored = [part.contiguous(memory_format=torch.channels_last) for part in met]
    with pytest.MonkeyPatch.context() as patch:
        for name in WITHOUT:
            patch.setattr(name, None)
        (wanted,), constant = found.through(rows, lambda tensor: tensor.index_select(0, owner))
    for index, certain, ceiling in (met, stored):
        passed = pooling.select(rows, index, certain, ceiling, owner, lower.shape[2:])
        assert passed is not None
        same(passed[0], wanted)
        torch.testing.assert_close(passed[1], constant)
    (whole,), _ = found.through(rows, lambda tensor: tensor.index_select(0, owner))
    same(whole, wanted)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_odd_numbers(odd: float) -> None:
    """What is not a number is left to PyTorch, and decides nothing; what is infinite is a number."""
    lower = torch.tensor([[[[odd, 1.0], [0.0, 0.0]]]])
    assert (pooling.largest(lower, (2, 2)) is None) == math.isnan(odd)
    same(pool((2, 2)).evaluate(lower), functional.max_pool2d(lower, 2))
    for box in (Interval(lower, lower + 1), Interval(torch.zeros(1, 1, 2, 2), lower)):
        assert (pooling.candidates(*box, (2, 2)) is None) == math.isnan(odd)
        found = selected((2, 2), box)
        with pytest.MonkeyPatch.context() as patch:
            for name in WITHOUT:
                patch.setattr(name, None)
            expected = selected((2, 2), box)
        same((found.index, found.certain, found.ceiling), (expected.index, expected.certain, expected.ceiling))
        assert not (math.isnan(odd) and bool(found.certain.any()))
        rows = torch.tensor([1.0, -1.0, 0.0, math.nan, math.inf, -math.inf]).reshape(-1, 1, 1, 1)
        passed = found.through(rows, lambda tensor: tensor)
        with pytest.MonkeyPatch.context() as patch:
            for name in WITHOUT:
                patch.setattr(name, None)
            same(passed, found.through(rows, lambda tensor: tensor))


def test_what_it_was_not_written_for() -> None:
    planes, kernel = torch.randn(2, 3, 6, 6), (2, 2)
    last = planes.contiguous(memory_format=torch.channels_last)
    for odd in (planes.half(), last, planes[:, :, ::2], planes[0]):
        assert pooling.means(odd, kernel) is None
        assert pooling.largest(odd, kernel) is None
        assert pooling.candidates(odd, odd, kernel) is None
    assert pooling.means(planes, (7, 1)) is None
    assert pooling.means(torch.ones(1, 1, 1, 1026), (1, 2)) is None
    assert pooling.means(torch.ones(1, 1, 1025, 1), (1025, 1)) is None
    assert pooling.candidates(planes, planes[:1], kernel) is None
    rows = torch.randn(4, 3, 3, 3)
    assert pooling.means_back(rows, kernel, (8, 6)) is None
    assert pooling.means_back(rows[:, :, ::2], kernel, (4, 6)) is None
    found = pooling.candidates(planes, planes + 1, kernel)
    assert found is not None
    index, certain, ceiling = found
    owner = torch.tensor([0, 1, 1, 0])
    assert pooling.select(rows, index, certain, ceiling, owner, (6, 6)) is not None
    assert pooling.select(rows, index, certain, ceiling, owner + 1, (6, 6)) is None
    assert pooling.select(rows, index, certain, ceiling, owner - 1, (6, 6)) is None
    assert pooling.select(rows, index, certain, ceiling, owner[:3], (6, 6)) is None
    assert pooling.select(rows, index + 30, certain, ceiling, owner, (6, 6)) is None
    assert pooling.select(rows, index - 30, certain, ceiling, owner, (6, 6)) is None
    assert pooling.select(rows, index.int(), certain, ceiling, owner, (6, 6)) is None
    assert pooling.select(rows[:, :2], index, certain, ceiling, owner, (6, 6)) is None
    assert pooling.select(rows, index, certain[:1], ceiling, owner, (6, 6)) is None


def test_transforms_and_gradients() -> None:
    """Tracers, function transforms and gradients go PyTorch's way."""
    mean = AveragePool((2, 2), (2, 2), NONE, NONE, (1, 1))
    x, rows = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    operand = (TensorType((3, 5, 5), torch.float64),)
    for call, value in (
        (mean.apply, x), (pool((2, 2)).evaluate, x), (lambda y: mean.adjoint(y, operand)[0], rows),
        (lambda y: selected((2, 2), Interval(x, x + 1)).through(y, lambda tensor: tensor)[0][0], rows),
    ):  # fmt: skip
        expected = call(value)
        torch.testing.assert_close(make_fx(call)(torch.ones_like(value))(value), expected)
        torch.testing.assert_close(call(value.clone().requires_grad_()).detach(), expected)
        assert torch.autograd.gradcheck(call, value.clone().requires_grad_())
    for call in (mean.apply, pool((2, 2)).evaluate):
        torch.testing.assert_close(torch.func.vmap(call)(x[None].repeat(2, 1, 1, 1, 1))[1], call(x))
