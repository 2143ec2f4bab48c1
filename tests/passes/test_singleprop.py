"""SingleProp: worked by hand, against eq. 6 and the definition, and never a bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import irverify as iv
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Conv, LeakyRelu, MaxPool, Relu, Reshape, ScaleShift
from irverify.ir.types import TensorType
from irverify.passes.half_relu import half_relu
from irverify.passes.relaxations import Choice
from irverify.passes.singleprop import SINGLEPROP, Half, approximation_error
from irverify.pipeline import run
from irverify.regions import L1, L2, Box, Linf
from tests.passes.test_crown import worked_example
from tests.random_graphs import AFFINE, boxes, elementwise, graphs

METHODS = ("singleprop-zero", "singleprop-fastlin")
KINDS = (*AFFINE, *(elementwise(Relu()),) * 4, elementwise(LeakyRelu(0.1)))


@pytest.mark.parametrize(("method", "unstable"), [("singleprop-zero", 1.0), ("singleprop-fastlin", 1.5)])
def test_by_hand(method: str, unstable: float) -> None:
    """Both hidden neurons have z_nom = 0 and v = 2: (0 + 2) / 2 by eq. 8, 3/4 * 2 by eq. 7; their sum is the output."""
    graph, region = worked_example()
    estimate = run(graph, method, region).estimates["y"]
    assert (estimate.lower.item(), estimate.upper.item()) == (-2 * unstable, 2 * unstable)
    assert estimate.source == method


@pytest.mark.parametrize("choice", ["zero", "same"])
def test_relu_is_equation_6(choice: Choice) -> None:
    """Eq. 7 and 8 are eq. 6 with the lines of a ReLU: those of a leaky one with slope 0."""
    z = torch.linspace(-3, 3, 61).double()[None]
    v = torch.linspace(0.01, 2.5, 61).double()[None]
    builder = GraphBuilder()
    x = builder.input(TensorType((61,), torch.float64))
    nodes = [builder.node(builder.add(op, x)) for op in (Relu(), LeakyRelu(0.0))]
    rules = [SINGLEPROP.find(type(node.op)) for node in nodes]
    first, second = (rule(node, [Half(z, v)], choice).gap for node, rule in zip(nodes, rules, strict=True) if rule)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("choice", ["zero", "same"])
def test_gradients_of_a_relu(choice: Choice) -> None:
    """Inactive, unstable with either sign, active; and no NaN where nothing moves or z_nom is 0."""
    center = torch.tensor([-2.0, -0.5, 0.25, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    gap = torch.tensor([1.0, 1.5, 0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, v: half_relu(z, v, choice), (center, gap))
    for still in (torch.zeros(3), torch.full((3,), 1e-30)):
        z, v = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True), still.requires_grad_()
        result, moved = half_relu(z, v, choice)
        (result.sum() + moved.sum()).backward()
        for tensor in (result, moved, z.grad, v.grad):
            assert tensor is not None
            assert bool(tensor.isfinite().all())
        middle = still[1].item() * (0.5 if choice == "zero" else 0.75)
        assert moved.tolist() == pytest.approx([0.0, middle, still[2].item()])
        if not still.detach().any():  # a constant: where it is active, z_nom and v go through as they are
            assert (z.grad is not None and z.grad[2] == 1) and (v.grad is not None and v.grad[2] == 1)
            assert z.grad[0] == 0 and v.grad[0] == 0


@pytest.mark.parametrize(("ball", "order"), [(L2, 2.0), (L1, float("inf"))])
def test_first_affine_map_of_a_ball_takes_the_dual_norm(ball: type[L1 | L2], order: float) -> None:
    """Eq. 3, row by row: a scaled and reshaped input, then a convolution, with what it overlaps."""
    generator = torch.Generator().manual_seed(0)
    builder = GraphBuilder()
    x = builder.input(TensorType((16,), torch.float64))
    scaled = builder.add(ScaleShift(torch.tensor(2.0).double(), torch.tensor(1.0).double()), x)
    image = builder.add(Reshape((1, 4, 4)), scaled)
    weight = torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float64)
    graph = builder.graph([builder.add(Conv(weight, None, (2, 1), ((1, 0), (1, 1))), image, name="z")])
    region = ball(torch.rand(2, 16, generator=generator).double(), 0.3)
    estimate = run(graph, "singleprop-zero", region).estimates["z"]
    half = (estimate.upper - estimate.lower).reshape(2, -1) / 2
    columns = graph.values({graph.inputs[0].name: torch.cat([torch.eye(16), torch.zeros(1, 16)]).double()})["z"]
    rows = (columns[:16] - columns[16]).reshape(16, -1)
    torch.testing.assert_close(half, 0.3 * torch.linalg.vector_norm(rows, ord=order, dim=0).expand(2, -1))


@settings(max_examples=40)
@given(data=st.data())
def test_a_box_of_affine_maps_is_ibp(data: st.DataObject) -> None:
    """Without activations |W| v about the centre is interval bound propagation."""
    graph = data.draw(graphs(kinds=AFFINE))
    regions = data.draw(boxes(graph))
    bounds = run(graph, "ibp", regions).bounds
    for name, estimate in run(graph, "singleprop-zero", regions).estimates.items():
        if not any("sub" in node.op.name for node in graph):
            torch.testing.assert_close(estimate.lower, bounds[name].lower, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(estimate.upper, bounds[name].upper, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ball", [None, L1, L2])
@settings(max_examples=25)
@given(data=st.data())
def test_random_graphs(method: str, ball: type[L1 | L2] | None, data: st.DataObject) -> None:
    """Never bounds; around the value at the centre; a batch is its examples; a point has width 0."""
    graph = data.draw(graphs(kinds=KINDS, inputs=1, max_nodes=6))
    regions = data.draw(boxes(graph))
    if ball is not None:
        regions = (ball(regions[0].center, 0.2),)
    state = run(graph, method, regions)
    assert set(state.bounds) == {node.name for node in graph.inputs}
    alone = run(graph, method, [region.select(1) for region in regions]).estimates
    at_center = graph.values({node.name: region.center for node, region in zip(graph.inputs, regions, strict=True)})
    for name, estimate in state.estimates.items():
        assert bool((estimate.lower <= estimate.upper).all())
        torch.testing.assert_close((estimate.lower + estimate.upper) / 2, at_center[name], rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(alone[name].lower, estimate.lower[1:2], rtol=1e-9, atol=1e-9)


def test_margins_refuse_an_estimate_and_estimates_give_it() -> None:
    graph, region = network(), Linf(torch.rand(2, 4).double(), 0.1)
    with pytest.raises(UsageError, match=r"singleprop-zero is an estimator, and an estimate is not a bound \(iv.estim"):
        iv.margins(graph, region, 0, method="singleprop-zero")
    with pytest.raises(UsageError, match=r"ends in an estimator, got 'crown' .*singleprop-fastlin"):
        iv.estimates(graph, region, 0, method="crown")
    estimate = iv.estimates(graph, region, torch.tensor([0, 2]), method="singleprop-fastlin")
    assert estimate.lower.shape == (2, 3)
    assert estimate.lower[1, 2] == 0
    margins = iv.margins(graph, region, torch.tensor([0, 2]), method="fast-lin")
    assert bool(((estimate.lower - margins).abs() < 0.5 * margins.abs().clamp(min=0.1)).all())


def network() -> iv.Graph:
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    return iv.compile(torch.nn.Sequential(*layers).double().eval(), torch.rand(1, 4).double())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("region", [Linf, L2, L1])
def test_differentiable(method: str, region: type[Linf | L2 | L1]) -> None:
    torch.manual_seed(0)
    first = torch.nn.Linear(4, 8).double()
    module = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Linear(8, 3).double())
    graph = iv.compile(module.eval(), torch.rand(1, 4).double())
    x = torch.rand(2, 4).double()

    def loss() -> torch.Tensor:
        return iv.estimates(graph, region(x, 0.3), 1, method=method).lower.sum()

    loss().backward()
    weight = first.weight
    assert weight.grad is not None
    gradient, step = weight.grad[0, 0].item(), 1e-6
    with torch.no_grad():
        before = loss()
        weight[0, 0] += step
        assert abs((loss() - before).item() / step - gradient) < 1e-4


def test_other_operators_are_refused() -> None:
    builder = GraphBuilder()
    pool = MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    graph = builder.graph([builder.add(pool, builder.input(TensorType((1, 4, 4))), name="p")])
    with pytest.raises(UnsupportedError, match=r"%p = max_pool.*paper 3 estimates"):
        run(graph, "singleprop-zero", Box(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)))


def test_approximation_error_by_hand() -> None:
    """a in [-2, 2]^2 about 0 adds nothing; y in [0, 3] with y(0) = 0 adds 1.5, and 1.5 / 3."""
    graph, region = worked_example()
    error = approximation_error(run(graph, "crown-zero", region))
    assert (error.absolute.item(), error.relative.item()) == (1.5, 0.5)
