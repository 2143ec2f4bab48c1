"""Attacks: starting points of a random sample, and how an attack is named. (Candidates are replayed elsewhere.)"""

from __future__ import annotations

import torch
from torch import nn

import irverify as iv
from irverify.attacks import Pgd, pgd


def narrow_valley() -> iv.Graph:
    """`1 - relu(2 - 200 |x - 0.9|)`: 1 everywhere but in [0.89, 0.91], where it falls to -1 at 0.9."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double().eval()
    numbers = ([[1.0], [-1.0]], [-0.9, 0.9], [[-200.0, -200.0]], [2.0], [[-1.0]], [1.0])
    with torch.no_grad():
        for parameter, entries in zip(model.parameters(), numbers, strict=True):
            parameter.copy_(torch.tensor(entries, dtype=torch.float64))
    return iv.compile(model, torch.zeros(1, 1, dtype=torch.float64))


def test_the_best_of_a_sample_finds_what_descent_cannot() -> None:
    """Outside the valley the slope is zero: only a point that falls into it leads down."""
    graph = narrow_valley()
    region = iv.Linf(torch.zeros(1, 1, dtype=torch.float64), 1.0)
    prop = iv.linear(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).bind(1, 1)

    def found(attack: Pgd) -> bool:
        return pgd(graph, [region], prop, attack, lambda candidate: True) is not None

    assert not found(Pgd(steps=20, restarts=4))
    assert found(Pgd(steps=20, restarts=4, step=0.01, sample=5000))


def test_an_attack_says_what_it_does() -> None:
    assert str(Pgd(steps=10, restarts=4)) == "pgd{steps=10,restarts=4}"
    assert str(Pgd(steps=60, restarts=4, chords=0.7)) == "pgd{steps=60,restarts=4,chords=0.7}"
    assert str(Pgd(sample=100)) == "pgd{steps=40,restarts=8,sample=100}"
