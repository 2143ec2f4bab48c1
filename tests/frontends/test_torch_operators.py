"""Every ATen operator that has a rule computes in the IR what it computes in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irverify.errors import UnsupportedError
from irverify.frontends import compile as compile_model
from irverify.frontends.torch import read_module
from irverify.ir.graph import Graph
from irverify.ir.ops import Input

torch.manual_seed(0)
C23, C3, C33, C4 = torch.randn(2, 3), torch.randn(3), torch.randn(3, 3), torch.randn(4)
POSITIVE = torch.rand(3) + 0.5
Case = tuple[Callable[[Tensor], Any], tuple[int, ...]]

ARITHMETIC: dict[str, Case] = {
    "add a number": (lambda x: x + 1, (3,)),
    "add a constant": (lambda x: x + C3, (2, 3)),
    "add with alpha": (lambda x: torch.add(x, C3, alpha=2), (3,)),
    "add values of other shape": (lambda x: x + x.sum(-1, keepdim=True), (2, 3)),
    "add a larger constant": (lambda x: x[:, :1] + C3, (3,)),
    "add with batch axis of one": (lambda x: x + C23[None], (2, 3)),
    "add alpha values": (lambda x: torch.add(x, x.relu(), alpha=-3), (3,)),
    "subtract a constant": (lambda x: x - C3, (3,)),
    "subtract from a constant": (lambda x: C3 - x, (3,)),
    "rsub": (lambda x: torch.rsub(x, 2.0, alpha=3), (3,)),
    "subtract values": (lambda x: x - x.flip(1), (3,)),
    "multiply by a constant": (lambda x: C3 * x, (3,)),
    "multiply values": (lambda x: x * x.sigmoid(), (3,)),
    "multiply by an integer constant": (lambda x: x * torch.tensor([1, 0, 2]), (3,)),
    "divide by a constant": (lambda x: x / POSITIVE, (3,)),
    "divide a constant": (lambda x: C3 / (x.abs() + 1), (3,)),
    "divide values": (lambda x: x / (x.abs().sum(1, keepdim=True) + 1), (3,)),
    "neg": (lambda x: -x, (3,)),
    "pow": (lambda x: x**3, (3,)),
    "sqrt": (lambda x: (x.abs() + 1).sqrt(), (3,)),
    "rsqrt": (lambda x: torch.rsqrt(x.abs() + 1), (3,)),
    "reciprocal": (lambda x: 1 / (x.exp()), (3,)),
    "square": (torch.square, (3,)),
    "maximum": (lambda x: torch.maximum(x, x.flip(1)), (3,)),
    "maximum with a constant": (lambda x: torch.maximum(C3, x), (3,)),
    "max with other": (lambda x: torch.max(x, C3), (3,)),
    "min with other": (lambda x: torch.min(x, torch.tensor(0.5)), (3,)),
    "minimum with a number": (lambda x: torch.minimum(x, torch.tensor(0.1)), (3,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), (3,)),
    "clamp_min": (lambda x: x.clamp(min=0.1), (3,)),
    "clamp with crossed limits": (lambda x: x.clamp(1.0, -1.0), (3,)),
    "clamp by tensors": (lambda x: x.clamp(-POSITIVE, POSITIVE), (2, 3)),
    "where": (lambda x: torch.where(torch.tensor([True, False, True]), x, C3), (3,)),
    "where of values": (lambda x: torch.where(torch.tensor([True, False, True]), x, -x), (2, 3)),
    "masked_fill": (lambda x: x.masked_fill(torch.tensor([True, False, True]), 2.0), (3,)),
    "constant arithmetic": (lambda x: x * (C3.exp() @ C33 + 1).clamp(min=0).sum(), (3,)),
    "einsum": (lambda x: torch.einsum("bij,kj->bki", x, C33), (2, 3)),
    "einsum from the left": (lambda x: torch.einsum("ki, bij -> bkj", C33, x), (3, 2)),
    "einsum of values": (lambda x: torch.einsum("bhid,bhjd->bhij", x, x), (2, 3, 4)),
    "einsum outer": (lambda x: torch.einsum("bi,j->bij", x, C4), (3,)),
    "cast": (lambda x: x.double() * 2, (3,)),
    "full": (lambda x: x + torch.full((3,), 2.0), (3,)),
    "zeros_like": (lambda x: torch.cat([torch.zeros_like(x), x, torch.ones(x.shape[0], 2)], 1), (3,)),
}
LAYERS: dict[str, Case] = {
    "relu6": (F.relu6, (3,)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.3, 0.2), (3,)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (3,)),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.1, 0.3])), (2, 3)),
    "hardsigmoid": (lambda x: F.hardsigmoid(4 * x), (3,)),
    "hardswish": (lambda x: F.hardswish(4 * x), (3,)),
    "silu": (F.silu, (3,)),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), (3,)),
    "sigmoid": (torch.sigmoid, (3,)),
    "sin and cos": (lambda x: x.sin() * x.cos(), (3,)),
    "exp and abs": (lambda x: x.abs().exp(), (3,)),
    "softmax": (lambda x: x.softmax(1), (2, 3)),
    "linear": (lambda x: F.linear(x, C23), (2, 3)),
    "addmm": (lambda x: torch.addmm(C3, x, C33, beta=2, alpha=-0.5), (3,)),
    "mm": (lambda x: x.mm(C33), (3,)),
    "matmul by a vector": (lambda x: x @ C3, (2, 3)),
    "matmul from the left": (lambda x: C23 @ x, (3, 4)),
    "matmul by a vector from the left": (lambda x: C3 @ x, (3, 4)),
    "matmul by a stack": (lambda x: x @ torch.stack([C33, 2 * C33])[None], (2, 4, 3)),
    "matmul by a longer stack": (lambda x: torch.stack([C33, 2 * C33]) @ x, (2, 3, 4)),
    "matmul of values": (lambda x: x @ x.transpose(1, 2), (2, 3)),
    "bmm": (lambda x: torch.bmm(x, x.transpose(1, 2)), (2, 3)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, 2 * x, x - 1), (4, 3)),
    "attention with heads": (lambda x: F.scaled_dot_product_attention(x, 2 * x, x - 1, scale=0.3), (2, 4, 3)),
    "layer_norm": (lambda x: F.layer_norm(x, (2, 3), C23, 2 * C23), (4, 2, 3)),
    "group_norm": (lambda x: F.group_norm(x, 2, C4, C4), (4, 3, 3)),
    "instance_norm": (lambda x: F.instance_norm(x), (2, 4, 4)),
    "batch_norm": (lambda x: F.batch_norm(x, C3, POSITIVE, C3, POSITIVE, eps=0.1), (3, 2, 2)),
    "conv1d": (lambda x: F.conv1d(x, torch.ones(4, 1, 3), C4, stride=2, padding=1, groups=2), (2, 7)),
    "conv2d dilated": (lambda x: F.conv2d(x, torch.ones(2, 2, 3, 2), dilation=(2, 1), padding=(1, 0)), (2, 7, 6)),
    "conv2d same": (lambda x: F.conv2d(x, torch.ones(2, 2, 2, 4), padding="same"), (2, 5, 5)),
    "conv3d": (lambda x: F.conv3d(x, torch.ones(2, 1, 2, 2, 2)), (1, 3, 4, 3)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, torch.ones(2, 3, 3), stride=2, padding=1), (2, 4)),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x, torch.ones(2, 2, 3, 3), torch.ones(4), 2, 1, 1, 2, (1, 2)), (2, 3, 4)
    ),
}  # fmt: skip
POOLING: dict[str, Case] = {
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), (2, 7)),
    "max_pool2d ceil": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 6, 7)),
    "max_pool2d dilated": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), (2, 6, 7)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), (1, 4, 4, 4)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 7)),
    "avg_pool2d ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 6, 7)),
    "avg_pool2d without padding counted": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), (2, 6, 7)),
    "avg_pool2d with a divisor": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, divisor_override=5), (2, 6, 7)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), (1, 4, 4, 4)),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 3), (2, 7)),
    "adaptive_avg_pool2d divides": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (2, 4, 9)),
    "adaptive_avg_pool2d general": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (2, 5, 6)),
    "adaptive_avg_pool2d to one": (lambda x: F.adaptive_avg_pool2d(x, 1), (2, 5, 6)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), (2, 4, 9)),
    "upsample nearest": (lambda x: F.interpolate(x, scale_factor=2), (2, 3, 4)),
    "upsample nearest to a size": (lambda x: F.interpolate(x, size=(5, 3)), (2, 3, 4)),
    "upsample nearest exact": (lambda x: F.interpolate(x, size=7, mode="nearest-exact"), (2, 3)),
    "upsample bilinear": (lambda x: F.interpolate(x, size=(5, 7), mode="bilinear"), (2, 3, 4)),
    "upsample bilinear aligned": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), (2, 3, 4)
    ),
    "upsample bicubic": (lambda x: F.interpolate(x, size=(5, 7), mode="bicubic"), (2, 3, 4)),
    "upsample trilinear": (lambda x: F.interpolate(x, size=(2, 3, 4), mode="trilinear"), (1, 3, 4, 2)),
    "amax": (lambda x: x.amax((1, 3)), (2, 3, 4)),
    "amin keeps": (lambda x: x.amin(2, keepdim=True), (2, 3, 4)),
    "max along an axis": (lambda x: x.max(1).values, (3, 4)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (4, 2, 3)),
}  # fmt: skip
SHAPES: dict[str, Case] = {
    "view": (lambda x: x.view(-1, 6), (2, 3)),
    "reshape": (lambda x: x.reshape(x.shape[0], 3, -1), (2, 3)),
    "flatten and unflatten": (lambda x: x.flatten(1).unflatten(1, (3, 2)), (2, 3)),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1), (2, 3)),
    "squeeze all": (lambda x: x.squeeze(), (2, 1, 3)),
    "permute": (lambda x: x.permute(0, 3, 1, 2), (2, 3, 4)),
    "movedim": (lambda x: x.movedim(1, -1), (2, 3, 4)),
    "transpose": (lambda x: x.transpose(-1, -2), (2, 3)),
    "mT, mH and adjoint": (lambda x: x.mT * 2 + x.mH - x.adjoint(), (2, 3)),
    "cat and stack": (lambda x: torch.cat([torch.stack([x, 2 * x], 2), x[:, :, None]], 2), (2, 3)),
    "cat with a repeated constant": (lambda x: torch.cat([C3.expand(x.shape[0], 1, 3), x], 1), (2, 3)),
    "cat with a tiled constant": (lambda x: torch.cat([C23[None].repeat(x.shape[0], 2, 1), x], 1), (2, 3)),
    "slice": (lambda x: x[:, 1:4:2, -2:], (5, 3)),
    "slice of the whole batch": (lambda x: x[:, :, 1], (2, 3)),
    "select": (lambda x: x.select(1, -1), (2, 3)),
    "narrow": (lambda x: x.narrow(1, 1, 2), (4,)),
    "split": (lambda x: x.split(2, 1)[2] - x.split([3, 1, 1], 1)[1], (5, 3)),
    "chunk": (lambda x: torch.add(*x.chunk(2, -1)), (3, 4)),
    "unbind": (lambda x: x.unbind(1)[1], (3, 4)),
    "tensor_split": (lambda x: x.tensor_split(3, 1), (5,)),
    "index_select": (lambda x: x.index_select(1, torch.tensor([2, 0, 0])), (3, 2)),
    "index": (lambda x: x[:, [2, -1, 0]], (3, 2)),
    "index by two": (lambda x: x[:, torch.tensor([[0], [1]]), torch.tensor([1, -1])], (2, 3, 2)),
    "flip": (lambda x: x.flip((1, 2)), (2, 3)),
    "roll": (lambda x: x.roll((1, -2), (1, 2)), (2, 3)),
    "expand": (lambda x: x[:, :, None].expand(-1, 2, 4), (2,)),
    "repeat": (lambda x: x.repeat(1, 2, 3), (2, 3)),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), (3,)),
    "sum": (lambda x: x.sum((1, -1)), (2, 3, 4)),
    "mean": (lambda x: x.mean(2, keepdim=True), (2, 3)),
    "var": (lambda x: x.var(1), (4,)),
    "std": (lambda x: x.std((1, 2), correction=0, keepdim=True), (4, 2)),
    "pad": (lambda x: F.pad(x, (1, 2, -1, 0)), (2, 3)),
    "pad with a number": (lambda x: F.pad(x, (1, 2), value=-1.5), (2, 3)),
    "pad reflect": (lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"), (2, 3, 4)),
    "pad replicate": (lambda x: F.pad(x, (2, 3), mode="replicate"), (2, 3)),
    "pad circular": (lambda x: F.pad(x, (2, 1), mode="circular"), (2, 3)),
    "in place": (lambda x: x.clone().add_(1).mul_(2).relu_(), (3,)),
    "write a slice": (lambda x: _written(x), (4,)),
    "no_grad inside": (lambda x: _without_gradient(x), (4,)),
}


def _written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:3] = x[:, :2]
    y[:, 0] = 2.0
    return y


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return x.detach() + y


CASES = {**ARITHMETIC, **LAYERS, **POOLING, **SHAPES}


def compared(graph: Graph, function: Callable[[Tensor], Any], x: Tensor) -> None:
    ours, theirs = graph.evaluate(x), function(x)
    pairs = zip(ours, theirs, strict=True) if isinstance(theirs, tuple | list) else [(ours, theirs)]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, check_stride=False)


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    function, shape = CASES[name]
    graph = compile_model(function, torch.randn(2, *shape))
    assert isinstance(graph.inputs[0].op, Input)
    assert graph.inputs[0].op.batch_axis == 0
    assert graph.inputs[0].type.shape == shape
    compared(graph, function, torch.randn(3, *shape))


WITHOUT_BATCH = (
    "matmul by a stack", "matmul from the left", "layer_norm", "var", "pad reflect", "amax", "index by two",
)  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_BATCH)
def test_operator_on_a_whole_tensor(name: str) -> None:
    function, shape = CASES[name]
    graph = compile_model(function, torch.randn(2, *shape), batch_axis=None)
    compared(graph, function, torch.randn(2, *shape))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[1:], "slice: it takes some examples"),
        (lambda x: x[3:], "torch.export cannot trace the module"),
        (lambda x: x[0], "select: it works along the batch axis"),
        (lambda x: x + x.shape[0], "add: it computes with the batch size"),
        (lambda x: torch.cat([x, x]), "cat: it works along the batch axis"),
        (lambda x: torch.stack([x, x]), "stack: it adds an axis in front"),
        (lambda x: x.sum(), "sum: it reduces the batch axis"),
        (lambda x: x.amax(), "amax: it works along the batch axis"),
        (lambda x: x[::2], "slice: it takes some examples"),
        (lambda x: x @ x.t(), "t: it moves the batch axis"),
        (lambda x: x * torch.arange(x.shape[0])[:, None], "arange: its result depends on the batch size"),
        (lambda x: x.repeat(2, 1), "repeat: it repeats the batch axis"),
        (lambda x: C33[:, None] + x, "add: its constant operand differs along the batch axis"),
        (lambda x: x.cumsum(0), "cumsum"),
        (lambda x: x.roll(1, 0), "roll: it works along the batch axis"),
        (lambda x: torch.ones(3) + 0 * C3, "output .* it has no batch axis"),
    ],
)
def test_batch_is_not_mixed(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        compile_model(function, torch.randn(3, 3), batch_axis=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.leaky_relu(x, -0.5), "leaky_relu: .*slope >= 0"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div: division that rounds"),
        (lambda x: x ** x.abs(), "pow: its exponent"),
        (lambda x: x.masked_fill(torch.tensor([True, False, True]), -torch.inf), "masked_fill: it fills in numbers"),
        (lambda x: torch.where(x > 0, x, 0 * x), "gt"),
        (lambda x: F.linear(C33, x), "linear: its weight depends on the input"),
        (lambda x: F.gelu(x), "gelu: only approximate='tanh'"),
        (lambda x: x[:, torch.tensor([True, False, True])], "index: it selects by a mask"),
        (lambda x: x + torch.empty(3), "empty: its result is random or undefined"),
        (lambda x: F.adaptive_max_pool1d(x[:, None], 2), "adaptive_max_pool1d: its windows differ"),
    ],
)
def test_reasons(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        compile_model(function, torch.randn(1, 3))


class Folding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight + self.weight.t())


def test_what_is_computed_from_parameters_alone_is_one_parameter() -> None:
    graph = read_module(Folding(), torch.randn(1, 3))
    assert [node.op.name for node in graph] == ["input", "linear"]
