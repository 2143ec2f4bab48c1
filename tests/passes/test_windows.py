"""Windows of coefficients against the dense rows that they stand for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from irverify.errors import ShapeError
from irverify.ir.ops import Conv
from irverify.ir.ops.memory import LAST, is_last
from irverify.ir.types import TensorType
from irverify.kernels import available
from irverify.passes import forms
from irverify.passes.forms import (
    Columns,
    Dense,
    Form,
    Patches,
    Rows,
    Twice,
    Units,
    alone,
    joined,
    minimum,
    pieces,
    plus,
    spread,
)
from irverify.passes.windows import Grid, Windows, kernels

DOUBLE = torch.float64


DTYPES = st.sampled_from((torch.float32, DOUBLE))
"""Single precision has the channels last in memory."""


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Small whole numbers, whose sums of products are exact."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def convolutions(
    draw: st.DrawFn, channels: int, plane: tuple[int, int], spread: int = 3, dtype: torch.dtype = DOUBLE
) -> Conv:
    """A convolution of a value with so many channels: any stride, dilation, groups and padding that fit."""
    kernel = tuple(draw(st.integers(1, 3)) for _ in plane)
    dilation = tuple(draw(st.integers(1, 2)) for _ in plane)
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in plane)
    stride = tuple(draw(st.integers(1, spread)) for _ in plane)
    groups = draw(st.sampled_from([1, 2] if channels % 2 == 0 else [1]))
    weight = tensor(2 * groups, channels // groups, *kernel, seed=draw(st.integers(0, 99)), dtype=dtype)
    return Conv(weight, None, stride, padding, dilation, groups)


def units(op: Conv, operand: TensorType) -> Units:
    """A row for each element of the result."""
    shape = op.infer(operand).shape
    return Units(torch.arange(shape[0] * shape[1] * shape[2]), shape, torch.zeros(1, dtype=operand.dtype))


def started(op: Conv, operand: TensorType) -> Windows:
    form = units(op, operand)
    size = form.shape[1] * form.shape[2]
    return kernels(op, form.elements // size, form.elements % size, form.shape[1:], operand.shape[1:])


@given(data=st.data())
def test_kernels_are_the_rows_of_a_convolution(data: st.DataObject) -> None:
    operand = TensorType((2, 7, 6), data.draw(DTYPES))
    op = data.draw(convolutions(2, (7, 6), dtype=operand.dtype))
    expected = op.adjoint(units(op, operand).dense(), (operand,))[0]
    torch.testing.assert_close(started(op, operand).dense(), expected)
    torch.testing.assert_close(started(op, operand).cleaned().dense(), expected)


@given(data=st.data())
def test_a_second_convolution(data: st.DataObject) -> None:
    """Windows go on as windows, with what lies beyond the plane in between left out."""
    operand = TensorType((2, 17, 15), data.draw(DTYPES))
    first = data.draw(convolutions(2, (17, 15), spread=2, dtype=operand.dtype))
    middle = first.infer(operand)
    plane = (middle.shape[1], middle.shape[2])
    second = data.draw(convolutions(middle.shape[0], plane, spread=2, dtype=operand.dtype))
    try:
        second.infer(middle)
    except ShapeError:
        return
    windows = started(second, middle)
    before = windows.before(first, operand.shape[1:])
    if before is not None:
        torch.testing.assert_close(before.dense(), first.adjoint(windows.dense(), (operand,))[0])


@given(data=st.data())
def test_what_stands_at_the_windows(data: st.DataObject) -> None:
    operand = TensorType((2, 6, 7), data.draw(DTYPES))
    op = data.draw(convolutions(2, (6, 7), dtype=operand.dtype))
    windows, value = started(op, operand), tensor(2, 6, 7, seed=5, dtype=operand.dtype)
    rows = torch.arange(0, windows.place.shape[0], data.draw(st.sampled_from([1, 7])))
    chosen = Patches(windows.select(rows))
    dense = windows.dense()[rows]
    torch.testing.assert_close(chosen.dot(value), (dense * value).flatten(1).sum(1))
    assert torch.equal(chosen.at([value, 2 * value])[1], 2 * chosen.at([value])[0])
    passed = chosen.with_coefficients(chosen.coefficients * chosen.at([value])[0])
    torch.testing.assert_close(passed.dense(), dense * value)
    radius = value.abs()
    low = (dense * value - dense.abs() * radius).flatten(1).sum(1)
    torch.testing.assert_close(minimum(chosen, value, radius), low)


@given(data=st.data())
def test_windows_of_several_examples(data: st.DataObject) -> None:
    operand = TensorType((2, 6, 7), data.draw(DTYPES))
    op = data.draw(convolutions(2, (6, 7), dtype=operand.dtype))
    windows, values = started(op, operand), tensor(3, 2, 6, 7, seed=6, dtype=operand.dtype)
    rows = torch.arange(0, windows.place.shape[0], data.draw(st.sampled_from([1, 9])))
    chosen = windows.select(rows)
    owner = torch.arange(rows.shape[0]) % 3
    found = Patches(replace(chosen, owner=owner)).dot(values)
    torch.testing.assert_close(found, (chosen.dense() * values[owner]).flatten(1).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_coefficients_over_planes_stand_in_one_order(dtype: torch.dtype) -> None:
    operand = TensorType((3, 9, 9), dtype)
    op = Conv(tensor(4, 3, 3, 3, dtype=dtype), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    windows = started(op, operand)
    (cut,) = windows.cut([tensor(3, 9, 9, dtype=dtype)])
    for rows in (windows.coefficients, windows.cleaned().coefficients, windows.dense(), cut * windows.coefficients):
        assert is_last(rows) == (dtype in LAST)
    assert windows.select(torch.arange(0)).dense().shape == (0, 3, 9, 9)


def test_the_gradient_of_dense_rows_is_that_of_the_windows() -> None:
    operand = TensorType((3, 9, 9), torch.float32)
    op = Conv(tensor(4, 3, 3, 3, dtype=torch.float32), None, (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    windows, value = started(op, operand), tensor(3, 9, 9, seed=1, dtype=torch.float32)
    coefficients = windows.coefficients.detach().requires_grad_()
    dense = replace(windows, coefficients=coefficients).dense()
    assert torch.equal(dense, windows.dense())
    (gradient,) = torch.autograd.grad((dense * value).sum(), [coefficients])
    assert torch.equal(gradient, windows.cut([value])[0])


def test_sums_of_windows() -> None:
    """A residual connection: windows of different extents over one value, at the same steps."""
    operand = TensorType((2, 9, 9), DOUBLE)
    small = Conv(tensor(4, 2, 1, 1), None, (2, 2), ((0, 0), (0, 0)), (1, 1), 1)
    large = Conv(tensor(4, 2, 3, 3, seed=1), None, (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    one, two = (started(op, operand) for op in (small, large))
    total = one.plus(two)
    assert total is not None
    torch.testing.assert_close(total.dense(), one.dense() + two.dense())


def test_windows_that_move_at_other_steps_have_no_sum() -> None:
    starts, plane = (2, 2), (5, 5)
    first, second = (
        Windows(tensor(4, 1, 2, 2), torch.arange(4), Grid(starts, scale, (0, 0), plane), clean=True)
        for scale in ((1, 1), (2, 1))
    )
    assert first.plus(second) is None
    total = plus(Patches(first), Patches(second))
    torch.testing.assert_close(total.dense(), first.dense() + second.dense())


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 3)])
def test_forms_agree_with_dense_rows(shape: tuple[int, ...]) -> None:
    size = int(torch.tensor(shape).prod())
    index = torch.arange(0, size, 2)
    value, signs = tensor(*shape, seed=3), torch.tensor([1.0, -1.0, 1.0]).double()
    forms: list[Form] = [
        Units(torch.tensor([0, size - 1, 1]), shape, value),
        Columns(tensor(3, index.shape[0]), index, shape),
        Dense(tensor(3, *shape)),
    ]
    for form in forms:
        dense = form.dense()
        assert dense.shape == (3, *shape)
        torch.testing.assert_close(form.dot(value), (dense * value).flatten(1).sum(1))
        torch.testing.assert_close(spread(form).dense(), dense)
        torch.testing.assert_close(form.both_signs().dense(), torch.cat([dense, -dense]))
        torch.testing.assert_close(form.times(signs).dense(), dense * signs.reshape(3, *(1,) * len(shape)))
        torch.testing.assert_close(form.select(torch.tensor([2, 0])).dense(), dense[[2, 0]])
        for other in forms:
            torch.testing.assert_close(plus(form, other).dense(), dense + other.dense())
            before, expected = other.dense().clone(), dense + other.dense()
            plus(form, other)
            torch.testing.assert_close(other.dense(), before)  # it may be somebody else's, too
            torch.testing.assert_close(plus(form, other.select(torch.arange(3)), own=True).dense(), expected)
        torch.testing.assert_close(form.dense(), dense)


@given(st.integers(0, 2**16), st.booleans(), st.booleans(), st.sampled_from((torch.float32, DOUBLE)))
def test_windows_are_added_to_planes(seed: int, last: bool, twice: bool, dtype: torch.dtype) -> None:
    """In their memory; windows reach beyond the plane, where nothing is added."""
    op = Conv(tensor(4, 3, 3, 3, seed=seed), None, (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    windows = started(op, TensorType((3, 7, 7), DOUBLE))
    order = torch.channels_last if last else torch.contiguous_format
    windows = replace(windows, coefficients=windows.coefficients.to(dtype).contiguous(memory_format=order))
    count = windows.coefficients.shape[0] * (2 if twice else 1)
    rows = tensor(count, 3, 7, 7, seed=seed + 1).to(dtype).contiguous(memory_format=order)
    given: Rows = Twice(Patches(windows)) if twice else Patches(windows)
    expected = given.dense() + rows
    found = joined(given, Dense(rows), own=True)
    torch.testing.assert_close(found.dense(), expected)
    assert isinstance(found, Dense)
    assert found.coefficients.data_ptr() == rows.data_ptr()
    if available():
        assert windows.add_to(torch.zeros_like(rows[: len(windows.coefficients)]), 1)
        assert not windows.add_to(rows[:1], 1) or len(windows.coefficients) == 1
        assert not windows.add_to(rows.half()[: len(windows.coefficients)], 1)
        assert not windows.add_to(rows[: len(windows.coefficients)].transpose(2, 3), 1)


@pytest.mark.parametrize("shape", [(5,), (2, 2, 3)])
def test_negatives_that_are_not_there_yet(shape: tuple[int, ...]) -> None:
    index, value = torch.arange(0, int(torch.tensor(shape).prod()), 2), tensor(*shape, seed=3)
    halves: list[Form] = [
        Units(torch.tensor([0, 4, 1]), shape, value),
        Columns(tensor(3, index.shape[0]), index, shape),
        Dense(tensor(3, *shape)),
        Dense(tensor(3, *shape, seed=1).float()),
        Dense(tensor(3, *shape, seed=1).requires_grad_()),
    ]
    for half in halves:
        form, dense = Twice(half), torch.cat([half.dense(), -half.dense()])
        torch.testing.assert_close(form.dense(), dense)
        torch.testing.assert_close(spread(form).dense(), dense)
        torch.testing.assert_close(alone(form, 0).dense(), dense)
        torch.testing.assert_close(form.select(torch.tensor([2, 0, 5, 3])).dense(), dense[[2, 0, 5, 3]])
        for other in halves:
            more = Twice(other)
            expected = dense + more.dense()
            for own in (False, True):
                for one, two in itertools.product((form, form.whole()), (more, more.whole())):
                    copied = two if not own else two.select(torch.arange(6))
                    torch.testing.assert_close(joined(one, copied, own=own).dense(), expected)
                    torch.testing.assert_close(two.dense(), more.dense())
        torch.testing.assert_close(form.dense(), dense)


@pytest.mark.parametrize(
    "row",
    [
        tensor(3).expand(5, 3)[:1],
        tensor(3, 1).T,
        tensor(4, 4)[1:2, :2],
        tensor(2, 3, 2, 1).permute(3, 1, 2, 0),
        tensor(2, 3, 2, 1).permute(3, 0, 1, 2),
        tensor(0, 3),
    ],
)
def test_negatives_of_one_row_have_memory_of_their_own(row: Tensor) -> None:
    """Whatever step in memory a single row has to the next, which is not there."""
    torch.testing.assert_close(Dense(row).both_signs().dense(), torch.cat([row, -row]))


def test_sums_in_place_keep_type_and_gradients() -> None:
    wide, narrow = Dense(tensor(3, 2)), Dense(tensor(3, 2).float())
    assert plus(wide, narrow, own=True).dense().dtype == DOUBLE
    leaf = tensor(3, 2).requires_grad_()
    torch.testing.assert_close(plus(Dense(leaf), Dense(leaf * 2), own=True).dense(), leaf * 3)
    assert torch.autograd.grad(plus(wide, Dense(leaf), own=True).dense().sum(), leaf)[0].tolist() == [[1.0, 1.0]] * 3


@pytest.mark.parametrize("owned", [False, True])
def test_rows_and_their_negatives_meet_the_same_windows(owned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MANY", 1)
    op = Conv(tensor(3, 2, 3, 3), None, (2, 2), ((1, 1), (1, 1)))
    single = started(op, TensorType((2, 6, 6), DOUBLE))
    owner = torch.arange(single.place.shape[0]) % 2 if owned else None
    signed = Patches(replace(single, owner=owner)).both_signs()
    planes = tensor(2, 2, 6, 6) if owned else tensor(2, 6, 6)
    assert signed.windows.twice
    parts = pieces(signed, [planes])
    assert len(parts) == 2
    torch.testing.assert_close(torch.cat([met for _, (met,) in parts]), signed.at([planes])[0])
    count = single.place.shape[0]
    both, some = torch.tensor([1, 4, 1 + count, 4 + count]), torch.tensor([1, 4, 2 + count, 4 + count])
    for rows, twice in ((both, True), (some, False), (both[:3], False), (both.flip(0), False)):
        chosen = signed.select(rows)
        assert chosen.windows.twice == twice
        found = torch.cat([met for _, (met,) in pieces(chosen, [planes])])
        torch.testing.assert_close(found, signed.at([planes])[0][rows])
