"""Linear bounds of single operators: by hand, and by sampling on random boxes: points, huge and infinite ones too."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    Clip,
    Cos,
    Div,
    Exp,
    LeakyRelu,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Operator,
    Pow,
    Relu,
    Sigmoid,
    Sin,
    Softmax,
    Step,
    Sub,
    Tanh,
    Trunc,
)
from irverify.ir.types import TensorType
from irverify.passes.curves import SIGMOID, s_shaped
from irverify.passes.interval import INTERVAL
from irverify.passes.lines import Between, Relaxation, Relaxed
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS
from irverify.pipeline import run
from irverify.regions import Box
from tests.passes.test_soundness import check
from tests.random_graphs import EVERYTHING, boxes, graphs

UNARY = (
    Relu(), LeakyRelu(0.1), LeakyRelu(2.0), Abs(), Clip(-1.0, 1.0), Clip(0.0, 6.0), Clip(0.0, math.inf),
    Clip(-math.inf, 1.0), Sigmoid(), Tanh(), Exp(), Pow(0.0), Pow(1.0), Pow(2.0), Pow(3.0), Pow(4.0), Pow(5.0), Sin(),
    Cos(), Softmax(0),
)  # fmt: skip
POSITIVE = (Pow(-1.0), Pow(-2.0), Pow(-3.0), Pow(0.5), Pow(1.5), Pow(-0.5))
BINARY = (Mul(), Maximum(), Minimum(), Div())
TOLERANCE = 1e-11


def relaxed(op: Operator, *operands: Interval, same: bool = False) -> Relaxed:
    builder = GraphBuilder()
    types = [TensorType(tuple(operand.lower.shape[1:]), operand.lower.dtype) for operand in operands]
    inputs = [builder.input(type_) for type_ in types]
    node = builder.node(builder.add(op, *(inputs[:1] * 2 if same else inputs)))
    rule = RELAXATIONS.find(type(op))
    assert rule is not None
    return rule(node, operands, "adaptive")


def assert_below(op: Operator, found: Relaxed, points: list[Tensor]) -> None:
    """For rows of either sign, and zero, what passes is at most the row's value at each of the points `[points, *]`."""
    values = op.evaluate(*points)
    for sign in (1.0, -1.0, 0.0, 0.37):
        rows = torch.full_like(values[:1], sign)
        passed, constant = found.through(rows, lambda tensor: tensor)
        line = sum(((a * x).flatten(1).sum(1) for a, x in zip(passed, points, strict=False)), constant)
        scale = 1 + values.abs().amax() + sum((a * x).abs().sum() for a, x in zip(passed, points, strict=False))
        assert isinstance(line, Tensor)
        assert bool((line <= (rows * values).flatten(1).sum(1) + TOLERANCE * scale).all())


def spread(interval: Interval, count: int = 201, seed: int = 0) -> Tensor:
    """Points of an interval, both ends among them, `[points, *shape]`."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *interval.lower.shape[1:], generator=generator, dtype=torch.float64)
    share[0], share[1], share[2:20] = 0.0, 1.0, share[2:20].round()
    return (interval.lower + (interval.upper - interval.lower) * share).clamp(interval.lower, interval.upper)


def interval(center: float, radius: float, *shape: int) -> Interval:
    return Interval(*(torch.full((1, *(shape or (1,))), end).double() for end in (center - radius, center + radius)))


SOME = settings(max_examples=40)
CENTERS, RADII = st.floats(-8, 8), st.one_of(st.just(0.0), st.floats(1e-12, 1e-3), st.floats(0, 12))


@pytest.mark.parametrize("op", UNARY, ids=str)
@SOME
@given(center=CENTERS, radius=RADII)
def test_lines_of_one_value(op: Operator, center: float, radius: float) -> None:
    operand = interval(center, radius)
    assert_below(op, relaxed(op, operand), [spread(operand)])


@pytest.mark.parametrize("op", POSITIVE, ids=str)
@SOME
@given(low=st.floats(1e-3, 10), width=RADII)
def test_lines_of_positive_values(op: Operator, low: float, width: float) -> None:
    operand = interval(low + width / 2, width / 2)
    operand = Interval(operand.lower.clamp(min=1e-3), operand.upper)
    assert_below(op, relaxed(op, operand), [spread(operand)])
    if isinstance(op, Pow) and op.exponent.is_integer():
        mirrored = Interval(-operand.upper, -operand.lower)
        assert_below(op, relaxed(op, mirrored), [spread(mirrored)])


@pytest.mark.parametrize("op", BINARY, ids=str)
@SOME
@given(first=CENTERS, second=CENTERS, radius=RADII, other=RADII)
def test_planes_of_two_values(op: Operator, first: float, second: float, radius: float, other: float) -> None:
    operands = [interval(first, radius), interval(second, other)]
    if isinstance(op, Div):
        below = second < 0
        operands[1] = interval(second + (-1 if below else 1) * (other + 0.05), other)
    points = [spread(operand, seed=index) for index, operand in enumerate(operands)]
    assert_below(op, relaxed(op, *operands), points)


@given(center=CENTERS, radius=RADII)
def test_square_of_one_value(center: float, radius: float) -> None:
    operand = interval(center, radius)
    found = relaxed(Mul(), operand, operand, same=True)
    assert isinstance(found, Relaxation)
    assert_below(Pow(2.0), found, [spread(operand)])


@given(seed=st.integers(0, 2**31), spreads=st.tuples(RADII, RADII), lead=st.sampled_from(((), (2,), (1,))))
def test_product_of_two_matrices(seed: int, spreads: tuple[float, float], lead: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    operands = []
    for shape, radius in zip(((*lead, 2, 3), (*(2 for _ in lead), 3, 4)), spreads, strict=True):
        center, radii = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
        operands.append(Interval(center - radius * radii.abs(), center + radius * radii.abs()))
    points = [spread(operand, seed=index) for index, operand in enumerate(operands)]
    assert_below(MatMul(), relaxed(MatMul(), *operands), points)


HUGE = ((-math.inf, math.inf), (-math.inf, 1.0), (-1.0, math.inf), (1.0, math.inf), (-1e308, 1e308), (700.0, 800.0))


@pytest.mark.parametrize("ends", HUGE)
@pytest.mark.parametrize("op", [op for op in UNARY if not isinstance(op, Sin | Cos | Softmax)], ids=str)
def test_huge_and_infinite_intervals(op: Operator, ends: tuple[float, float]) -> None:
    """A line, or a constant that may be infinite, but never NaN; no row of zeros becomes one."""
    operand = Interval(*(torch.full((1, 1), end, dtype=torch.float64) for end in ends))
    found = relaxed(op, operand)
    finite = Interval(operand.lower.clamp(min=-50), operand.upper.clamp(max=750))
    points = spread(finite, 50)
    values = op.evaluate(points)
    for sign in (1.0, -1.0, 0.0):
        (*passed,), constant = found.through(torch.full_like(values[:1], sign), lambda tensor: tensor)
        line = constant.expand(50) + sum((a * points).sum(1) for a in passed)
        seen = sign * values.sum(1) if sign else torch.zeros(50).double()
        assert not bool(line.isnan().any())
        assert bool(((line <= seen + 1e-9 * (1 + seen.abs())) | (line == -math.inf)).all())


def test_exponential_by_hand() -> None:
    # On [0, 1]: the chord 1 + (e - 1) x; the tangent at 1/2.
    lines = relaxed(Exp(), interval(0.5, 0.5))
    assert isinstance(lines, Relaxation)
    root = math.exp(0.5)
    found = [float(part) for part in (lines.lower_slope, lines.lower_intercept)]
    assert found == pytest.approx([root, root / 2])
    assert [float(lines.upper_slope), float(lines.upper_intercept)] == pytest.approx([math.e - 1, 1.0])


def test_cube_by_hand() -> None:
    # On [-1, 2]: the chord from (-1, -1) to (2, 8), 3 x + 2, would cut the curve below; the tangent at d that passes
    # through (-1, -1) touches where 2 d^3 + 3 d^2 - 1 = 0, d = 1/2: 3/4 x - 1/4. Above, the chord 3 x + 2 stands, since
    # the tangent through (2, 8) touches at d = -1, the end.
    lines = relaxed(Pow(3.0), interval(0.5, 1.5))
    assert isinstance(lines, Relaxation)
    assert [float(lines.lower_slope), float(lines.lower_intercept)] == pytest.approx([0.75, -0.25])
    assert [float(lines.upper_slope), float(lines.upper_intercept)] == pytest.approx([3.0, 2.0])


@pytest.mark.parametrize(("low", "high", "touches"), [(-1.0, 9.0, 4.0), (-9.0, 1.0, -4.0), (2.0, 4.0, 3.0)])
def test_sigmoid_is_touched_in_the_middle_where_that_is_possible(low: float, high: float, touches: float) -> None:
    ends = (torch.tensor([[end]], dtype=torch.float64) for end in (low, high))
    lines = relaxed(Sigmoid(), Interval(*ends))
    assert isinstance(lines, Relaxation)
    value = 1 / (1 + math.exp(-touches))
    slope, intercept = value * (1 - value), value - value * (1 - value) * touches
    below = touches < 0
    found = (lines.lower_slope, lines.lower_intercept) if below else (lines.upper_slope, lines.upper_intercept)
    assert [side.item() for side in found] == pytest.approx([slope, intercept], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tangent_stands_however_its_point_is_rounded(dtype: torch.dtype) -> None:
    """Vectorised functions round an element now up and now down, so that the tangent through (l, f(l)) may be found
    below f(l) when it is asked again: a chord instead would cut the curve."""
    generator = torch.Generator().manual_seed(0)

    def restless(x: Tensor) -> Tensor:
        return x.sigmoid().nextafter(torch.randint(2, x.shape, generator=generator).to(x))

    lower, upper = torch.linspace(-6, -0.5, 200, dtype=dtype), torch.full((200,), 3.0, dtype=dtype)
    lines = s_shaped(dataclasses.replace(SIGMOID, function=restless), Interval(lower, upper))
    for share in torch.linspace(0, 1, 40).tolist():
        x = (lower + (upper - lower) * share).double()
        assert float((x.sigmoid() - lines.upper_slope * x - lines.upper_intercept).max()) < 1e-6
        assert float((lines.lower_slope * x + lines.lower_intercept - x.sigmoid()).max()) < 1e-6


def test_mccormick_by_hand() -> None:
    # x in [0, 1], y in [2, 4]. Below: 2 x + 0 y - 0 varies by 2, 4 x + y - 4 by 6: the first. Above: 4 x + 0 y - 0
    # varies by 4, 2 x + y - 2 by 4: the first of two equals.
    planes = relaxed(Mul(), interval(0.5, 0.5), interval(3, 1))
    assert isinstance(planes, Between)
    low, high = planes.lower, planes.upper
    assert (float(low.first), float(low.second), float(low.constant)) == (2, 0, 0)
    assert (float(high.first), float(high.second), float(high.constant)) == (4, 0, 0)


def test_maximum_by_hand() -> None:
    # x in [-1, 3], y in [0, 1]: x - y in [-2, 3], slope 3/5 and constant 6/5 above, slope 1 below.
    planes = relaxed(Maximum(), interval(1, 2), interval(0.5, 0.5))
    assert isinstance(planes, Between)
    low, high = planes.lower, planes.upper
    assert (float(low.first), float(low.second), float(low.constant)) == (1, 0, 0)
    assert (float(high.first), float(high.second), float(high.constant)) == pytest.approx((0.6, 0.4, 1.2))


def test_max_pool_by_hand() -> None:
    # Windows (x0, x1) and (x2, x3); the second one is decided.
    operand = Interval(torch.tensor([[[0.0, 1.0, 5.0, 1.0]]]), torch.tensor([[[3.0, 2.0, 6.0, 4.0]]]))
    found = relaxed(MaxPool((2,), (2,), ((0, 0),), (1,)), operand)
    passed, constant = found.through(torch.tensor([[[1.0, 1.0]]]), lambda tensor: tensor)
    assert passed[0].tolist() == [[[0.0, 1.0, 1.0, 0.0]]] and constant.tolist() == [0.0]
    passed, constant = found.through(torch.tensor([[[-1.0, -1.0]]]), lambda tensor: tensor)
    assert passed[0].tolist() == [[[0.0, 0.0, -1.0, 0.0]]] and constant.tolist() == [-3.0]


def product_graph() -> Graph:
    """`x (1 - x)` for x in [0, 1]: at most 1/4."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    square = builder.add(Mul(), x, x)
    return builder.graph([builder.add(Sub(), x, square, name="y")])


def test_products_see_where_values_come_from() -> None:
    # Intervals say x - x^2 in [-1, 1]; the chord and the tangent of the square say [0, 1/4].
    bounds = run(product_graph(), "crown", Box(torch.zeros(1, 1).double(), torch.ones(1, 1).double())).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (0.0, 0.25)


@pytest.mark.parametrize("analysis", ["crown", "alpha{steps=4}"])
@settings(max_examples=30)
@given(data=st.data())
def test_sampled_values_lie_inside_whatever_the_graph(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    check(graph, data.draw(boxes(graph)), analysis)


@pytest.mark.parametrize("op", [Step(), Trunc(), Softmax(0)], ids=str)
def test_the_rest_lies_between_constants(op: Operator) -> None:
    operand, rule = interval(0.2, 1.5, 3), INTERVAL.find(type(op))
    assert rule is not None
    builder = GraphBuilder()
    node = builder.node(builder.add(op, builder.input(TensorType((3,), torch.float64))))
    ends = rule(node, operand)
    for sign, end in ((1.0, ends.lower), (-1.0, -ends.upper)):
        passed, constant = relaxed(op, operand).through(torch.full((1, 3), sign).double(), lambda tensor: tensor)
        assert passed == () and float(constant) == pytest.approx(float(end.sum()))
