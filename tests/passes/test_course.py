"""Gradients of bounds by their lines, on the way up again, against differences of the bounds on the way down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    Add,
    AveragePool,
    Clip,
    Constant,
    Conv,
    Exp,
    Linear,
    MaxPool,
    Mul,
    Operator,
    Relu,
    Reshape,
    Sigmoid,
    Tanh,
)
from irverify.ir.types import TensorType
from irverify.passes import alpha, course
from irverify.passes.ascent import Climbed, Schedule
from irverify.passes.backward import Rows
from irverify.passes.hills import Flat, Hill
from irverify.pipeline import run
from irverify.regions import L1, L2, Box, Region

KINDS = (Relu(), Abs(), Clip(-0.5, 0.5), Sigmoid(), Tanh(), Exp())


def network(activation: Operator, edge: tuple[tuple[int, int], tuple[int, int]]) -> Graph:
    """A convolution, a maximum and a mean over windows of it, a product of two values, a sum with a constant."""
    generator = torch.Generator().manual_seed(1)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    none = ((0, 0), (0, 0))
    later = Tanh() if isinstance(activation, Exp) else activation  # the exponential of an exponential is large
    builder = GraphBuilder()
    x = builder.input(TensorType((2, 4, 4), torch.float64))
    bent = builder.add(activation, builder.add(Conv(weight(3, 2, 3, 3) / 3, weight(3), (1, 1), ((1, 1), (1, 1))), x))
    largest = builder.add(MaxPool((2, 2), (1, 1), edge, (1, 1)), bent)
    mean = builder.add(AveragePool((2, 2), (2, 2), none, none, (1, 1)), bent)
    size = builder.node(largest).type.size
    first = builder.add(Linear(weight(4, size) / 6, weight(4)), builder.add(Reshape((size,)), largest))
    second = builder.add(Linear(weight(4, 12) / 3, weight(4)), builder.add(Reshape((12,)), mean))
    product = builder.add(Mul(), builder.add(later, first), second)
    total = builder.add(Add(), product, builder.add(Constant(weight(4))))
    return builder.graph([builder.add(Linear(weight(2, 4)), builder.add(later, total), name="y")])


def hill(graph: Graph, region: Region, monkeypatch: pytest.MonkeyPatch) -> Flat:
    """The hill that alpha climbs for the outputs."""
    found: list[Hill] = []

    def note(hill: Hill, schedule: Schedule) -> Climbed:
        found.append(hill)
        return Climbed(hill.bounds(hill.start.expand(hill.rows, -1)), 0, torch.arange(0))

    monkeypatch.setattr(alpha, "ascend", note)
    run(graph, "alpha", region)
    (only,) = found
    assert isinstance(only, Flat)
    return only


def points(kind: str) -> Region:
    center = torch.randn((2, 2, 4, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if kind == "box":
        return Box(center - 0.2, center + 0.1)
    ball = {"l2": L2, "l1": L1}[kind]
    clip = (-0.5, 0.6)
    return ball(center.clamp(*clip), 0.7, clip=clip)


@pytest.mark.parametrize(
    ("activation", "edge", "kind"),
    [
        *((activation, ((0, 0), (0, 0)), "box") for activation in KINDS),
        (Relu(), ((0, 1), (1, 0)), "box"),
        (Tanh(), ((1, 0), (0, 0)), "l2"),
        (Relu(), ((0, 0), (0, 0)), "l2"),
        (Relu(), ((0, 0), (0, 0)), "l1"),
    ],
    ids=str,
)
@torch.no_grad()
def test_gradients(
    activation: Operator, edge: tuple[tuple[int, int], tuple[int, int]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hill(network(activation, edge), points(kind), monkeypatch)
    generator = torch.Generator().manual_seed(7)
    part = 0.1 + 0.5 * torch.rand((here.rows, here.start.shape[1]), generator=generator, dtype=torch.float64)
    choices = here.least + part * here.range
    gradient = here.climbed(choices)[1] * here.range
    ways = torch.randn((6, *choices.shape), generator=generator, dtype=torch.float64) * here.range
    step = 1e-7
    for way in ways:
        slope = (here.bounds(choices + step * way) - here.bounds(choices - step * way)) / (2 * step)
        known = (here.climbed(choices)[1] * way).sum(1)
        assert torch.allclose(slope, known, rtol=1e-4, atol=1e-5 * float(gradient.abs().sum(1).max()))


@torch.no_grad()
def test_rows_that_stay_keep_their_bounds_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    here = hill(network(Relu(), ((0, 1), (0, 1))), points("box"), monkeypatch)
    choices = (here.least + 0.3 * here.range).expand(here.rows, -1).contiguous()
    kept = torch.tensor([1, 2])
    whole, part = here.climbed(choices), here.select(kept).climbed(choices[kept])
    assert all(torch.allclose(both[kept], few) for both, few in zip(whole, part, strict=True))


def test_rows_of_one_example_share_its_tensors() -> None:
    tensor, owners = torch.arange(3.0), torch.tensor
    coefficients = torch.zeros(4, 1)
    for owner, shape in (([1, 1, 1, 1], (1,)), ([0, 1, 1, 0], (4,))):
        gathered = course.gathering(Rows(coefficients, owners(owner), 3))(tensor)
        assert gathered.shape == shape and torch.equal(gathered.expand(4), tensor[owner])
