"""Optimised lines: optima known by hand and by linear programming, containment, and never looser than crown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from irverify.errors import UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    AveragePool,
    Clip,
    Exp,
    LeakyRelu,
    Linear,
    MaxPool,
    Operator,
    Relu,
    Sigmoid,
    Softmax,
    Step,
    Sub,
    Tanh,
)
from irverify.ir.types import TensorType
from irverify.passes import alpha
from irverify.passes.freedom import FREEDOM
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, Relaxation
from irverify.passes.steering import _Bend
from irverify.pipeline import margins, run
from irverify.regions import L2, Box, Region
from tests.passes.test_crown import KINDS
from tests.passes.test_soundness import check, slack
from tests.random_graphs import boxes, graphs

EVERY = (
    Relu(), LeakyRelu(0.1), LeakyRelu(2.0), Abs(), Clip(-1, 1), Clip(0, 1), Sigmoid(), Tanh(), Exp(),
)  # fmt: skip
FEW = settings(max_examples=25)
SHORT = ("alpha{steps=5}", "alpha{steps=3,intermediate=3}")


@pytest.mark.parametrize("analysis", SHORT)
@FEW
@given(data=st.data())
def test_sampled_values_lie_inside(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    check(graph, data.draw(boxes(graph)), analysis)


@pytest.mark.parametrize("analysis", SHORT)
@FEW
@given(data=st.data())
def test_never_looser_than_crown(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    tight, loose = run(graph, analysis, regions).bounds, run(graph, "crown", regions).bounds
    for name, entry in tight.items():
        allowed = slack(loose[name])
        assert bool((entry.lower >= loose[name].lower - allowed).all())
        assert bool((entry.upper <= loose[name].upper + allowed).all())


def one_neuron() -> Graph:
    """`relu(x) - 0.3 x`, whose minimum is 0, at x = 0."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    scaled = builder.add(Linear(torch.tensor([[0.3]]).double()), x)
    copy = builder.add(Linear(torch.tensor([[1.0]]).double()), x)
    return builder.graph([builder.add(Sub(), builder.add(Relu(), copy), scaled, name="y")])


def test_the_best_slope_of_one_neuron() -> None:
    # With the line s x below, the bound is the minimum of (s - 0.3) x on [-1, 1]: -|s - 0.3|, best at s = 0.3.
    graph, one = one_neuron(), torch.ones(1, 1).double()
    region = Box(-one, one)
    assert run(graph, "crown", region).bounds["y"].lower.item() == pytest.approx(-0.3)
    assert run(graph, "alpha{steps=200,lr=0.2}", region).bounds["y"].lower.item() == pytest.approx(0.0, abs=0.01)


def hidden_layer(seed: int) -> tuple[Graph, Region, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((8, 4), (8,), (1, 8))
    first, bias, last = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    builder = GraphBuilder()
    hidden = builder.add(Relu(), builder.add(Linear(first, bias), builder.input(TensorType((4,), torch.float64))))
    ones = torch.ones(1, 4, dtype=torch.float64)
    return builder.graph([builder.add(Linear(last), hidden, name="y")]), Box(-ones, ones), [first, bias, last]


@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_reaches_the_linear_program(seed: int) -> None:
    """The best lines below give the optimum of the triangle relaxation, its dual (Salman et al. 2019)."""
    graph, region, (first, bias, last) = hidden_layer(seed)
    w, b, c = first.numpy(), bias.numpy(), last.numpy()[0]
    low, high = b - np.abs(w).sum(1), b + np.abs(w).sum(1)
    rows, sides = [], []
    for j in range(8):
        unit = np.eye(8)[j]
        rows.append(np.concatenate([w[j], -unit]))  # z >= a
        sides.append(-b[j])
        if low[j] < 0 < high[j]:
            slope = high[j] / (high[j] - low[j])
            rows.append(np.concatenate([-slope * w[j], unit]))  # z <= slope (a - l)
            sides.append(slope * (b[j] - low[j]))
        else:
            rows.append(np.concatenate([-w[j] * (low[j] >= 0), unit]))
            sides.append(b[j] * (low[j] >= 0))
    limits = [(-1, 1)] * 4 + [(0, None)] * 8
    best = linprog(np.concatenate([np.zeros(4), c]), np.array(rows), np.array(sides), bounds=limits)
    found = run(graph, "alpha{steps=300,lr=0.2}", region).bounds["y"].lower.item()
    assert found <= best.fun + 1e-9
    assert found == pytest.approx(best.fun, abs=0.02)


@pytest.mark.parametrize("op", EVERY, ids=str)
@settings(max_examples=40)
@given(center=st.floats(-3, 3), radius=st.floats(0, 4), share=st.floats(0, 1))
def test_every_choice_encloses_the_function(op: Relu, center: float, radius: float, share: float) -> None:
    lower, upper = (torch.full((1, 1), end, dtype=torch.float64) for end in (center - radius, center + radius))
    builder = GraphBuilder()
    node = builder.node(builder.add(op, builder.input(TensorType((1,), torch.float64))))
    operand, rule, freedom = Interval(lower, upper), RELAXATIONS.find(type(op)), FREEDOM.find(type(op))
    assert rule is not None and freedom is not None
    relaxation = rule(node, [operand], "adaptive")
    assert isinstance(relaxation, Relaxation)
    x = (lower + (upper - lower) * torch.linspace(0, 1, 301, dtype=torch.float64)[:, None]).clamp(lower, upper)
    y = op.evaluate(x)
    for family, sign in zip(freedom(node, operand, relaxation), (1, -1), strict=True):
        if family is not None:
            assert bool((family.least <= family.start).all() and (family.start <= family.most).all())
            slope, intercept = family.line(family.least + share * (family.most - family.least))
            line = slope * x if intercept is None else slope * x + intercept
            assert bool((sign * (y - line) >= -1e-12 * (1 + y.abs().max())).all())


def test_shares_of_a_maximum() -> None:
    """`max(x1, x2) - x1 / 2 - x2 / 2` for both in [-1, 1]: either element alone gives -1, equal shares 0."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2), torch.float64))
    largest = builder.add(MaxPool((2,), (2,), ((0, 0),), (1,)), x)
    mean = builder.add(AveragePool((2,), (2,), ((0, 0),), ((0, 0),), (1,)), x)
    graph, one = builder.graph([builder.add(Sub(), largest, mean, name="y")]), torch.ones(1, 1, 2).double()
    assert run(graph, "crown", Box(-one, one)).bounds["y"].lower.item() == pytest.approx(-1.0)
    assert run(graph, "alpha{steps=40}", Box(-one, one)).bounds["y"].lower.item() == pytest.approx(0.0, abs=0.02)


def test_gradient_of_bending_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(5)]
    assert torch.autograd.gradcheck(_Bend.apply, tensors)
    assert torch.autograd.gradcheck(lambda a, s, t, u: _Bend.apply(a, s, None, t, u), tensors[:4])  # type: ignore[no-untyped-call]


def test_rows_that_are_decided_leave() -> None:
    graph, region, _ = hidden_layer(0)
    bound = margins(graph, region, 0, method="alpha").shape
    assert bound == (1, 1)
    state = run(graph, "alpha{stop-above=-1e9}", region)
    assert state.timings[-1].statistics == {"backward_rows": 2, "steps": 1, "stopped_early": 1}
    crown = run(graph, "crown", region)
    assert torch.equal(state.bounds["y"].lower, crown.bounds["y"].lower)


def test_balls() -> None:
    graph, region, _ = hidden_layer(1)
    ball = L2(region.center, 0.5)
    loose, tight = (run(graph, method, ball).bounds["y"] for method in ("crown", "alpha"))
    assert bool((tight.lower >= loose.lower).all() and (tight.upper <= loose.upper).all())


@pytest.mark.parametrize("behind", [Softmax(0), Step()], ids=str)
def test_rows_that_pass_no_free_line(behind: Operator) -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64))
    graph = builder.graph([builder.add(behind, builder.add(Relu(), x), name="y")])
    one = torch.ones(1, 2).double()
    tight, loose = (run(graph, name, Box(-one, one)).bounds["y"] for name in (SHORT[0], "crown"))
    assert torch.equal(tight.lower, loose.lower) and torch.equal(tight.upper, loose.upper)


@pytest.mark.parametrize("behind", [Relu(), Sigmoid()], ids=str)
@pytest.mark.parametrize("narrow", [alpha.NARROW, 0])
def test_neurons_that_are_all_dead(behind: Operator, narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows go past no element of a node that has free lines."""
    monkeypatch.setattr(alpha, "NARROW", narrow)
    weight = torch.tensor([[1.0, -1.0], [2.0, 0.5]]).double()
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64))
    dead = builder.add(Relu(), builder.add(Linear(weight, torch.tensor([-9.0, -9.0]).double()), x))
    open_ = builder.add(behind, builder.add(Linear(weight, torch.tensor([1.0, 0.5]).double()), dead))
    graph = builder.graph([builder.add(Linear(weight, None), open_, name="y")])
    one = torch.ones(3, 2).double()
    bounds = run(graph, "alpha{steps=2,intermediate=2}", Box(-one, one)).bounds["y"]
    expected = graph.evaluate(one)
    torch.testing.assert_close((bounds.lower, bounds.upper), (expected, expected))


@pytest.mark.parametrize("pipeline", ["alpha", "alpha{intermediate=3}"])
def test_values_without_axes(pipeline: str) -> None:
    # relu(x) <= (x + 1) / 2 on [-1, 1], and relu(x) - x >= (1 - s)(-x) >= 0 with s = 1; the same for its ReLU.
    builder = GraphBuilder()
    x = builder.input(TensorType((), torch.float64))
    graph = builder.graph([builder.add(Relu(), builder.add(Sub(), builder.add(Relu(), x), x), name="y")])
    bounds = run(graph, pipeline, Box(-torch.ones(1).double(), torch.ones(1).double())).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == pytest.approx((0.0, 1.0), abs=1e-9)


@pytest.mark.parametrize("options", ["steps=-1", "intermediate=-1", "lr=0.0", "memory=0"])
def test_options_that_make_no_sense(options: str) -> None:
    graph, region, _ = hidden_layer(0)
    with pytest.raises(UsageError, match="alpha"):
        run(graph, f"alpha{{{options}}}", region)


def test_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region, _ = hidden_layer(2)
    whole = run(graph, "alpha", region).bounds["y"]
    monkeypatch.setattr(alpha, "CHUNK", 1)
    parts = run(graph, "alpha", region).bounds["y"]
    assert torch.allclose(whole.lower, parts.lower) and torch.allclose(whole.upper, parts.upper)


def test_rows_of_all_examples_together_or_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    builder = GraphBuilder()
    name = builder.input(TensorType((3,), torch.float64))
    for _ in range(3):
        weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (3,)))
        name = builder.add(Relu(), builder.add(Linear(weight, bias), name))
    graph, center = builder.graph([name]), torch.randn(4, 3, generator=generator, dtype=torch.float64)
    region = Box(center - 1, center + 1)
    together = run(graph, "alpha{intermediate=5}", region).bounds
    monkeypatch.setattr(alpha, "NARROW", 0)
    apart = run(graph, "alpha{intermediate=5}", region).bounds
    for value in graph:
        first, second = together[value.name], apart[value.name]
        open_ = (first.lower < 0) & (first.upper > 0)  # those that are decided may be left a step earlier or later
        assert torch.equal(open_, (second.lower < 0) & (second.upper > 0))
        assert torch.allclose(first.lower[open_], second.lower[open_])
        assert torch.allclose(first.upper[open_], second.upper[open_])
