"""Each rule of canonicalize, in text."""

from __future__ import annotations

import pytest
import torch

from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Add, Constant, Mul
from irverify.ir.types import TensorType
from irverify.pipeline import optimize
from tests.passes.rewrite_text import assert_rewrites, assert_stays

NAME = "canonicalize"


def test_1_an_operator_on_constants_is_a_constant() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2] = input()
        %a: f32[2] = constant() {tensor=tensor([1.0, 2.0])}
        %b: f32[2] = neg(%a)
        %c: f32[2] = mul(%b, %b)
        %y: f32[2] = maximum(%x, %c)
        return %y
        """,
        """
        %x: f32[2] = input()
        %c: f32[2] = constant() {tensor=tensor([1.0, 4.0])}
        %y: f32[2] = maximum(%x, %c)
        return %y
        """,
    )


def test_1_a_folded_constant_follows_its_parameters() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    builder = GraphBuilder()
    x = builder.input(TensorType((2,)))
    constant = builder.add(Constant(parameter))
    graph = builder.graph([builder.add(Add(), x, builder.add(Mul(), constant, constant))])
    folded = optimize(graph, NAME)
    assert [node.op.name for node in folded] == ["input", "scale_shift"]
    zero = torch.zeros(1, 2)
    assert folded.evaluate(zero).tolist() == [[1.0, 4.0]]  # type: ignore[union-attr]
    with torch.no_grad():
        parameter.copy_(torch.tensor([3.0, 5.0]))
    result = folded.evaluate(zero)
    assert isinstance(result, torch.Tensor)
    assert result.tolist() == [[9.0, 25.0]]
    result.sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [6.0, 10.0]


@pytest.mark.parametrize(
    "identity",
    [
        "identity(%a)",
        "cast(%a) {dtype=f32}",
        "reshape(%a) {shape=(2, 3)}",
        "transpose(%a) {permutation=(0, 1)}",
        "expand(%a) {shape=(2, 3)}",
        "slice(%a) {starts=(0, 0), stops=(2, 3), steps=(1, 1)}",
        "pad(%a) {padding=((0, 0), (0, 0))}",
        "add(%a)",
        "concat(%a) {axis=0}",
        "scale_shift(%a)",
        "clip(%a) {lower=-inf, upper=inf}",
        "pow(%a) {exponent=1.0}",
        "leaky_relu(%a) {slope=1.0}",
    ],
)
def test_2_what_changes_nothing_goes(identity: str) -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2,3] = input()
        %a: f32[2,3] = relu(%x)
        %b: f32[2,3] = {identity}
        %y: f32[2,3] = sigmoid(%b)
        return %y, %b
        """,
        """
        %x: f32[2,3] = input()
        %a: f32[2,3] = relu(%x)
        %y: f32[2,3] = sigmoid(%a)
        return %y, %a
        """,
    )


@pytest.mark.parametrize(
    "operator",
    [
        "cast(%x) {dtype=f64}",
        "transpose(%x) {permutation=(1, 0)}",
        "pad(%x) {padding=((1, -1), (0, 0))}",
        "clip(%x) {lower=-inf, upper=2.0}",
        "gather(%x) {indices=tensor([1, 0], i64), axis=0}",
        "reduce_sum(%x) {axes=(0,), keepdims=True}",
    ],
)
def test_2_what_changes_something_stays(operator: str) -> None:
    kind, shape = ("f64" if "f64" in operator else "f32"), "1,2" if "keepdims" in operator else "2,2"
    assert_stays(NAME, f"%x: f32[2,2] = input()\n%y: {kind}[{shape}] = {operator}\nreturn %y")


def test_3_moves_after_each_other_are_one() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2,3] = input()
        %a: f32[6] = reshape(%x) {shape=(6,)}
        %b: f32[3,2] = reshape(%a) {shape=(3, 2)}
        %c: f32[2,3] = transpose(%b) {permutation=(1, 0)}
        %d: f32[3,2] = transpose(%c) {permutation=(1, 0)}
        %e: f32[1,3,2] = expand(%d) {shape=(1, 3, 2)}
        %f: f32[4,3,2] = expand(%e) {shape=(4, 3, 2)}
        return %f
        """,
        """
        %x: f32[2,3] = input()
        %b: f32[3,2] = reshape(%x) {shape=(3, 2)}
        %f: f32[4,3,2] = expand(%b) {shape=(4, 3, 2)}
        return %f
        """,
    )


def test_3_transposes_compose_in_order() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2,3,4] = input()
        %a: f32[3,4,2] = transpose(%x) {permutation=(1, 2, 0)}
        %y: f32[4,3,2] = transpose(%a) {permutation=(1, 0, 2)}
        return %y
        """,
        """
        %x: f32[2,3,4] = input()
        %y: f32[4,3,2] = transpose(%x) {permutation=(2, 1, 0)}
        return %y
        """,
    )


def test_3_neg_of_neg() -> None:
    assert_rewrites(
        NAME,
        "%x: f32[2] = input()\n%a: f32[2] = neg(%x)\n%b: f32[2] = neg(%a)\n%y: f32[2] = relu(%b)\nreturn %y",
        "%x: f32[2] = input()\n%y: f32[2] = relu(%x)\nreturn %y",
    )


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("add(%x, %c)", "scale_shift(%x) {shift=tensor([2.0, 4.0])}"),
        ("add(%c, %x)", "scale_shift(%x) {shift=tensor([2.0, 4.0])}"),
        ("sub(%x, %c)", "scale_shift(%x) {shift=tensor([-2.0, -4.0])}"),
        ("sub(%c, %x)", "scale_shift(%x) {scale=tensor(-1.0), shift=tensor([2.0, 4.0])}"),
        ("mul(%c, %x)", "scale_shift(%x) {scale=tensor([2.0, 4.0])}"),
        ("div(%x, %c)", "scale_shift(%x) {scale=tensor([0.5, 0.25])}"),
    ],
)
def test_4_arithmetic_with_a_constant(operator: str, expected: str) -> None:
    assert_rewrites(
        NAME,
        f"%x: f32[2] = input()\n%c: f32[2] = constant() {{tensor=tensor([2.0, 4.0])}}\n"
        f"%y: f32[2] = {operator}\nreturn %y",
        f"%x: f32[2] = input()\n%y: f32[2] = {expected}\nreturn %y",
    )


@pytest.mark.parametrize("operator", ["div(%c, %x)", "div(%x, %c)"])
def test_4_division_by_a_value_or_by_zero_stays(operator: str) -> None:
    body = f"""
    %x: f32[2] = input()
    %c: f32[2] = constant() {{tensor=tensor([0.0, 4.0])}}
    %y: f32[2] = {operator}
    return %y
    """
    assert_stays(NAME, body.replace("\n    ", "\n"))


def test_4_a_broadcast_constant_is_not_enlarged() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2,2,2] = input()
        %c: f32[2,1,1] = constant() {tensor=tensor([[[2.0]], [[4.0]]])}
        %e: f32[2,2,2] = expand(%c) {shape=(2, 2, 2)}
        %y: f32[2,2,2] = mul(%x, %e)
        return %y
        """,
        """
        %x: f32[2,2,2] = input()
        %y: f32[2,2,2] = scale_shift(%x) {scale=tensor([[[2.0]], [[4.0]]])}
        return %y
        """,
    )


@pytest.mark.parametrize(("operator", "suffix"), [("matmul(%x, %c)", ""), ("matmul(%c, %x)", ", left=True")])
def test_4_product_with_a_constant_matrix(operator: str, suffix: str) -> None:
    weight = "tensor([[1.0, 2.0], [3.0, 4.0]])"
    assert_rewrites(
        NAME,
        f"%x: f32[2,2] = input()\n%c: f32[2,2] = constant() {{tensor={weight}}}\n%y: f32[2,2] = {operator}\nreturn %y",
        f"%x: f32[2,2] = input()\n%y: f32[2,2] = const_matmul(%x) {{weight={weight}{suffix}}}\nreturn %y",
    )


def test_5_scale_shifts_after_each_other_are_one() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2] = input() ; input x
        %a: f32[2] = scale_shift(%x) {scale=tensor(2.0), shift=tensor([1.0, 3.0])} ; onnx node "Mul_0"
        %b: f32[2] = neg(%a) ; onnx node "Neg_1"
        %y: f32[2] = scale_shift(%b) {shift=tensor(10.0)} ; onnx node "Add_2"
        return %y
        """,
        """
        %x: f32[2] = input() ; input x
        %y: f32[2] = scale_shift(%x) {scale=tensor(-2.0), shift=tensor([9.0, 7.0])} ; onnx node "Mul_0" + \
onnx node "Neg_1" + onnx node "Add_2"
        return %y
        """,
    )


def test_5_a_scale_shift_with_two_readers_stays() -> None:
    assert_stays(
        NAME,
        "%x: f32[2] = input()\n%a: f32[2] = scale_shift(%x) {scale=tensor(2.0)}\n"
        "%b: f32[2] = scale_shift(%a) {scale=tensor(3.0)}\n%y: f32[2] = add(%a, %b)\nreturn %y",
    )


def test_6_sums_and_concatenations_flatten() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2] = input()
        %y: f32[2] = input()
        %a: f32[2] = add(%x, %y)
        %b: f32[2] = add(%a, %x)
        %c: f32[4] = concat(%b, %y) {axis=0}
        %d: f32[6] = concat(%x, %c) {axis=0}
        return %d
        """,
        """
        %x: f32[2] = input()
        %y: f32[2] = input()
        %b: f32[2] = add(%x, %y, %x)
        %d: f32[6] = concat(%x, %b, %y) {axis=0}
        return %d
        """,
    )


def test_6_concatenations_along_different_axes_stay() -> None:
    assert_stays(
        NAME,
        "%x: f32[2,2] = input()\n%a: f32[4,2] = concat(%x, %x) {axis=0}\n%y: f32[4,4] = concat(%a, %a) {axis=1}\n"
        "return %y",
    )


def test_7_dead_values_go_and_inputs_stay() -> None:
    assert_rewrites(
        NAME,
        "%x: f32[2] = input()\n%z: f32[2] = input()\n%a: f32[2] = relu(%z)\n%y: f32[2] = sigmoid(%x)\nreturn %y",
        "%x: f32[2] = input()\n%z: f32[2] = input()\n%y: f32[2] = sigmoid(%x)\nreturn %y",
    )


def test_the_origin_is_kept() -> None:
    class Source:
        description = "the model"

        def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return inputs

    builder = GraphBuilder()
    x = builder.input(TensorType((2,)))
    origin = Source()
    graph = builder.graph([builder.add(Add(), x)], origin)
    assert optimize(graph, NAME).origin is origin
