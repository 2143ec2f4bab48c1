"""fold-batchnorm in text: after each kind of layer, and where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import BatchNorm, Conv, Linear
from irverify.ir.types import TensorType
from irverify.pipeline import optimize
from tests.passes.rewrite_text import assert_rewrites

NAME = "fold-batchnorm"
# (x - 1) / sqrt(4) * 4 + 3 = 2 x + 1 on the first channel, (x - 2) / sqrt(16) * 2 + 1 = x / 2 on the second.
NORM = (
    "mean=tensor([1.0, 2.0]), variance=tensor([4.0, 16.0]), weight=tensor([4.0, 2.0]), bias=tensor([3.0, 1.0]), "
    "epsilon=0.0"
)


def test_1_after_linear() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2] = input()
        %a: f32[2] = linear(%x) {{weight=tensor([[1.0, 2.0], [3.0, 4.0]]), bias=tensor([1.0, 2.0])}} ; gemm
        %b: f32[2] = batch_norm(%a) {{{NORM}}} ; norm
        %y: f32[2] = relu(%b)
        return %y
        """,
        """
        %x: f32[2] = input()
        %b: f32[2] = linear(%x) {weight=tensor([[2.0, 4.0], [1.5, 2.0]]), bias=tensor([3.0, 1.0])} ; gemm + norm
        %y: f32[2] = relu(%b)
        return %y
        """,
    )


def test_1_after_conv_without_bias() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[1,2,2] = input()
        %a: f32[2,2,2] = conv(%x) {{weight=tensor([[[[1.0]]], [[[2.0]]]])}}
        %b: f32[2,2,2] = batch_norm(%a) {{{NORM}}}
        return %b
        """,
        """
        %x: f32[1,2,2] = input()
        %b: f32[2,2,2] = conv(%x) {weight=tensor([[[[2.0]]], [[[1.0]]]]), bias=tensor([1.0, 0.0])}
        return %b
        """,
    )


def test_1_after_a_grouped_transposed_convolution() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2,2,2] = input()
        %a: f32[2,2,2] = conv_transpose(%x) {{weight=tensor([[[[3.0]]], [[[8.0]]]]), bias=tensor([1.0, 6.0]), groups=2}}
        %b: f32[2,2,2] = batch_norm(%a) {{{NORM}}}
        return %b
        """,
        """
        %x: f32[2,2,2] = input()
        %b: f32[2,2,2] = conv_transpose(%x) {weight=tensor([[[[6.0]]], [[[4.0]]]]), bias=tensor([3.0, 3.0]), groups=2}
        return %b
        """,
    )


@pytest.mark.parametrize("before", ["", "%z: f32[2] = neg(%a)\n"])
def test_2_elsewhere_it_is_a_scale_shift(before: str) -> None:
    """After an activation; after a layer that somebody else reads; after a layer on another axis."""
    returned = "%b, %z" if before else "%b"
    layer = "linear(%x) {weight=tensor([[1.0, 2.0], [3.0, 4.0]])}" if before else "relu(%x)"
    assert_rewrites(
        NAME,
        f"%x: f32[2] = input()\n%a: f32[2] = {layer}\n{before}%b: f32[2] = batch_norm(%a) {{{NORM}}}\n"
        f"return {returned}",
        f"%x: f32[2] = input()\n%a: f32[2] = {layer}\n{before}%b: f32[2] = scale_shift(%a) "
        f"{{scale=tensor([2.0, 0.5]), shift=tensor([1.0, 0.0])}}\nreturn {returned}",
    )


def test_2_channels_that_are_not_the_features() -> None:
    assert_rewrites(
        NAME,
        f"""
        %x: f32[2,2] = input()
        %a: f32[2,2] = linear(%x) {{weight=tensor([[1.0, 2.0], [3.0, 4.0]])}}
        %b: f32[2,2] = batch_norm(%a) {{{NORM}}}
        return %b
        """,
        """
        %x: f32[2,2] = input()
        %a: f32[2,2] = linear(%x) {weight=tensor([[1.0, 2.0], [3.0, 4.0]])}
        %b: f32[2,2] = scale_shift(%a) {scale=tensor([[2.0], [0.5]]), shift=tensor([[1.0], [0.0]])}
        return %b
        """,
    )


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Conv2d(1, 4, 2)])
def test_folded_parameters_stay_live(layer: nn.Linear | nn.Conv2d) -> None:
    """The folded graph follows an optimiser step and gives the gradients of the unfolded one."""
    norm = nn.BatchNorm1d(4).eval() if isinstance(layer, nn.Linear) else nn.BatchNorm2d(4).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    builder = GraphBuilder()
    x = builder.input(TensorType((3,) if isinstance(layer, nn.Linear) else (1, 3, 3)))
    op = Linear(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else Conv(layer.weight, layer.bias)
    y = builder.add(BatchNorm(norm.running_mean, norm.running_var, norm.weight, norm.bias), builder.add(op, x))
    graph = builder.graph([y])
    folded = optimize(graph, NAME)
    assert len(folded) == 2
    parameters = [*layer.parameters(), *norm.parameters()]
    points = torch.randn(5, *graph.inputs[0].type.shape)
    for _ in range(2):
        results = [graph.evaluate(points), folded.evaluate(points)]
        gradients = [torch.autograd.grad(result.square().sum(), parameters) for result in results]  # type: ignore[union-attr]
        torch.testing.assert_close(results[0], results[1])
        for expected, got in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients[0], strict=True):
                parameter.sub_(0.1 * gradient)
        norm.running_mean.add_(1.0)
