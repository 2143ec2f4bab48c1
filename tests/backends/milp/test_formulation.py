"""The mixed-integer programs decide as enumeration of all activation patterns does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from irverify.backends.milp.formulation import TOLERANCE, Formulation, formulate
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import SolverName
from irverify.errors import PropertyError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Linear, Relu
from irverify.ir.types import TensorType
from irverify.properties import Disjunct, Property, robust
from irverify.regions import Box
from tests.random_graphs import AFFINE, PIECEWISE, boxes, graphs, points


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def tensor(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape))


class Net:
    """y = C relu(B relu(A x + a) + b + R x) + c: two ReLU layers and a residual edge, with at most six ReLUs."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.n, first, second, out = (int(rng.integers(1, high)) for high in (4, 4, 4, 4))
        self.first = tensor(rng, first, self.n), tensor(rng, first)
        self.second = tensor(rng, second, first), tensor(rng, second)
        self.skip = tensor(rng, second, self.n)
        self.last = tensor(rng, out, second), tensor(rng, out)
        center = rng.normal(size=self.n)
        radius = rng.random(self.n) * rng.choice([0.0, 0.2, 1.0, 2.0])
        if rng.random() < 0.3:  # one free coordinate
            radius = np.where(np.arange(self.n) == rng.integers(self.n), radius, 0.0)
        self.lower, self.upper = center - radius, center + radius

    def graph(self) -> Graph:
        builder = GraphBuilder()
        x = builder.input(TensorType((self.n,), torch.float64), name="x")
        hidden = builder.add(Relu(), builder.add(Linear(*self.first), x))
        added = builder.add(Add(), builder.add(Linear(*self.second), hidden), builder.add(Linear(self.skip), x))
        return builder.graph([builder.add(Linear(*self.last), builder.add(Relu(), added), name="y")])

    def region(self) -> Box:
        return Box(torch.from_numpy(self.lower)[None], torch.from_numpy(self.upper)[None])

    def minimum(self, coefficients: np.ndarray, constant: float) -> float:
        """min of `coefficients . y + constant` over the region: a linear program for each activation pattern."""
        (a, bias_a), (b, bias_b), (c, bias_c) = (
            (weight.numpy(), bias.numpy()) for weight, bias in (self.first, self.second, self.last)
        )
        best = np.inf
        for pattern in itertools.product([0.0, 1.0], repeat=len(bias_a) + len(bias_b)):
            on_a, on_b = np.array(pattern[: len(bias_a)]), np.array(pattern[len(bias_a) :])
            z2, z2_bias = b @ (on_a[:, None] * a) + self.skip.numpy(), b @ (on_a * bias_a) + bias_b
            rows = np.vstack([(1 - 2 * on_a)[:, None] * a, (1 - 2 * on_b)[:, None] * z2])
            limits = np.concatenate([(2 * on_a - 1) * bias_a, (2 * on_b - 1) * z2_bias])
            objective = coefficients @ c @ (on_b[:, None] * z2)
            shift = coefficients @ (c @ (on_b * z2_bias) + bias_c) + constant
            box = np.stack([self.lower, self.upper], axis=1)
            result = linprog(objective, A_ub=rows, b_ub=limits + 1e-12, bounds=box)
            if result.status == 0:
                best = min(best, float(result.fun) + shift)
        return best


@pytest.mark.parametrize("solver", ["scip", "highs"])
def test_programs_agree_with_enumeration(solver: SolverName, worker: Worker) -> None:
    """On 30 random nets, degenerate regions among them: the smallest margin, and the answer to the feasibility
    question."""
    decided = 0
    for seed in range(30):
        net = Net(seed)
        rng = np.random.default_rng(1000 + seed)
        coefficients, constant = rng.normal(size=(1, len(net.last[1]))), rng.normal(size=1)
        prop = Property((Disjunct(torch.from_numpy(coefficients), torch.from_numpy(constant)),))
        expected = net.minimum(coefficients[0], float(constant[0]))
        formulation = formulate(net.graph(), net.region(), prop)
        worst = solve(formulation.worst(0), solver, worker=worker)
        assert worst.status == "optimal" and worst.objective is not None and worst.x is not None, seed
        size = 1 + abs(expected)
        assert worst.objective == pytest.approx(expected, abs=1e-4 * size), seed
        assert worst.dual_bound <= expected + 1e-4 * size, seed
        assert replay(formulation, worst.x) == pytest.approx(expected, abs=1e-4 * size), seed
        feasible = solve(formulation.feasible(0), solver, worker=worker)
        if abs(expected) > max(1e-4 * size, 3 * formulation.tolerance):
            decided += 1
            assert feasible.status == ("infeasible" if expected > 0 else "optimal"), seed
            assert feasible.x is None or replay(formulation, feasible.x) <= 2 * formulation.tolerance, seed
    assert decided > 25


def replay(formulation: Formulation, x: np.ndarray) -> float:
    """The smallest over all disjuncts of the largest margin at the inputs of a solution, by evaluation."""
    inputs = formulation.inputs(x)
    graph = formulation.encoding.graph
    given = {node.name: part for node, part in zip(graph.inputs, inputs, strict=True)}
    values = graph.values(given)
    y = torch.cat([values[name].reshape(-1) for name in graph.outputs])
    flat = torch.cat([part.reshape(-1) for part in inputs])
    margins = []
    for disjunct in formulation.prop.disjuncts:
        margin = disjunct.outputs @ y + disjunct.offset
        margins.append(float((margin if disjunct.inputs is None else margin + disjunct.inputs @ flat).max()))
    return min(margins)


@settings(max_examples=40)
@given(graphs(kinds=AFFINE + PIECEWISE, max_nodes=6), st.data())
def test_any_operator_and_property(worker: Worker, graph: Graph, data: st.DataObject) -> None:
    """Every operator with an encoding, several disjuncts of several rows over inputs and outputs: no sampled point has
    a margin below the optimum, and the inputs of the solution attain it."""
    regions = data.draw(boxes(graph, batch=1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    prop = random_property(graph, rng)
    formulation = formulate(graph, regions, prop)
    solution = solve(formulation.model, "scip", SolveOptions(time_limit=30.0), worker=worker)
    assert solution.status == "optimal" and solution.x is not None and solution.objective is not None
    size = 1 + float(np.abs(solution.x).max(initial=0.0))
    assert replay(formulation, solution.x) == pytest.approx(solution.objective, abs=1e-4 * size)
    for sample in points(graph, regions, count=4):
        x = formulation.hint(list(sample.values()))
        assert formulation.model.violation(x) <= 1e-7 * (1 + float(np.abs(x).max(initial=0.0)))
        value = float(formulation.model.objective @ x) + formulation.model.offset
        assert value == pytest.approx(replay(formulation, x), abs=1e-7 * size)
        assert value >= solution.dual_bound - 1e-4 * size
    for index in range(len(prop.disjuncts)):
        worst = solve(formulation.worst(index), "scip", worker=worker)
        assert worst.objective is not None and worst.objective >= solution.objective - 1e-4 * size


def random_property(graph: Graph, rng: np.random.Generator) -> Property:
    n_in = sum(node.type.size for node in graph.inputs)
    n_out = sum(graph[name].type.size for name in graph.outputs)
    disjuncts = []
    for _ in range(int(rng.integers(1, 4))):
        rows = int(rng.integers(1, 3))
        inputs = tensor(rng, rows, n_in) if rng.random() < 0.5 else None
        disjuncts.append(Disjunct(tensor(rng, rows, n_out), tensor(rng, rows), inputs))
    return Property(tuple(disjuncts))


def identity_net() -> tuple[Graph, Box]:
    """y = x for x in [0, 1] x [2, 3]."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64), name="x")
    graph = builder.graph([builder.add(Relu(), x, name="y")])
    lower, upper = torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[1.0, 3.0]]).double()
    return graph, Box(lower, upper)


def test_disjuncts_by_hand(worker: Worker) -> None:
    """The second disjunct needs y_0 >= 0.5 and y_1 <= 2.25 at once: its largest margin is -0.25 at best."""
    graph, region = identity_net()
    rows = torch.tensor([[-1.0, 0.0], [0.0, 1.0]]).double()
    first = Disjunct(torch.tensor([[-1.0, 1.0]]).double(), torch.tensor([-0.5]).double())  # y_1 - y_0 <= 0.5
    second = Disjunct(rows, torch.tensor([0.5, -2.25]).double())
    formulation = formulate(graph, region, Property((first, second)))
    assert [float(solve(formulation.worst(k), worker=worker).objective or 0) for k in (0, 1)] == pytest.approx(
        [0.5, -0.25]
    )
    assert [solve(formulation.feasible(k), worker=worker).status for k in (0, 1)] == ["infeasible", "optimal"]
    solution = formulation.solve("highs")
    assert solution.objective == pytest.approx(-0.25) and solution.x is not None
    (x,) = formulation.inputs(solution.x)
    assert x.shape == (1, 2) and bool(region.contains(x).all())


def test_inputs_are_moved_into_the_box() -> None:
    graph, region = identity_net()
    formulation = formulate(graph, region, robust(1))
    x = formulation.hint([torch.tensor([[0.5, 2.5]])])
    x[:2] = [-1e-7, 3.0 + 1e-7]
    assert formulation.inputs(x)[0].tolist() == [[0.0, 3.0]]


def test_rows_and_names() -> None:
    graph, region = identity_net()
    formulation = formulate(graph, region, robust(1))
    assert formulation.rows.shape == (1, 3)
    assert formulation.model.variable_names() == ["x(0)", "x(1)", "margin.0(0)"]
    assert formulation.model.row_names() == ["margin.0.eq(0)"]


def test_properties_that_do_not_fit() -> None:
    graph, region = identity_net()
    with pytest.raises(PropertyError, match="label"):
        formulate(graph, region, robust(2))
    with pytest.raises(PropertyError, match="no disjuncts"):
        _ = formulate(graph, region, Property(())).model


def test_margins_beyond_the_tolerance_are_proved(worker: Worker) -> None:
    """y_1 - y_0 >= 1 everywhere, outputs are up to 3: a margin of 6e-5 is refuted, one of 2e-5 is not."""
    graph, region = identity_net()
    for margin, status in ((6e-5, "infeasible"), (2e-5, "optimal")):
        row = Disjunct(torch.tensor([[-1.0, 1.0]]).double(), torch.tensor([margin - 1.0]).double())
        formulation = formulate(graph, region, Property((row,)))
        assert formulation.tolerance == pytest.approx(3 * TOLERANCE)
        assert solve(formulation.feasible(0), "scip", worker=worker).status == status
