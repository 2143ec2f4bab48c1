"""SingleProp as a program: what the walk over the graph finds, and the same gradients."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import irverify as iv
from irverify.backends.torch import losses
from irverify.backends.torch.half_program import half_program
from irverify.ir.ops import Constant, LeakyRelu, Relu
from irverify.passes.lines import Choice
from irverify.passes.singleprop import halves
from tests.random_graphs import AFFINE, boxes, elementwise, graphs

KINDS = (*AFFINE, *(elementwise(Relu()),) * 4, elementwise(LeakyRelu(0.1)))
CHOICES: tuple[Choice, ...] = ("zero", "same")


@settings(max_examples=60)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS, inputs=1, max_nodes=6))
    regions = data.draw(boxes(graph))
    choice = data.draw(st.sampled_from(CHOICES))
    program = half_program(graph, choice)
    if program is None:
        assert any(isinstance(node.op, Constant) for node in graph)
        return
    walk = halves(graph, regions, {}, choice)
    for name, (nominal, gap, _) in zip(graph.outputs, program(*regions[0].box()), strict=True):
        torch.testing.assert_close(nominal, walk[name].nominal, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gap, walk[name].gap, rtol=1e-9, atol=1e-9)


def test_gradients_of_a_convolutional_network() -> None:
    """With flattened channels before a product, in single precision: channels are last in memory."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                           nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3))  # fmt: skip
    x = torch.rand(5, 1, 8, 8)
    graph = iv.compile(module, x[:1])
    region = iv.Linf(x, 0.05, clip=(0, 1))
    for choice in CHOICES:
        program = half_program(graph, choice)
        assert program is not None and program is half_program(graph, choice)
        walk = halves(graph, (region,), {}, choice)
        pairs = program(*region.box())[0][:2], walk[graph.outputs[0]][:2]
        found = [torch.autograd.grad((nominal * gap).sum(), list(module.parameters())) for nominal, gap in pairs]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_follows_the_parameters() -> None:
    module = nn.Linear(2, 1)
    x, y = torch.rand(4, 2), torch.zeros(4, dtype=torch.long)
    graph = iv.compile(nn.Sequential(module, nn.Linear(1, 2)), x[:1])
    before = losses.singleprop(graph, x, y, 0.1)
    with torch.no_grad():
        module.weight += 1
    assert losses.singleprop(graph, x, y, 0.1) != before
