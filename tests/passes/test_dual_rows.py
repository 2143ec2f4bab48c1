"""Rows in groups: alone, few, many at once, and as products before an input; bounds and gradients are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Conv, Linear, Relu, Reshape
from irverify.ir.types import TensorType
from irverify.passes import dual_rows, dual_sources
from irverify.passes.dual_composed import composed
from irverify.passes.dual_gaps import folded, weighed
from irverify.passes.dual_windows import windowed_network
from irverify.pipeline import run
from irverify.regions import Box


def convolutional() -> tuple[Graph, Box, list[Tensor]]:
    """Two strided convolutions and two linear layers; its region and its parameters."""
    generator = torch.Generator().manual_seed(2)

    def tensor(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4).requires_grad_()

    parameters = [tensor(3, 1, 4, 4), tensor(3), tensor(4, 3, 4, 4), tensor(4), tensor(5, 64), tensor(5), tensor(2, 5)]
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 16, 16), torch.float64))
    for weight, bias in (parameters[:2], parameters[2:4]):
        x = builder.add(Relu(), builder.add(Conv(weight, bias, (2, 2), ((1, 1), (1, 1))), x))
    x = builder.add(Relu(), builder.add(Linear(*parameters[4:6]), builder.add(Reshape((64,)), x)))
    y = builder.add(Linear(parameters[6]), x, name="y")
    center = torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)
    return builder.graph([y]), Box((center - 0.05).clamp(min=0), (center + 0.05).clamp(max=1)), parameters


def found() -> list[Tensor]:
    """Bounds of the output, and the gradient of their sum."""
    graph, region, parameters = convolutional()
    bounds = run(graph, "dual", region).bounds["y"]
    return [bounds.lower, bounds.upper, *torch.autograd.grad((bounds.upper - 2 * bounds.lower).sum(), parameters)]


@pytest.mark.parametrize("way", ["pair by pair", "small chunks", "planes", "windows", "again", "small blocks"])
def test_ways_agree(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found()
    if way == "planes":
        monkeypatch.setattr(dual_sources, "windowed_network", lambda primal, target: None)
    else:
        monkeypatch.setattr(dual_sources, "composed", lambda network: None)
    numbers = {"pair by pair": ("MOST", 2.0), "small chunks": ("CHUNK", 4000), "again": ("KEPT", 0),
               "small blocks": ("BLOCK", 1)}  # fmt: skip
    if way in numbers:
        monkeypatch.setattr(dual_rows, *numbers[way])
    torch.testing.assert_close(found(), expected)


def test_one_activation_before_an_input() -> None:
    """Each input element of a window depends on what the taps of the first kernel reach, which makes the blocks."""
    graph, _, _ = convolutional()
    second = [node.name for node in graph if isinstance(node.op, Conv)][1]
    windowed = windowed_network(graph, second)
    assert windowed is not None
    way = composed(windowed.network)
    assert way is not None
    sizes = [(columns.shape[0], places.shape[0]) for columns, places in way.blocks]
    assert len(sizes) == 25
    assert sum(columns for columns, _ in sizes) == 100
    assert max(places for _, places in sizes) == 3 * 2 * 2
    assert sum(columns * places for columns, places in sizes) == 3 * 16 * 16
    last = next(node.name for node in graph if isinstance(node.op, Reshape))
    assert composed(dual_sources.source_of(graph, graph[last], boxes=False).network) is None


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("each", [1, 3])
def test_gradients_written_by_hand(shared: bool, each: int) -> None:
    generator = torch.Generator().manual_seed(4)
    rows, slope, radius = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((1 if shared else 2, each, 2, 3), (2, 2, 3), (2, 2, 3))
    )
    passed, gap = folded(rows, slope, radius)
    torch.testing.assert_close(passed, rows * slope.unsqueeze(1))
    torch.testing.assert_close(gap, (rows.abs() * radius.unsqueeze(1)).flatten(2).sum(2))
    torch.testing.assert_close(weighed(rows, radius), gap)
    assert torch.autograd.gradcheck(folded, (rows, slope, radius))
    assert torch.autograd.gradcheck(weighed, (rows, radius))
