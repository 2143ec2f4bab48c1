"""fuse-linear in text: what composes, and what has to stay apart."""

from __future__ import annotations

import pytest

from tests.passes.rewrite_text import assert_rewrites, assert_stays

NAME = "fuse-linear"
SQUARE = "weight=tensor([[1.0, 2.0], [3.0, 4.0]])"


def test_1_linear_after_linear() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2] = input()
        %a: f32[2] = linear(%x) {{{SQUARE}, bias=tensor([1.0, 2.0])}} ; first
        %y: f32[1] = linear(%a) {{weight=tensor([[2.0, 1.0]]), bias=tensor([3.0])}} ; second
        return %y
        """,
        """
        %x: f32[2] = input()
        %y: f32[1] = linear(%x) {weight=tensor([[5.0, 8.0]]), bias=tensor([7.0])} ; first + second
        return %y
        """,
    )


@pytest.mark.parametrize(
    "body",
    [
        # A bottleneck: 3 x 3 is more work than 3 x 1 and 1 x 3.
        "%x: f32[3] = input()\n%a: f32[1] = linear(%x) {weight=tensor([[1.0, 2.0, 3.0]])}\n"
        "%y: f32[3] = linear(%a) {weight=tensor([[1.0], [2.0], [3.0]])}\nreturn %y",
        # Two readers.
        f"%x: f32[2] = input()\n%a: f32[2] = linear(%x) {{{SQUARE}}}\n%b: f32[2] = linear(%a) {{{SQUARE}}}\n"
        "%y: f32[2] = add(%a, %b)\nreturn %y",
        # An output.
        f"%x: f32[2] = input()\n%a: f32[2] = linear(%x) {{{SQUARE}}}\n%y: f32[2] = linear(%a) {{{SQUARE}}}\n"
        "return %y, %a",
    ],
)
def test_1_linears_that_stay_apart(body: str) -> None:
    assert_stays(NAME, body)


def test_2_scale_shift_and_neg_after_linear() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2] = input()
        %a: f32[2] = linear(%x) {{{SQUARE}, bias=tensor([1.0, 2.0])}}
        %b: f32[2] = scale_shift(%a) {{scale=tensor([2.0, 3.0]), shift=tensor(10.0)}}
        %y: f32[2] = neg(%b)
        return %y
        """,
        """
        %x: f32[2] = input()
        %y: f32[2] = linear(%x) {weight=tensor([[-2.0, -4.0], [-9.0, -12.0]]), bias=tensor([-12.0, -16.0])}
        return %y
        """,
    )


def test_2_scale_shift_before_linear() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2] = input()
        %a: f32[2] = scale_shift(%x) {{scale=tensor([2.0, 3.0]), shift=tensor([1.0, -1.0])}}
        %y: f32[2] = linear(%a) {{{SQUARE}, bias=tensor([10.0, 20.0])}}
        return %y
        """,
        """
        %x: f32[2] = input()
        %y: f32[2] = linear(%x) {weight=tensor([[2.0, 6.0], [6.0, 12.0]]), bias=tensor([9.0, 19.0])}
        return %y
        """,
    )


def test_2_scale_shift_around_a_grouped_convolution() -> None:
    """Input channels 0 and 1 belong to groups of their own, and so do the outputs."""
    assert_rewrites(
        NAME,
        """
        %x: f32[2,2,2] = input()
        %a: f32[2,2,2] = scale_shift(%x) {scale=tensor([[[2.0]], [[3.0]]]), shift=tensor([[[1.0]], [[4.0]]])}
        %b: f32[2,1,1] = conv(%a) {weight=tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[1.0, 1.0], [1.0, 1.0]]]]), groups=2}
        %y: f32[2,1,1] = scale_shift(%b) {scale=tensor([[[10.0]], [[1.0]]]), shift=tensor([[[0.0]], [[5.0]]])}
        return %y
        """,
        """
        %x: f32[2,2,2] = input()
        %y: f32[2,1,1] = conv(%x) {weight=tensor([[[[20.0, 40.0], [60.0, 80.0]]], [[[3.0, 3.0], [3.0, 3.0]]]]), \
bias=tensor([100.0, 21.0]), groups=2}
        return %y
        """,
    )


def test_2_a_shift_does_not_pass_padding_but_a_scale_does() -> None:
    conv = "conv(%a) {weight=tensor([[[[1.0, 2.0]]]]), padding=((0, 0), (1, 0))}"
    assert_stays(
        NAME,
        f"%x: f32[1,2,2] = input()\n%a: f32[1,2,2] = scale_shift(%x) {{shift=tensor(1.0)}}\n%y: f32[1,2,2] = {conv}\n"
        "return %y",
    )
    assert_rewrites(
        NAME,
        f"%x: f32[1,2,2] = input()\n%a: f32[1,2,2] = scale_shift(%x) {{scale=tensor(3.0)}}\n%y: f32[1,2,2] = {conv}\n"
        "return %y",
        "%x: f32[1,2,2] = input()\n"
        "%y: f32[1,2,2] = conv(%x) {weight=tensor([[[[3.0, 6.0]]]]), padding=((0, 0), (1, 0))}\nreturn %y",
    )


@pytest.mark.parametrize("parameter", ["scale", "shift"])
def test_2_a_constant_that_differs_from_place_to_place_stays(parameter: str) -> None:
    assert_stays(
        NAME,
        "%x: f32[1,2,2] = input()\n%a: f32[1,2,2] = conv(%x) {weight=tensor([[[[2.0]]]])}\n"
        f"%y: f32[1,2,2] = scale_shift(%a) {{{parameter}=tensor([[[1.0, 2.0], [3.0, 4.0]]])}}\nreturn %y",
    )


def test_2_a_shift_does_not_pass_a_transposed_convolution() -> None:
    assert_stays(
        NAME,
        "%x: f32[1,2,2] = input()\n%a: f32[1,2,2] = scale_shift(%x) {shift=tensor(1.0)}\n"
        "%y: f32[1,3,3] = conv_transpose(%a) {weight=tensor([[[[1.0, 1.0], [1.0, 1.0]]]])}\nreturn %y",
    )


SPECIFIED = """
%x: f32[2] = input()
%a: f32[2] = relu(%x)
%y: f32[2] = linear(%a) {weight=tensor([[1.0, 2.0], [3.0, 4.0]]), bias=tensor([5.0, 6.0])}
%C: f32[3,2] = operand()
%d: f32[3] = operand()
%spec: f32[3] = spec(%y, %C, %d)
return %spec
"""


def test_3_the_last_layer_goes_into_the_specification() -> None:
    assert_rewrites(
        NAME,
        SPECIFIED,
        """
        %x: f32[2] = input()
        %a: f32[2] = relu(%x)
        %C: f32[3,2] = operand()
        %d: f32[3] = operand()
        %spec: f32[3] = spec(%a, %C, %d) {weight=tensor([[1.0, 2.0], [3.0, 4.0]]), bias=tensor([5.0, 6.0])}
        return %spec
        """,
    )


def test_3_unless_told_not_to() -> None:
    assert_stays("fuse-linear{elide=false}", SPECIFIED)


def test_3_also_where_others_read_the_layer() -> None:
    body = SPECIFIED.replace("return %spec", "return %spec, %y")
    kept = body.replace("spec(%y, %C, %d)", "spec(%a, %C, %d) {weight=@y.weight, bias=@y.bias}")
    kept = kept.replace("@y.weight", "tensor([[1.0, 2.0], [3.0, 4.0]])").replace("@y.bias", "tensor([5.0, 6.0])")
    assert_rewrites(NAME, body, kept)
