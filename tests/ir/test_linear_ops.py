"""The linear algebra of every linear operator: its matrix, the transpose of it, its magnitudes, its constant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from irverify.ir.ops import (
    OPERATORS,
    AveragePool,
    BatchNorm,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Linear,
    LinearOp,
    ScaleShift,
    Slice,
)
from irverify.ir.ops import linear as linear_ops
from irverify.ir.ops.conv import CONV
from irverify.ir.ops.scatter import CONV_TRANSPOSE
from irverify.ir.types import TensorType
from tests.ir.linear_cases import CASES, f64

KINDS = sorted(CASES, key=lambda kind: kind.name)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def draw_inputs(types: tuple[TensorType, ...], batch: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-3, 4, (batch, *type_.shape), generator=generator).double() for type_ in types]


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def matrices(op: LinearOp, types: tuple[TensorType, ...], by_abs: bool = False) -> list[Tensor]:
    """`[out, in]` for each input, column by column."""
    function = op.apply_abs if by_abs else op.apply
    result = []
    for place, type_ in enumerate(types):
        inputs = [torch.zeros(type_.size, *other.shape, dtype=torch.float64) for other in types]
        inputs[place] = torch.eye(type_.size, dtype=torch.float64).reshape(-1, *type_.shape)
        result.append(function(*inputs).reshape(type_.size, -1).t())
    return result


def test_every_linear_operator_is_tested() -> None:
    assert set(CASES) == {operator for operator in OPERATORS.values() if issubclass(operator, LinearOp)}


@every_kind
@settings(max_examples=40)
@given(data=st.data())
def test_linear_algebra(kind: type[LinearOp], data: st.DataObject) -> None:
    op, types = data.draw(CASES[kind])
    result = op.infer(*types)
    first = draw_inputs(types, 3, 0)
    applied = op.apply(*first)
    assert applied.shape == (3, *result.shape)
    columns = matrices(op, types)
    by_matrix = sum(flat(x) @ matrix.t() for x, matrix in zip(first, columns, strict=True))
    torch.testing.assert_close(flat(applied), by_matrix)

    gradient = draw_inputs((result,), 3, 1)[0]
    pulled = op.adjoint(gradient, types)
    assert [part.shape for part in pulled] == [x.shape for x in first]
    for part, matrix in zip(pulled, columns, strict=True):
        torch.testing.assert_close(flat(part), flat(gradient) @ matrix)

    magnitudes = matrices(op, types, by_abs=True)
    for ours, matrix in zip(magnitudes, columns, strict=True):
        torch.testing.assert_close(ours, matrix.abs())
    assert not kind.nonnegative or all(bool((matrix >= 0).all()) for matrix in columns)

    offset = op.offset(result.rank)
    expected = applied if offset is None else applied + offset
    evaluated = op.evaluate(*first)
    assert evaluated.shape == (3, *result.shape)
    assert evaluated.dtype == result.dtype
    torch.testing.assert_close(evaluated, expected)


@every_kind
@settings(max_examples=5)
@given(data=st.data())
def test_adjoint_in_every_mode_of_autograd(kind: type[LinearOp], data: st.DataObject) -> None:
    """Bounds are computed under no_grad, in inference mode, and with gradients to gradient and parameters."""
    op, types = data.draw(CASES[kind])
    gradient = draw_inputs((op.infer(*types),), 2, 1)[0]
    expected = op.adjoint(gradient, types)
    with torch.no_grad():
        for ours, theirs in zip(op.adjoint(gradient, types), expected, strict=True):
            assert torch.equal(ours, theirs)
            assert not ours.requires_grad
    with torch.inference_mode():
        for ours, theirs in zip(op.adjoint(gradient.clone(), types), expected, strict=True):
            assert torch.equal(ours, theirs)
    live = op.replace(**{
        name: parameter.clone().requires_grad_()
        for name, parameter in op.parameters().items()
        if isinstance(parameter, Tensor) and parameter.is_floating_point()
    })  # fmt: skip
    (live.adjoint(gradient.clone().requires_grad_(), types)[0].sum() + 0).backward()
    weights = [live.parameters().get(name) for name in ("weight", "scale")]
    for weight in weights:
        assert weight is None or (isinstance(weight, Tensor) and weight.grad is not None)


def reference(op: LinearOp, x: Tensor) -> Tensor:
    """The same function, written with plain PyTorch."""
    parameters = op.parameters()
    if isinstance(op, Linear):
        return functional.linear(x, parameters["weight"], parameters.get("bias"))  # type: ignore[arg-type]
    if isinstance(op, ScaleShift):
        return parameters.get("scale", 1) * x + parameters.get("shift", 0)  # type: ignore[operator]
    if isinstance(op, BatchNorm):
        mean, variance, weight, bias = (parameters.get(name) for name in ("mean", "variance", "weight", "bias"))
        return functional.batch_norm(x, mean, variance, weight, bias, eps=op.epsilon)  # type: ignore[arg-type]
    if isinstance(op, Conv):
        padded = functional.pad(x, [amount for pair in reversed(op.padding) for amount in pair])
        convolve = CONV[len(op.stride)]
        return convolve(padded, parameters["weight"], parameters.get("bias"), op.stride, 0, op.dilation, op.groups)
    raise TypeError(type(op))


@pytest.mark.parametrize("kind", [Linear, ScaleShift, BatchNorm, Conv], ids=lambda kind: kind.name)
@given(data=st.data())
def test_evaluation_agrees_with_torch(kind: type[LinearOp], data: st.DataObject) -> None:
    op, types = data.draw(CASES[kind])
    (x,) = draw_inputs(types, 2, 0)
    torch.testing.assert_close(op.evaluate(x), reference(op, x))


@given(data=st.data())
def test_conv_transpose_agrees_with_torch(data: st.DataObject) -> None:
    """Where PyTorch has it: symmetric padding, output padding less than stride or dilation."""
    op, types = data.draw(CASES[ConvTranspose])
    assert isinstance(op, ConvTranspose)
    (x,) = draw_inputs(types, 2, 0)
    limits = [max(steps) - 1 for steps in zip(op.stride, op.dilation, strict=True)]
    extra = tuple(map(min, op.output_padding, limits))
    op = op.replace(padding=tuple((min(pair), min(pair)) for pair in op.padding), output_padding=extra)
    bias = op.bias
    assert isinstance(op.weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    padding = tuple(before for before, _ in op.padding)
    try:
        expected = CONV_TRANSPOSE[x.ndim - 2](x, op.weight, bias, op.stride, padding, extra, op.groups, op.dilation)
    except RuntimeError:  # PyTorch refuses some results that its padding crops away
        return
    torch.testing.assert_close(op.evaluate(x), expected)


@pytest.mark.parametrize(("ours", "theirs"), [((3, 1), (1, 2)), ((2,), ()), ((), (4,)), ((4, 1, 2), (3, 2))])
def test_const_matmul_broadcasts_as_torch(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    """Leading axes of weight and value broadcast behind the batch axis."""
    weight = torch.randn(*ours, 2, 3, dtype=torch.float64)
    x = torch.randn(5, *theirs, 3, 4, dtype=torch.float64)
    op = ConstMatMul(weight, left=True)
    result = torch.stack([weight @ example for example in x])
    assert op.infer(f64(*theirs, 3, 4)).shape == result.shape[1:]
    torch.testing.assert_close(op.evaluate(x), result)


def at(tensor: Tensor, spot: list[int]) -> Tensor:
    """All channels of `[channels, *spatial]` at one place."""
    for index in spot:
        tensor = tensor[:, index]
    return tensor


@given(data=st.data())
def test_average_pool_counts_by_hand(data: st.DataObject) -> None:
    """Each window's sum over its elements, divided by those inside the input or the counted padding."""
    op, types = data.draw(CASES[AveragePool])
    assert isinstance(op, AveragePool)
    (x,) = draw_inputs(types, 1, 0)
    result = op.evaluate(x)
    for place in torch.cartesian_prod(*(torch.arange(extent) for extent in result.shape[2:])).reshape(-1, x.ndim - 2):
        total, count = torch.zeros(x.shape[1], dtype=torch.float64), 0
        for offset in torch.cartesian_prod(*(torch.arange(extent) for extent in op.kernel)).reshape(-1, x.ndim - 2):
            spot = [int(p) * stride + int(o) - before for p, o, stride, (before, _)
                    in zip(place, offset, op.stride, op.padding, strict=True)]  # fmt: skip
            extents = x.shape[2:]
            inside = all(0 <= s < extent for s, extent in zip(spot, extents, strict=True))
            counted = all(-before <= s < extent + after for s, extent, (before, after)
                          in zip(spot, extents, op.counted, strict=True))  # fmt: skip
            total += at(x[0], spot) if inside else 0
            count += counted
        torch.testing.assert_close(at(result[0], place.tolist()), total / count)


def test_slice_adjoint_under_vmap() -> None:
    op = Slice((1, 0), (3, 4), (1, 2))
    gradient = torch.randn(5, 2, 2, 2)
    mapped = torch.func.vmap(lambda one: op.adjoint(one, (TensorType((4, 4)),))[0])(gradient)
    torch.testing.assert_close(mapped[0], op.adjoint(gradient[0], (TensorType((4, 4)),))[0])




@pytest.mark.parametrize("count", [1, 7, 2**18])
@pytest.mark.parametrize("out", [0, 1, 5])
@pytest.mark.parametrize("lead", [(2,), (2, 3), (0,)])
def test_magnitudes_of_a_weight_in_parts(
    count: int, out: int, lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_ops, "MAGNITUDES", count * 8)
    for size in (0, 1, 4):
        weight, x = torch.randn(out, size).double(), torch.rand(*lead, size).double()
        for same in (weight, weight.t().contiguous().t(), weight[:, :1].expand(out, size)):
            expected = functional.linear(x, same.abs())
            torch.testing.assert_close(Linear(same).apply_abs(x), expected)
            torch.testing.assert_close(Linear(nn.Parameter(same)).apply_abs(x), expected)


def test_magnitudes_are_made_in_parts_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the launch of each product would count."""
    monkeypatch.setattr(linear_ops, "MAGNITUDES", 1)
    found: list[torch.Size] = []
    plain = functional.linear

    def noted(x: Tensor, weight: Tensor) -> Tensor:
        found.append(weight.shape)
        return plain(x, weight)

    monkeypatch.setattr(functional, "linear", noted)
    for device in ("cpu", "meta"):
        weight = torch.zeros(3, 2, device=device)
        assert Linear(weight).apply_abs(torch.zeros(1, 2, device=device)).shape == (1, 3)
    assert found == [(1, 2)] * 3 + [(3, 2)]
