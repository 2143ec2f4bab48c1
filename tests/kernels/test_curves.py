"""Compiled lines around sigmoid and tanh against the functions themselves, and against PyTorch's way to them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.graph import GraphBuilder, Node
from irverify.ir.ops import Sigmoid, Tanh
from irverify.ir.types import TensorType
from irverify.kernels import available, native
from irverify.kernels.curves import CurveName, curve_lines, curve_tangents
from irverify.passes import curves
from irverify.passes.curves import SIGMOID, TANH, Curve, s_shaped
from irverify.passes.freedom import FREEDOM, Tangents
from irverify.passes.lines import Relaxation, Unbounded
from irverify.passes.propagate import Interval

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
CURVES: dict[CurveName, tuple[Curve, type[Sigmoid | Tanh]]] = {"sigmoid": (SIGMOID, Sigmoid), "tanh": (TANH, Tanh)}
NAMES = pytest.mark.parametrize("name", CURVES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
SLACK = {torch.float32: 1e-10, torch.float64: 4e-15}
"""What a line may lack: the rounding of double precision, and in single that a rounded slope touches elsewhere."""
HARD = [
    (0.0, 0.0), (-0.0, 0.0), (1.0, 1.0), (-3.0, -3.0), (0.0, 5e-324), (-5e-324, 5e-324), (-1e-40, 1e-40), (-1e-9, 1e-9),
    (-1e-9, 1.0), (-1e-9, 1e-12), (-1e-3, 0.4e-3), (-1e-3, 0.6e-3), (-2.0**-10, 1.0), (-0.1, 0.05), (-0.1, 0.0499),
    (-1.0, 0.5), (-1.0, 0.45), (-1.0, 1.0), (-5.0, 1.0), (-5.0, 5.0), (-30.0, 3.0), (-30.0, 90.0), (-90.0, 30.0),
    (-800.0, 800.0), (20.0, 90.0), (-90.0, -20.0), (100.0, 800.0), (-1e4, 1e4), (-1e30, 1e30), (-1e30, 1.0),
    (-1.0, 1e30), (2.0, 2.0 - 1e-7), (-2.0 + 1e-7, -2.0), (1e-20, -1e-20),
]  # fmt: skip
Numbers = npt.NDArray[np.longdouble]


def exact(x: Tensor) -> Numbers:
    return x.double().numpy().astype(np.longdouble)


def value(name: CurveName, x: Numbers) -> Numbers:
    e = np.exp(-np.abs(x))
    found: Numbers = np.tanh(x) if name == "tanh" else np.where(x < 0, e, np.longdouble(1)) / (1 + e)
    return found


def inside(lower: Tensor, upper: Tensor) -> list[Numbers]:
    """Points of the intervals, more of them about the ends and about 0."""
    shares = np.linspace(0, 1, 61).astype(np.longdouble)
    low, high = exact(lower), exact(upper)
    points = [low + (high - low) * share for share in (*shares, *shares**8, *(1 - shares**8))]
    return [*points, *(np.clip(near, low, high) for near in np.linspace(-6, 6, 49).astype(np.longdouble))]


def wrong(name: CurveName, lines: tuple[Tensor, ...], points: list[Numbers]) -> float:
    """How far lines are on the wrong side at most."""
    slope, base, steep, top = map(exact, lines)
    values = [(x, value(name, x)) for x in points]
    return max(float(np.maximum(slope * x + base - y, y - steep * x - top).max()) for x, y in values)


def between(lines: tuple[Tensor, ...], lower: Tensor, upper: Tensor) -> Numbers:
    """How far lines are apart on average."""
    slope, base, steep, top = map(exact, lines)
    return (steep - slope) * (exact(lower) + exact(upper)) / 2 + top - base


def by_pytorch(name: CurveName, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
    found = s_shaped(CURVES[name][0], Interval(lower, upper))
    return found.lower_slope, found.lower_intercept, found.upper_slope, found.upper_intercept


def hard(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    lower, upper = torch.tensor(HARD, dtype=torch.float64).to(dtype).unbind(1)
    return lower.contiguous(), upper.contiguous()


def drawn(seed: int, scale: float, dtype: torch.dtype, size: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(size, generator=generator, dtype=torch.float64) * scale
    width = torch.rand(size, generator=generator, dtype=torch.float64) ** 3 * 4 * scale
    return lower.to(dtype), (lower + width).to(dtype)


def check_lines(name: CurveName, lower: Tensor, upper: Tensor) -> None:
    """On the right side, and with no more area between them than those of PyTorch in double precision."""
    found = curve_lines(name, lower, upper)
    assert found is not None
    assert wrong(name, found, inside(lower, upper)) <= SLACK[lower.dtype]
    mine, theirs = (between(lines, lower, upper) for lines in (found, by_pytorch(name, lower.double(), upper.double())))
    assert (mine <= 1.001 * theirs + 8 * torch.finfo(lower.dtype).eps).all()


def check_tangents(name: CurveName, lower: Tensor, upper: Tensor) -> None:
    """Whatever may be chosen is on the right side, and hardly less than by PyTorch."""
    found = curve_tangents(name, lower, upper, by_pytorch(name, lower, upper))
    assert found is not None
    points = inside(lower, upper)
    for sign, (least, most, start, weight, _) in zip((-1, 1), found, strict=True):
        free = weight == 1
        assert ((least <= start) & (start <= most))[lower <= upper].all()
        assert not (least[~free] + most[~free] + start[~free]).any()
        for share in np.linspace(0, 1, 9).astype(np.longdouble):
            touched = exact(least) * (1 - share) + exact(most) * share
            y = value(name, touched)
            steep = y * (1 - y) if name == "sigmoid" else 1 - y * y
            ahead = min(float((sign * (y + steep * (x - touched) - value(name, x)))[free].min()) for x in points)
            assert ahead >= -SLACK[lower.dtype]


@NAMES
@DTYPES
def test_hard_cases(name: CurveName, dtype: torch.dtype) -> None:
    """Points, widths that underflow, saturated ends, crossed ends, tangent points at an end or all but."""
    lower, upper = hard(dtype)
    check_lines(name, lower, upper)
    check_tangents(name, lower, upper)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(CURVES)), st.sampled_from((torch.float32, torch.float64)), st.integers(0, 2**16),
    st.sampled_from((1e-6, 1e-3, 0.03, 0.3, 1.0, 4.0, 30.0, 1e3)),
)  # fmt: skip
def test_random_intervals(name: CurveName, dtype: torch.dtype, seed: int, scale: float) -> None:
    lower, upper = drawn(seed, scale, dtype)
    check_lines(name, lower, upper)
    check_tangents(name, lower, upper)


def test_by_hand() -> None:
    """tanh on [1, 2] is touched at 1.5 above; below is the chord. On [-1, -1] it is a tangent below, constant above."""
    found = curve_lines("tanh", torch.tensor([1.0, -1.0]).double(), torch.tensor([2.0, -1.0]).double())
    assert found is not None
    slope, base, steep, top = found
    chord, tangent = math.tanh(2) - math.tanh(1), 1 - math.tanh(1.5) ** 2
    assert slope.tolist() == pytest.approx([chord, 1 - math.tanh(1) ** 2])
    assert base.tolist() == pytest.approx([math.tanh(1) - chord, -math.tanh(1) + slope[1].item()])
    assert steep.tolist() == pytest.approx([tangent, 0])
    assert top.tolist() == pytest.approx([math.tanh(1.5) - 1.5 * tangent, -math.tanh(1)])


@NAMES
@DTYPES
def test_saturated_lines_are_constants(name: CurveName, dtype: torch.dtype) -> None:
    """There, and nowhere else: not on narrow intervals, nor on points."""
    edge = -math.log(torch.finfo(dtype).eps / 2) / (2 if name == "tanh" else 1) + 1
    lower, upper = torch.tensor(
        [[edge, edge + 3], [-edge - 3, -edge], [edge, 1e4], [edge, edge], [-1.0, -1.0], [1.0, 1 + 1e-9], [-3.0, edge]],
        dtype=dtype,
    ).unbind(1)
    found = curve_lines(name, lower.contiguous(), upper.contiguous())
    assert found is not None
    slope, base, steep, top = found
    assert ((slope == 0) & (steep == 0)).tolist() == [True] * 4 + [False] * 3
    ends = [torch.from_numpy(value(name, exact(side)).astype(np.float64)).to(dtype) for side in (lower, upper)]
    torch.testing.assert_close((base[:4], top[:4]), (ends[0][:4], ends[1][:4]), rtol=1e-6, atol=0)


@NAMES
@DTYPES
def test_tangents_as_by_pytorch(name: CurveName, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = drawn(0, 2.0, dtype, 2000)
    node, relaxed = node_of(name), Relaxation(*by_pytorch(name, lower, upper))
    rule = FREEDOM.find(type(node.op))
    assert rule is not None
    found = rule(node, Interval(lower, upper), relaxed)
    monkeypatch.setattr(native, "native", None)
    expected = rule(node, Interval(lower, upper), relaxed)
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, Tangents)
        assert isinstance(theirs, Tangents)
        same = mine.weight == theirs.weight
        assert int((~same).sum()) <= 3
        for one, other in ((mine.least, theirs.least), (mine.most, theirs.most), (mine.start, theirs.start)):
            torch.testing.assert_close(one[same], other[same], rtol=0, atol=0.1 if dtype == torch.float32 else 1e-4)
        for one, other in zip(mine.fixed, theirs.fixed, strict=True):
            torch.testing.assert_close(one[same], other[same], rtol=0, atol=0)


def node_of(name: CurveName) -> Node:
    builder = GraphBuilder()
    graph = builder.graph([builder.add(CURVES[name][1](), builder.input(TensorType((1,), torch.float64)))])
    return graph.nodes[-1]


@NAMES
@DTYPES
@pytest.mark.parametrize("ends", [(-math.inf, 1.0), (0.0, math.inf), (math.nan, 1.0), (0.0, math.nan), (-3e38, 3e38)])
def test_what_is_not_finite_is_left_to_pytorch(
    name: CurveName, dtype: torch.dtype, ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constants at the ends stand there."""
    lower, upper = torch.tensor([[-1.0, ends[0]], [2.0, ends[1]]], dtype=dtype)
    overflows = not math.isfinite(float(upper[1] - lower[1]))
    assert (curve_lines(name, lower, upper) is None) == overflows
    assert (curve_tangents(name, lower, upper, (lower,) * 4) is None) == overflows
    rule = {"sigmoid": curves.sigmoid, "tanh": curves.tanh}[name]
    found = rule(node_of(name), [Interval(lower, upper)], "adaptive")
    assert isinstance(found, Unbounded) == overflows
    if overflows:
        monkeypatch.setattr(native, "native", None)
        expected = rule(node_of(name), [Interval(lower, upper)], "adaptive")
        assert isinstance(expected, Unbounded)
        for part in ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept"):
            torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=0, atol=0, equal_nan=True)


def test_left_to_pytorch() -> None:
    """Other types, orders in memory, sizes and tensors that are none; and no elements."""
    lower, upper = drawn(0, 1.0, torch.float32, 12)
    lines = curve_lines("tanh", lower, upper)
    assert lines is not None
    assert curve_lines("tanh", lower.half(), upper.half()) is None
    assert curve_lines("tanh", lower, upper.double()) is None
    assert curve_lines("tanh", lower, upper[:6]) is None
    assert curve_lines("tanh", lower[::2], upper[::2]) is None
    assert curve_lines("tanh", lower.reshape(3, 4), upper.reshape(4, 3).T) is None
    assert curve_lines("tanh", lower.to("meta"), upper.to("meta")) is None
    assert curve_tangents("tanh", lower, upper, lines[:3]) is None
    assert curve_tangents("tanh", lower, upper, (*lines[:3], lines[3][:6])) is None
    none = curve_lines("tanh", lower[:0], upper[:0])
    assert none is not None
    assert none[0].shape == (0,)


def test_planes_with_the_channels_last() -> None:
    lower, upper = (side.reshape(2, 3, 4, 5) for side in drawn(0, 1.0, torch.float64, 120))
    expected = curve_lines("sigmoid", lower, upper)
    last = [side.contiguous(memory_format=torch.channels_last) for side in (lower, upper)]
    found = curve_lines("sigmoid", last[0], last[1])
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert curve_tangents("sigmoid", last[0], last[1], found) is None


def test_gradients_and_transforms_go_by_pytorch() -> None:
    node = node_of("tanh")
    lower, upper = drawn(0, 1.0, torch.float64, 5)
    lower.requires_grad_()
    assert curves.tanh(node, [Interval(lower, upper)], "adaptive").upper_slope.requires_grad
    with torch.no_grad():
        assert not curves.tanh(node, [Interval(lower, upper)], "adaptive").upper_slope.requires_grad
    expected = by_pytorch("tanh", *drawn(1, 1.0, torch.float64, 6))

    def steep(lower: Tensor, upper: Tensor) -> Tensor:
        assert curve_lines("tanh", lower, upper) is None
        return curves.tanh_slope(lower + upper)

    assert torch.func.vmap(steep)(*expected[:2]).shape == (6,)
