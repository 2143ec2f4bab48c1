"""A network mixed with its chords: by hand, at the two ends of the fade, and where it helps an attack."""

from __future__ import annotations

import torch
from torch import nn

import irverify as iv
from irverify.attacks import Pgd, pgd
from irverify.ir.graph import Graph
from irverify.passes.chords import Chords
from irverify.pipeline.facts import Bounds


def plateau() -> tuple[Graph, iv.Linf]:
    """`2 - 8 relu(x - 0.5)` on [-1, 1]: flat around the centre, negative for x > 0.75 only."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double().eval()
    with torch.no_grad():
        for parameter, number in zip(model.parameters(), (1.0, -0.5, -8.0, 2.0), strict=True):
            parameter.fill_(number)
    graph = iv.compile(model, torch.zeros(1, 1, dtype=torch.float64))
    return graph, iv.Linf(torch.zeros(1, 1, dtype=torch.float64), 1.0)


def test_chord_of_a_relu_by_hand() -> None:
    """Pre-activation in [-1.5, 0.5]: the chord is (z + 1.5) / 4, so that at x = 0 (z = -0.5) it gives 0.25."""
    graph, region = plateau()
    mixed = Chords(graph, [iv.run(graph, "ibp", region).bounds, {}])
    assert mixed.any
    at = {graph.inputs[0].name: torch.zeros(2, 1, dtype=torch.float64)}
    for share, expected in ((1.0, 2 - 8 * 0.25), (0.5, 2 - 8 * 0.125), (0.0, 2.0)):
        values = mixed.graph.values(at | mixed.operands(share, torch.tensor([0, 1])))
        assert values[mixed.graph.outputs[0]].flatten().tolist() == [expected, 2.0]  # the second one has no bounds


def test_without_bounds_the_network_stays_as_it_is() -> None:
    graph, region = plateau()
    infinite = {
        name: Bounds(torch.full_like(bounds.lower, -torch.inf), bounds.upper, "given")
        for name, bounds in iv.run(graph, "ibp", region).bounds.items()
    }
    for bounds in ({}, infinite):
        mixed = Chords(graph, [bounds])
        assert not mixed.any and len(mixed.graph) == len(graph)


def test_an_attack_with_chords_leaves_a_plateau() -> None:
    """From the centre the gradient is zero; along the chord it leads to the violation."""
    graph, region = plateau()
    bounds = iv.run(graph, "ibp", region).bounds
    prop = iv.linear(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).bind(1, 1)

    def found(attack: Pgd) -> bool:
        return pgd(graph, [region], prop, attack, lambda candidate: True, bounds=bounds) is not None

    assert not found(Pgd(steps=20, restarts=1))
    assert found(Pgd(steps=20, restarts=1, chords=0.5))
