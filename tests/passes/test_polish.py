"""Specifications around S-shaped functions: their lines are chosen for each row."""

from __future__ import annotations

import pytest
import torch

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Linear, Sigmoid
from irverify.ir.types import TensorType
from irverify.passes import alpha, polish
from irverify.passes.ascent import Climbed, Schedule, ascend
from irverify.passes.hills import Flat, Hill
from irverify.pipeline import margins
from irverify.regions import Box


def one_neuron() -> Graph:
    """`(0.2 x, sigmoid(x))`."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    both = builder.add(Linear(torch.tensor([[1.0], [0.2]]).double()), x)
    first = builder.add(Linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()), builder.add(Sigmoid(), both))
    second = builder.add(Linear(torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double()), both)
    return builder.graph([builder.add(Add(), first, second)])


def test_a_better_tangent_than_the_one_in_the_middle() -> None:
    # 0.2 x - sigmoid(x) on [0, 4]: with the tangent at 2, slope 0.105 and 0.6708 at 0, the least is -0.6708; the
    # function itself is -0.5311 where sigmoid has the slope 0.2.
    box = Box(torch.zeros(1, 1).double(), torch.full((1, 1), 4.0).double())
    rule, chosen = (margins(one_neuron(), box, 0, method=method)[0, 1].item() for method in ("crown-zero", "crown"))
    assert rule == pytest.approx(-0.6708, abs=1e-4)
    assert -0.66 < chosen < -0.5311


def test_an_example_has_the_same_bounds_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    lower = torch.rand(5, 1, generator=generator, dtype=torch.float64) * 4 - 2
    box = Box(lower, lower + 2)
    whole = margins(one_neuron(), box, 0, method="crown")
    for example in range(5):
        assert torch.allclose(whole[example], margins(one_neuron(), box.select(example), 0, method="crown")[0])


def test_bounds_are_differentiable_still() -> None:
    lower = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    assert margins(one_neuron(), Box(lower, lower + 4), 0, method="crown").requires_grad


@pytest.mark.parametrize("method", ["crown", "alpha{steps=3}", "alpha{steps=3,intermediate=2}"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_margins_of_labels_over_themselves(method: str, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are zero, and nobody climbs for them; different ones in each example, or all that there are."""
    climbed: list[int] = []

    def counting(hill: Hill, schedule: Schedule) -> Climbed:
        climbed.append(hill.rows if isinstance(hill, Flat) else 0)
        return ascend(hill, schedule)

    monkeypatch.setattr(polish, "ascend", counting)
    monkeypatch.setattr(alpha, "ascend", counting)
    monkeypatch.setattr(alpha, "NARROW", 0)
    generator = torch.Generator().manual_seed(5)
    builder = GraphBuilder()
    name = builder.input(TensorType((3,), torch.float64))
    for size in (4, 4):
        last = builder.node(name).type.size
        name = builder.add(Linear(torch.randn(size, last, generator=generator, dtype=torch.float64)), name)
        name = builder.add(Sigmoid(), name)
    weight = torch.randn(outputs, 4, generator=generator, dtype=torch.float64)
    graph = builder.graph([builder.add(Linear(weight), name)])
    lower = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(5) % outputs
    found = margins(graph, Box(lower, lower + 0.5), labels, method=method)
    assert found[torch.arange(5), labels].tolist() == [0] * 5
    ways = 1 if method == "crown" else 2  # alpha begins with crown
    assert sum(climbed) == ways * 5 * (outputs - 1)
    if outputs > 1:
        rest = margins(graph, Box(lower[2:3], lower[2:3] + 0.5), labels[2:3], method=method)
        assert torch.allclose(found[2], rest[0])
