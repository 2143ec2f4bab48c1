"""Attacks: starting points of a random sample, and how an attack is named. (Candidates are replayed elsewhere.)"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import irverify as iv
from irverify.attacks import Candidate, Pgd, Target, attack, has_label, keeps_label, pgd, protocol
from irverify.data import DIGITS_NETWORK, digits
from irverify.errors import UsageError
from irverify.frontends.compile import compile as compile_source
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Cast, Tanh
from irverify.ir.types import TensorType


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


def test_targets_share_evaluations_and_nothing_else() -> None:
    """Each of three is told what it is told alone: a counterexample, one that is refused, and none."""
    graph = compile_source(DIGITS_NETWORK)
    data = digits("test").select(range(6))
    asked: list[int] = []

    def target(place: int) -> Target:
        region = iv.Linf(torch.from_numpy(data.images[place])[None].double(), 0.2, clip=(0, 1)).inner(torch.float32)
        prop = iv.robust(int(data.labels[place])).bind(64, 10)

        def accept(candidate: Candidate) -> bool:
            asked.append(place)
            return place != 1

        centre = [[part[None] for part in region.center] for _ in prop.disjuncts]
        return Target((region,), prop, accept, centre)

    how = Pgd(steps=8, restarts=3)
    alone = [attack(graph, [target(place)], how)[0] for place in range(6)]
    together = attack(graph, [target(place) for place in range(6)], how)
    assert 1 in asked and len({found.candidate is None for found in alone}) == 2
    for one, other in zip(alone, together, strict=True):
        assert (one.candidate is None) == (other.candidate is None)
        best, same = (min(margin for margin, _ in found.nearest.values()) for found in (one, other))
        assert abs(best - same) < 1e-5


def test_nearest_points_have_the_margin_that_is_said() -> None:
    graph = compile_source(DIGITS_NETWORK)
    data = digits("test").select([0])
    region = iv.Linf(torch.from_numpy(data.images), 0.01, clip=(0, 1))
    prop = iv.robust(int(data.labels[0])).bind(64, 10)
    (found,) = attack(graph, [Target((region,), prop, lambda _: True)], Pgd(steps=5, restarts=2))
    assert set(found.nearest) == set(prop.disjuncts)
    for disjunct, (margin, (point,)) in found.nearest.items():
        y = graph.evaluate(point)
        assert isinstance(y, torch.Tensor) and bool(region.contains(point).all())
        assert abs(float((y[0].double() @ disjunct.outputs[0]) + disjunct.offset[0]) - margin) < 1e-4


@pytest.mark.parametrize(
    ("name", "steps", "restarts"), [("pgd-40", 40, 1), ("pgd-100", 100, 1), ("pgd-200x10", 200, 10)]
)
def test_protocols_of_the_papers(name: str, steps: int, restarts: int) -> None:
    how = protocol(name)
    assert (how.steps, how.restarts, str(how), how.decay) == (steps, restarts, name, 1.0)
    graph = compile_source(DIGITS_NETWORK)
    data = digits("test").select([0])
    region = iv.Linf(torch.from_numpy(data.images), 0.5, clip=(0, 1))
    prop = iv.robust(int(data.labels[0])).bind(64, 10)
    assert pgd(graph, [region], prop, how, lambda _: True) is not None


def test_an_unknown_protocol_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="pgd-40"):
        protocol("pgd-7")


def test_labels_are_kept_where_no_other_logit_gets_as_large() -> None:
    """y = (x, 1 - x) with x in [c - 0.1, c + 0.1]: label 0 is kept above x = 0.5, by label 1 below."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model.bias.copy_(torch.tensor([0.0, 1.0]))
    graph = iv.compile(model, torch.zeros(1, 1))
    region = iv.Linf(torch.tensor([[0.7], [0.55], [0.3], [0.3]]), 0.1)
    kept = keeps_label(graph, [region], torch.tensor([0, 0, 0, 1]), protocol("pgd-40"))
    assert kept.tolist() == [True, False, False, True]
    assert keeps_label(graph, [region], torch.tensor([], dtype=torch.long), Pgd()).shape == (0,)


def test_a_tie_is_no_label() -> None:
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [math.inf, 1.0], [math.nan, math.nan]])
    assert has_label(logits, torch.zeros(5, dtype=torch.long)).tolist() == [True, False, False, False, False]


def test_no_targets_and_regions_of_no_example() -> None:
    graph = narrow_valley()
    assert attack(graph, [], Pgd()) == []
    for batch in (0, 2):
        region = iv.Linf(torch.zeros(batch, 1, dtype=torch.float64), 1.0)
        prop = iv.linear(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).bind(1, 1)
        with pytest.raises(UsageError, match=f"expected regions of one example each, got {batch}"):
            pgd(graph, [region], prop, Pgd(), lambda candidate: True)


def test_a_network_whose_outputs_have_another_type() -> None:
    """`tanh(x)` in double precision, given in single: negative on the left half."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    graph = builder.graph([builder.add(Cast(torch.float32), builder.add(Tanh(), x))])
    region = iv.Linf(torch.full((1, 1), 0.1, dtype=torch.float64), 1.0)
    prop = iv.linear(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).bind(1, 1)
    assert pgd(graph, [region], prop, Pgd(steps=20, restarts=2), lambda candidate: True) is not None
