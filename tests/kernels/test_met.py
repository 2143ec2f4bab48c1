"""What rows meet, and where they start from, by compiled code against PyTorch's operations."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from irverify.ir.graph import Node
from irverify.ir.ops import Conv, Linear, Relu, Spec
from irverify.ir.params import value
from irverify.ir.types import TensorType
from irverify.kernels import available, bounds, intervals, native
from irverify.kernels.adjoint import CHIP
from irverify.kernels.intervals import MOST, around, dense, interval, spec
from irverify.kernels.units import unit_rows
from irverify.passes.adjoints import before_convolution
from irverify.passes.bent import Lines
from irverify.passes.curves import ReluLines, kinked, relu
from irverify.passes.forms import Dense, Units
from irverify.passes.ibp import IBP
from irverify.passes.lines import Choice, Relaxation
from irverify.passes.propagate import Interval, tightened
from irverify.pipeline.facts import Bounds

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SEEDS = st.integers(0, 2**16)
ODD = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf])
SHAPES = st.sampled_from(((2, 3, 4, 5), (3, 4, 5), (1, 5, 7), (3, 1, 6, 2), (40, 30, 70), (2, 600, 3, 7), (0, 2, 2)))


def drawn(*shape: int, seed: int, dtype: torch.dtype, odd: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, generator=generator, dtype=dtype)
    if odd and found.numel():
        places = torch.randint(found.numel(), (2 * len(ODD),), generator=generator)
        found.view(-1)[places] = ODD.to(dtype).repeat(2)
    return found


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_bounds_by_hand() -> None:
    """Tighter on one side, on both, crossed by rounding, not a number, infinite on the wrong side."""
    lower, upper = torch.zeros(5), torch.ones(5)
    low = torch.tensor([0.5, 0.25, 0.75, math.nan, math.inf])
    high = torch.tensor([2.0, 0.5, 0.5, math.nan, -math.inf])
    found = bounds.tightened(lower, upper, low, high)
    assert found is not None
    assert [side.tolist() for side in found] == [[0.5, 0.25, 0.5, 0, 0], [1, 0.5, 0.75, 1, 1]]
    middle = bounds.middle(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 4.0]), last=False)
    assert middle is not None
    assert [part.tolist() for part in middle] == [[1.5, 1.0], [0.5, 3.0]]


def test_lines_by_hand() -> None:
    """Two channels of three places: those of a place stand side by side; constants below are zero everywhere."""
    slope = torch.arange(6.0).reshape(2, 1, 3)
    met = bounds.met_lines(slope, slope + torch.tensor([0.0, 0, 1]), torch.zeros_like(slope), 2 * slope, last=True)
    assert met is not None
    assert met[0].permute(1, 2, 0).flatten().data_ptr() == met[0].data_ptr()
    assert met[0].permute(1, 2, 0).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert met[1] is not None
    assert met[1].tolist() == [[[0, 0, 1]], [[0, 0, 1]]]
    assert met[2] is None
    assert met[3] is not None
    same(met[3], 2 * slope)


def test_units_by_hand() -> None:
    """Kernel (1, 2; 3, 4) in the corners of a result of 2 x 2, padded by one before: windows move by two."""
    weight = torch.tensor([[[[1.0, 2], [3, 4]]]])
    found = unit_rows(weight, torch.tensor([0, 3]), (2, 2), (2, 2), (1, 1), (3, 3), last=True)
    assert found is not None
    assert found.tolist() == [[[[4, 0, 0], [0, 0, 0], [0, 0, 0]]], [[[0, 0, 0], [0, 1, 2], [0, 3, 4]]]]
    assert unit_rows(weight, torch.tensor([4]), (2, 2), (2, 2), (1, 1), (3, 3), last=True) is None
    assert unit_rows(weight, torch.tensor([-1]), (2, 2), (2, 2), (1, 1), (3, 3), last=True) is None


@settings(max_examples=40)
@given(DTYPES, SEEDS, SHAPES, st.booleans())
def test_tightened(dtype: torch.dtype, seed: int, shape: tuple[int, ...], odd: bool) -> None:
    lower, upper, low, high = (drawn(*shape, seed=seed + k, dtype=dtype, odd=odd) for k in range(4))
    found = bounds.tightened(lower, upper, low, high)
    assert found is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "native", None)
        same(found, tuple(tightened(Interval(lower, upper), low, high)))


@settings(max_examples=40)
@given(DTYPES, SEEDS, SHAPES, st.booleans(), st.booleans())
def test_centre_and_radius(dtype: torch.dtype, seed: int, shape: tuple[int, ...], last: bool, odd: bool) -> None:
    lower, upper = (drawn(*shape, seed=seed + k, dtype=dtype, odd=odd) for k in range(2))
    found = bounds.middle(lower, upper, last=last)
    assert found is not None
    same(found, ((lower + upper) / 2, (upper - lower) / 2))
    assert all((part.movedim(-3, -1) if last else part).is_contiguous() for part in found)


@settings(max_examples=40)
@given(DTYPES, SEEDS, SHAPES, st.booleans(), st.booleans(), st.sets(st.integers(1, 3)))
def test_lines(
    dtype: torch.dtype, seed: int, shape: tuple[int, ...], last: bool, odd: bool, zeros: set[int]
) -> None:
    slope, high, base, top = (drawn(*shape, seed=seed + k, dtype=dtype, odd=odd) for k in range(4))
    high = slope.nan_to_num() if 1 in zeros else high
    slope = slope.nan_to_num() if 1 in zeros else slope
    base, top = (part.zero_() if k in zeros else part for k, part in ((2, base), (3, top)))
    found = bounds.met_lines(slope, high, base, top, last=last)
    assert found is not None
    expected = slope, high - slope, base, top
    wanted = tuple(part if k == 0 or bool((part != 0).any()) else None for k, part in enumerate(expected))
    assert [part is None for part in found] == [part is None for part in wanted]
    for part, same_as in zip(found, wanted, strict=True):
        if part is not None:
            same(part, same_as)
            assert (part.movedim(-3, -1) if last else part).is_contiguous()
    same(bounds.met_lines(slope, high, None, None, last=last), (found[0], found[1], None, None))


@settings(max_examples=20)
@given(DTYPES, SEEDS, st.booleans(), st.sampled_from((0, slice(None))))
def test_lines_of_relaxations(dtype: torch.dtype, seed: int, odd: bool, examples: int | slice) -> None:
    parts = [drawn(2, 3, 4, 5, seed=seed + k, dtype=dtype, odd=odd) for k in range(4)]
    parts[1] = parts[1].new_zeros(()).expand_as(parts[1])
    lines = Lines.met(Relaxation(*parts), examples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "native", None)
        expected = Lines.met(Relaxation(*parts), examples)
    for name in ("slope", "rise", "base", "top"):
        one, other = getattr(lines, name), getattr(expected, name)
        same(one, other)
        assert one is None or one.stride() == other.stride()


@settings(max_examples=40)
@given(DTYPES, SEEDS, SHAPES, st.booleans(), st.sampled_from(("adaptive", "zero", "same", None)), st.booleans())
def test_lines_around_relus(
    dtype: torch.dtype, seed: int, shape: tuple[int, ...], last: bool, choice: Choice | None, open_: bool
) -> None:
    """What rows meet is made of the same lines, to the last bit; nothing rises where no ReLU is unstable."""
    lower, apart, lean = (drawn(*shape, seed=seed + k, dtype=dtype, odd=False) for k in range(3))
    lower = lower if open_ else lower.abs()
    upper, chosen = lower + apart.abs(), lean if choice is None else choice
    found = bounds.relu_met(lower, upper, chosen, last=last)
    lines = bounds.relu_lines(lower, upper, chosen)
    assert found is not None
    assert lines is not None
    expected = bounds.met_lines(*lines[:2], None, lines[2], last=last)
    assert expected is not None
    same(found, (*expected[:2], expected[3]))
    for part in found:
        assert part is None or (part.movedim(-3, -1) if last else part).is_contiguous()
    assert bounds.relu_met(lower, upper, lean[None], last=last) is None
    assert bounds.relu_met(lower, upper.to(torch.float16), chosen, last=last) is None


@given(DTYPES, SEEDS, st.sampled_from((1, 7, 40_000)), st.sampled_from((0.0, math.inf, -math.inf, math.nan)))
def test_widths_that_are_finite(dtype: torch.dtype, seed: int, size: int, odd: float) -> None:
    lower, upper = (drawn(size, seed=seed + k, dtype=dtype, odd=False) for k in range(2))
    assert bounds.finite(lower, upper)
    upper[seed % size] = odd
    assert bounds.finite(lower, upper) is (odd == 0)
    assert bounds.finite(upper, lower) is (odd == 0)
    huge = torch.full_like(lower, torch.finfo(dtype).max)
    assert not bounds.finite(-huge, huge)
    assert bounds.finite(lower, upper[:-1]) is None


@settings(max_examples=20)
@given(DTYPES, SEEDS, st.sampled_from(("adaptive", "zero", "same")), st.sampled_from(((2, 3, 4, 5), (2, 7), (2,))))
def test_relaxations_of_relus(dtype: torch.dtype, seed: int, choice: Choice, shape: tuple[int, ...]) -> None:
    """Made where they are asked for, they are the lines of all functions with a kink; rows of one example and of all
    meet these."""
    lower, apart = (drawn(*shape, seed=seed + k, dtype=dtype, odd=False) for k in range(2))
    operand = Interval(lower, lower + apart.abs())
    node = Node("y", Relu(), ("x",), TensorType(shape[1:], dtype))
    expected = kinked(0.0, 1.0, operand, choice)
    for examples in (1, slice(None)):
        found = relu(node, [operand], choice)
        assert isinstance(found, ReluLines)
        lines = Lines.met(found, examples)
        for one, other in zip(vars(lines).values(), vars(Lines.met(expected, examples)).values(), strict=True):
            same(one, other)
            assert one is None or one.stride() == other.stride()
        same([getattr(found, field.name) for field in fields(found)], list(vars(expected).values()))
    with pytest.raises(AttributeError):
        _ = found.slope  # type: ignore[attr-defined]
    wide = Interval(operand.lower, torch.full_like(lower, math.inf))
    assert not relu(node, [wide], choice).finite


def test_lines_in_another_order_are_left_to_pytorch() -> None:
    one, other = torch.rand(2, 3, 4, 5), torch.rand(2, 5, 4, 3).transpose(1, 3)
    assert bounds.met_lines(one, other, None, None, last=True) is None
    assert bounds.met_lines(other, other, None, None, last=True) is None
    assert bounds.middle(one, other, last=False) is None
    assert bounds.middle(one, one[:1], last=False) is None
    last = one.contiguous(memory_format=torch.channels_last)
    met = bounds.middle(last, 2 * last, last=True)
    assert met is not None
    assert met[0].stride() == last.stride()
    assert bounds.middle(last, 2 * last, last=False) is None


@settings(max_examples=40)
@given(
    DTYPES, SEEDS, st.integers(1, 4), st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 2)] * 4), st.tuples(*[st.integers(1, 3)] * 2), st.integers(0, 30),
)  # fmt: skip
def test_units_of_convolutions(
    dtype: torch.dtype, seed: int, out: int, channels: int, stride: tuple[int, ...], around: tuple[int, ...],
    taps: tuple[int, ...], rows: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, channels, *taps, generator=generator, dtype=dtype)
    op = Conv(weight, None, stride, ((around[0], around[1]), (around[2], around[3])))
    operand = TensorType((channels, 4, 3), dtype)
    result = op.infer(operand)
    elements = torch.randint(result.size, (rows,), generator=generator)
    form = Units(elements, result.shape, weight)
    found = before_convolution(op, operand, form)
    assert isinstance(found, Dense)
    same(found.coefficients, op.adjoint(form.dense(), (operand,))[0])


vectors = pytest.mark.skipif(not CHIP, reason="no kernels for this processor")
CHIPS = st.integers(1, max(1, CHIP))


@vectors
def test_intervals_by_hand() -> None:
    """x in [0, 2] and y in [1, 1] through kernel (1, -2) padded by one after, and bias 1."""
    lower, upper = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[2.0, 1.0]]]])
    weight, bias = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 1.0]]]]), torch.tensor([1.0, 0.0])
    found = interval(lower, upper, weight, bias, (1, 1), ((0, 0), (0, 1)))
    assert found is not None
    assert [side.tolist() for side in found] == [[[[[-1, 2]], [[1, 0]]]], [[[[1, 2]], [[1, 0]]]]]


def intervals_agree(op: Conv, lower: Tensor, upper: Tensor) -> None:
    """Of whole numbers, whose sums are exact: by compiled code, in whatever order the operand stands and whether it is
    written over or not, by the rule that asks it, and by PyTorch."""
    shape = tuple(lower.shape[1:])
    node = Node("y", op, ("x",), op.infer(TensorType(shape, lower.dtype)))
    bias = None if op.bias is None else value(op.bias)
    found = interval(lower, upper, value(op.weight), bias, op.stride, op.padding)
    assert found is not None
    moves = value(op.weight), bias, op.stride, op.padding
    turned = [side.contiguous(memory_format=torch.channels_last) for side in (lower, upper)]
    if not turned[0].is_contiguous():  # with one channel, or one place, it stands in both orders
        before = [side.clone() for side in turned]
        same(found, interval(turned[0], turned[1], *moves, spent=True))
        same(turned, before)
    mine = lower.clone(), upper.clone()
    over = interval(mine[0], mine[1], *moves, spent=True)
    same(found, over)
    assert over is not None
    if lower.numel():
        assert (over[0].data_ptr() == mine[0].data_ptr()) == (over[0].shape == lower.shape)
    rule = IBP.find(Conv)
    assert rule is not None
    same(found, tuple(rule(node, Interval(lower, upper))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "native", None)
        same(found, tuple(rule(node, Interval(lower, upper))))


def whole(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@vectors
@settings(max_examples=80)
@given(
    DTYPES, SEEDS, CHIPS, st.integers(1, 35), st.integers(1, 3), st.tuples(*[st.integers(1, 6)] * 2),
    st.tuples(*[st.sampled_from((0, 0, 1, 2, 9))] * 4), st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.sampled_from((1, 2, 5, 17, 40))] * 2), st.integers(0, 3), st.booleans(),
)  # fmt: skip
def test_intervals_of_convolutions(
    dtype: torch.dtype, seed: int, chip: int, out: int, channels: int, stride: tuple[int, ...],
    around: tuple[int, ...], taps: tuple[int, ...], extents: tuple[int, ...], batch: int, biased: bool,
) -> None:  # fmt: skip
    """Strides beyond the taps, padding beyond the plane, windows of which one fits, and several tiles side by side."""
    padding = (around[0], around[1]), (around[2], around[3])
    assume(all(n + sum(pair) >= k for n, pair, k in zip(extents, padding, taps, strict=True)))
    weight = whole(out, channels, *taps, seed=seed, dtype=dtype)
    bias = whole(out, seed=seed + 1, dtype=dtype) if biased else None
    lower = whole(batch, channels, *extents, seed=seed + 2, dtype=dtype)
    upper = lower + whole(*lower.shape, seed=seed + 3, dtype=dtype).abs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "CHIP", chip)
        patch.setattr(intervals, "LITTLE", 2**30)
        intervals_agree(Conv(weight, bias, stride, padding), lower, upper)


@vectors
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intervals_on_threads(batch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are shared among threads, of which there may be more than examples."""
    monkeypatch.setattr(native, "THREADED", 0)
    monkeypatch.setattr(intervals, "LITTLE", 2**30)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        lower = whole(batch, 3, 13, 19, seed=1, dtype=dtype)
        upper = lower + whole(batch, 3, 13, 19, seed=2, dtype=dtype).abs()
        for stride in ((1, 1), (2, 3), (5, 1)):
            weight, bias = whole(7, 3, 3, 2, seed=3, dtype=dtype), whole(7, seed=4, dtype=dtype)
            intervals_agree(Conv(weight, bias, stride, ((1, 2), (0, 3))), lower, upper)
    finally:
        torch.set_num_threads(before)


@vectors
@pytest.mark.parametrize(("batch", "channels", "out"), [(0, 2, 3), (2, 0, 3), (2, 2, 0), (0, 0, 0)])
def test_intervals_of_nothing(batch: int, channels: int, out: int) -> None:
    lower, weight = torch.zeros(batch, channels, 4, 5), torch.ones(out, channels, 2, 3)
    bias = torch.ones(out)
    found = interval(lower, lower, weight, bias, (1, 1), ((0, 0), (0, 0)))
    assert found is not None
    for side in found:
        assert side.shape == (batch, out, 3, 3)
        assert bool((side == 1).all())


@vectors
@pytest.mark.parametrize("step", [2**16, 2**32, 2**40, 2**62])
def test_strides_beyond_any_plane(step: int) -> None:
    """One window is left along that axis, and memory is that of the plane."""
    lower = whole(2, 2, 5, 6, seed=1, dtype=torch.float32)
    upper = lower + whole(2, 2, 5, 6, seed=2, dtype=torch.float32).abs()
    weight = whole(3, 2, 3, 2, seed=3, dtype=torch.float32)
    for stride in ((step, step), (step, 2), (1, step)):
        intervals_agree(Conv(weight, None, stride, ((1, 0), (0, 2))), lower, upper)


@vectors
def test_what_is_infinite_or_no_number_has_no_interval() -> None:
    for odd in (math.nan, math.inf, -math.inf):
        lower = torch.zeros(1, 1, 3, 3)
        lower[0, 0, 1, 1] = odd
        found = interval(lower, lower.clone(), torch.ones(1, 1, 1, 1), None, (1, 1), ((0, 0), (0, 0)))
        assert found is not None
        assert all(bool(side[0, 0, 1, 1].isnan()) and float(side.nansum()) == 0 for side in found)


@vectors
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_only_windows_over_what_is_no_number_have_no_interval(odd: float, stride: tuple[int, int]) -> None:
    """Not the elements that stand beside it in a vector."""
    lower = whole(2, 2, 9, 21, seed=1, dtype=torch.float32)
    upper, weight = lower + 1, whole(5, 2, 2, 3, seed=2, dtype=torch.float32)
    padding = ((1, 0), (0, 2))
    plain = interval(lower, upper, weight, None, stride, padding)
    lower[1, 1, 4, 9], upper[1, 1, 4, 9] = min(odd, 0.0), max(odd, 0.0)
    met = functional.conv2d(
        functional.pad((lower.isfinite() & upper.isfinite()).logical_not().float(), (0, 2, 1, 0)),
        torch.ones_like(weight), stride=stride,
    ) > 0  # fmt: skip
    found = interval(lower, upper, weight, None, stride, padding)
    assert plain is not None
    assert found is not None
    for side, other in zip(found, plain, strict=True):
        assert not bool(side[met].isfinite().any())
        same(side[~met], other[~met])


@vectors
def test_intervals_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    lower, weight = torch.zeros(1, 2, 9, 9), torch.ones(2, 2, 3, 3)
    assert interval(lower, lower, weight, None, (1, 1), ((0, 0), (0, 0))) is not None
    assert interval(lower, lower, weight, None, (1, 1), ((-1, 0), (0, 0))) is None
    assert interval(lower, lower, weight[:, :1], None, (1, 1), ((0, 0), (0, 0))) is None
    assert interval(lower, lower, torch.ones(2, 2, 10, 1), None, (1, 1), ((0, 0), (0, 0))) is None
    assert interval(lower.mT, lower.mT, weight[..., :2], None, (1, 1), ((0, 0), (0, 0))) is None
    assert interval(lower, lower, weight.double(), None, (1, 1), ((0, 0), (0, 0))) is None
    for bias in (torch.ones(1), torch.ones(2, 1), torch.ones(3)):
        assert interval(lower, lower, weight, bias, (1, 1), ((0, 0), (0, 0))) is None
    assert interval(lower.expand(500, -1, -1, -1).contiguous(), lower, weight, None, (1, 1), ((0, 0), (0, 0))) is None
    assert interval(lower, lower, weight, None, (2**15, 1), ((0, 2**21), (0, 0))) is None
    monkeypatch.setattr(intervals, "CHIP", 0)
    assert interval(lower, lower, weight, None, (1, 1), ((0, 0), (0, 0))) is None


@vectors
def test_intervals_of_a_dense_layer_by_hand() -> None:
    """x in [0, 2] and y in [1, 1] through x - 2 y + 1 and -x."""
    lower, upper = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    found = dense(lower, upper, torch.tensor([[1.0, -2.0], [-1.0, 0.0]]), torch.tensor([1.0, 0.0]))
    assert found is not None
    assert [side.tolist() for side in found] == [[[-1, -2]], [[1, 0]]]


@vectors
@settings(max_examples=40)
@given(
    DTYPES, SEEDS, st.integers(1, 20), st.sampled_from((1, 3, 8, 9, 16, 40, 77, 300)), st.integers(1, MOST),
    st.booleans(),
)  # fmt: skip
def test_intervals_of_dense_layers(
    dtype: torch.dtype, seed: int, out: int, size: int, batch: int, biased: bool
) -> None:
    """Whole numbers, whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (out, size), generator=generator).to(dtype)
    bias = torch.randint(-3, 4, (out,), generator=generator).to(dtype) if biased else None
    lower = torch.randint(-3, 4, (batch, size), generator=generator).to(dtype)
    upper = lower + torch.randint(0, 4, lower.shape, generator=generator)
    found = dense(lower, upper, weight, bias)
    assert found is not None
    op = Linear(weight, bias)
    rule, node = IBP.find(Linear), Node("y", op, ("x",), op.infer(TensorType((size,), dtype)))
    assert rule is not None
    same(found, tuple(rule(node, Interval(lower, upper))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "native", None)
        same(found, tuple(rule(node, Interval(lower, upper))))


@vectors
def test_dense_layers_of_what_is_infinite_or_no_number() -> None:
    for odd in (math.nan, math.inf, -math.inf):
        for lower, upper in ((odd, odd), (odd, math.inf), (-math.inf, odd)):
            box = torch.zeros(2, 9), torch.zeros(2, 9)
            box[0][1, 8], box[1][1, 8] = lower, upper
            found = dense(*box, torch.ones(3, 9), None)
            assert found is not None
            assert all(bool(side[1].isnan().all()) and side[0].tolist() == [0] * 3 for side in found)
    found = dense(torch.ones(1, 9), torch.ones(1, 9), torch.full((1, 9), math.nan), None)
    assert found is not None
    assert all(bool(side.isnan()) for side in found)


@vectors
def test_dense_layers_left_to_pytorch() -> None:
    lower, weight = torch.zeros(2, 5), torch.ones(3, 5)
    assert dense(lower, lower, weight, None) is not None
    assert dense(lower, lower[:1], weight, None) is None
    assert dense(lower[:1].expand(2, -1), lower, weight, None) is None
    assert dense(lower, lower, torch.ones(5, 3).T, None) is None
    assert dense(lower, lower, weight[:, :1], None) is None
    assert dense(lower, lower, weight.double(), None) is None
    assert dense(lower.half(), lower.half(), weight.half(), None) is None
    for bias in (torch.ones(1), torch.ones(3, 1), torch.ones(1).expand(3), torch.ones(3).double()):
        assert dense(lower, lower, weight, bias) is None
    for shape in ((0, 5), (MOST + 1, 5), (2, 2, 5)):
        assert dense(torch.zeros(shape), torch.zeros(shape), weight, None) is None
    assert dense(lower, lower, weight[:0], None) is None
    assert dense(lower[:, :0], lower[:, :0], weight[:, :0], None) is None


@vectors
@pytest.mark.parametrize("part", ["lower", "upper", "weight", "bias"])
def test_gradients_of_dense_layers(part: str) -> None:
    given = {"lower": torch.zeros(1, 4), "upper": torch.ones(1, 4), "weight": torch.randn(2, 4), "bias": torch.ones(2)}
    given[part].requires_grad_()
    op = Linear(given["weight"], given["bias"])
    rule, node = IBP.find(Linear), Node("y", op, ("x",), op.infer(TensorType((4,), torch.float32)))
    assert rule is not None
    found = rule(node, Interval(given["lower"], given["upper"]))
    assert found.lower.requires_grad
    assert found.upper.requires_grad


@vectors
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [6, 7, 12, 16, 33, 64])
def test_dense_layers_by_vectors_of_any_length(dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding is that of sums in some order, whatever the processor's vectors."""
    lower, upper = drawn(batch, 531, seed=1, dtype=dtype, odd=False), torch.full((batch, 531), 9.0, dtype=dtype)
    weight, bias = drawn(29, 531, seed=2, dtype=dtype, odd=False), drawn(29, seed=3, dtype=dtype, odd=False)
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    middle, reach = center @ weight.T + bias, radius @ weight.abs().T
    for chip in range(1, CHIP + 1):
        monkeypatch.setattr(intervals, "CHIP", chip)
        found = dense(lower, upper, weight, bias)
        assert found is not None
        slack = 531 * torch.finfo(dtype).eps * float(reach.max())
        torch.testing.assert_close(found, (middle - reach, middle + reach), rtol=0, atol=slack)


def test_bounds_around_centres_by_hand() -> None:
    center, radius = torch.tensor([1.0, -2.0, math.nan, 0.0]), torch.tensor([0.5, 3.0, 1.0, math.inf])
    assert around(center, radius)
    same(radius, torch.tensor([0.5, -5.0, math.nan, -math.inf]))
    same(center, torch.tensor([1.5, 1.0, math.nan, math.inf]))
    assert around(torch.zeros(0), torch.zeros(0))


def test_bounds_around_centres_left_to_pytorch() -> None:
    center = torch.ones(2, 3)
    for radius in (torch.ones(3, 2).mT, torch.ones(2, 3).double(), torch.ones(6)):
        assert not around(center, radius)
    assert not around(center.half(), center.half())
    assert not around(torch.ones(1).expand(4), torch.ones(1).expand(4))
    assert center.tolist() == [[1, 1, 1], [1, 1, 1]]


def spec_rule(op: Spec, lower: Tensor, upper: Tensor, rows: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
    types = [TensorType(tuple(part.shape[1:]), part.dtype) for part in (lower, rows, offset)]
    rule, node = IBP.find(Spec), Node("m", op, ("y", "C", "d"), op.infer(*types))
    assert rule is not None
    return tuple(rule(node, Interval(lower, upper), Interval(rows, rows), Interval(offset, offset)))


@vectors
def test_specification_by_hand() -> None:
    """y = (2 x_0 + 1, x_1 - x_0) for x_0 in [0, 1] and x_1 in [2, 2]: y_0 - y_1 = 3 x_0 - x_1 + 1, and -y_1."""
    lower, upper = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])
    rows = torch.tensor([[[1.0, -1.0], [0.0, -1.0]]])
    weight, bias = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([1.0, 0.0])
    found = spec(lower, upper, rows, torch.zeros(1, 2), weight, bias)
    assert found is not None
    assert [side.tolist() for side in found] == [[[-1, -2]], [[2, -1]]]


@vectors
@settings(max_examples=40)
@given(
    DTYPES, SEEDS, st.integers(1, 12), st.integers(1, 5), st.sampled_from((1, 3, 8, 9, 40, 300)), st.integers(1, 9),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_specifications(
    dtype: torch.dtype, seed: int, out: int, count: int, size: int, batch: int, weighted: bool, biased: bool, one: bool
) -> None:
    """Whole numbers, whose sums are exact; rows of each example, and of one for all."""
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)

    weight, bias = (whole(out, size), whole(out) if biased else None) if weighted else (None, None)
    lower = whole(batch, size)
    upper = lower + torch.randint(0, 4, lower.shape, generator=generator)
    examples = 1 if one else batch
    rows = whole(examples, count, out if weighted else size).expand(batch, -1, -1)
    offset = whole(examples, count).expand(batch, -1)
    found = spec(lower, upper, rows, offset, weight, bias)
    assert found is not None
    same(found, spec_rule(Spec(weight, bias), lower, upper, rows, offset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "native", None)
        same(found, spec_rule(Spec(weight, bias), lower, upper, rows, offset))


@vectors
def test_specifications_of_what_is_infinite_or_no_number() -> None:
    rows, offset = torch.ones(2, 1, 9), torch.zeros(2, 1)
    for odd in (math.nan, math.inf, -math.inf):
        lower = torch.zeros(2, 9)
        lower[1, 8] = odd
        for weight in (None, torch.ones(9, 9)):
            found = spec(lower, lower.clone(), rows, offset, weight, None)
            assert found is not None
            assert all(bool(side[1].isnan()) and float(side[0]) == 0 for side in found)
        box, some = torch.zeros(2, 9), torch.where(lower == 0, 1.0, odd).unsqueeze(1)
        for weight in (None, torch.ones(9, 9)):
            found = spec(box, box, some, offset, weight, None)
            assert found is not None
            assert all(bool(side[1].isnan()) and float(side[0]) == 0 for side in found)


@vectors
def test_specifications_left_to_pytorch() -> None:
    lower, rows, offset, weight = torch.zeros(2, 5), torch.ones(2, 4, 3), torch.zeros(2, 4), torch.ones(3, 5)
    assert spec(lower, lower, rows, offset, weight, None) is not None
    assert spec(lower, lower[:1], rows, offset, weight, None) is None
    assert spec(lower, lower, rows[:1], offset, weight, None) is None
    assert spec(lower, lower, rows, offset[:, :3], weight, None) is None
    assert spec(lower, lower, rows, offset, None, None) is None
    assert spec(lower, lower, rows, offset, weight, torch.ones(1)) is None
    assert spec(lower, lower, rows, offset, weight, torch.ones(1).expand(3)) is None
    assert spec(lower, lower, rows, offset, torch.ones(5, 3).mT, None) is None
    assert spec(lower, lower, torch.ones(2, 3, 4).mT, offset, weight, None) is None
    assert spec(lower, lower, torch.ones(4, 4, 3)[::2], offset, weight, None) is None
    assert spec(lower.double(), lower.double(), rows, offset, weight, None) is None
    assert spec(lower[:0], lower[:0], rows[:0], offset[:0], weight, None) is None
    assert spec(lower[:, :0], lower[:, :0], rows, offset, weight[:, :0], None) is None
    assert spec(lower, lower, rows[:, :0], offset[:, :0], weight, None) is None
    many, weight = torch.eye(100).expand(2, -1, -1), torch.ones(100, 5)
    assert spec(lower, lower, many, torch.zeros(2, 100), weight, None) is not None
    assert spec(lower, lower, torch.ones(2, 100, 100), torch.zeros(2, 100), weight, None) is None
    with torch.autocast("cpu"):
        found = spec_rule(Spec(torch.ones(3, 5)), lower, lower, rows, offset)
    assert found[0].tolist() == [[0] * 4] * 2


@vectors
@pytest.mark.parametrize("part", ["lower", "rows", "offset", "weight", "bias"])
def test_gradients_of_specifications(part: str) -> None:
    given = {
        "lower": torch.zeros(2, 5), "rows": torch.ones(2, 4, 3), "offset": torch.zeros(2, 4),
        "weight": torch.randn(3, 5), "bias": torch.ones(3),
    }  # fmt: skip
    given[part].requires_grad_()
    op = Spec(given["weight"], given["bias"])
    found = spec_rule(op, given["lower"], torch.ones(2, 5), given["rows"], given["offset"])
    assert all(side.requires_grad for side in found)


def test_order_by_hand() -> None:
    """Equal ends and infinite ones on their own sides are in order."""
    inf = math.inf
    for low, high, good in ((0, 0, True), (1, 0, False), (-inf, inf, True), (inf, inf, False), (-inf, -inf, False)):
        assert bounds.ordered(torch.tensor([0.0, low]), torch.tensor([0.0, high])) is good
    assert bounds.ordered(torch.tensor([math.nan]), torch.tensor([1.0])) is False
    assert bounds.ordered(torch.tensor([1.0]), torch.tensor([math.nan])) is False
    assert bounds.ordered(torch.zeros(0), torch.zeros(0)) is True
    assert bounds.ordered(torch.zeros(2, 3), torch.zeros(3, 2).mT) is None


@settings(max_examples=40)
@given(DTYPES, SEEDS, SHAPES, st.booleans())
def test_order(dtype: torch.dtype, seed: int, shape: tuple[int, ...], odd: bool) -> None:
    lower, width = (drawn(*shape, seed=seed + k, dtype=dtype, odd=odd and k == 0) for k in range(2))
    for upper in (lower + width.abs(), lower + width + 3):
        found = bounds.ordered(lower, upper)
        assert found is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "native", None)
            assert found == Bounds(lower, upper, "test").ordered
