"""Sweeps of one example against dense rows, and what they leave out on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d

import irverify as iv
from irverify.errors import UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Abs, Add, Clip, Conv, Gather, LeakyRelu, Linear, Relu, Reshape, Sigmoid
from irverify.ir.types import TensorType
from irverify.passes import crown, sweep
from irverify.passes.backward import Context, identity_rows, lower_bounds
from irverify.passes.crown import Crown
from irverify.passes.ibp import IBP
from irverify.passes.needs import Needs, exact_ranges
from irverify.passes.propagate import Interval, interval_facts
from irverify.passes.sweep import Sweep
from irverify.passes.view import Looks, View
from irverify.pipeline import run
from irverify.pipeline.state import State
from irverify.regions import L2, Box, Region
from tests.random_graphs import AFFINE, Kind, boxes, conv, elementwise, graphs, max_pool

DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def looks() -> Iterator[None]:
    """Networks here are little; rows over them are looked at all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LITTLE", 0)
        yield


KINDS: tuple[Kind, ...] = (
    *AFFINE,
    *(conv,) * 6,
    *(elementwise(Relu()),) * 5,
    *(elementwise(op) for op in (LeakyRelu(0.1), Clip(-0.5, 1.0), Abs(), Sigmoid())),
    max_pool,
)


def context_of(graph: Graph, regions: tuple[Region, ...]) -> tuple[Context, dict[str, Interval]]:
    """Lines from intervals alone, and the intervals."""
    context = Context(graph, {node.name: region for node, region in zip(graph.inputs, regions, strict=True)})
    walk = crown._Walk(context, Crown(), alone=False)
    walk.needs = Needs(Graph(graph.nodes, (), graph.name), intermediate=False)
    found = interval_facts(State(graph, regions), IBP, "test", walk.refine).bounds
    intervals = {name: Interval(bounds.lower, bounds.upper) for name, bounds in found.items()}
    for node, region in zip(graph.inputs, regions, strict=True):
        intervals[node.name] = Interval(*region.box())
    return context, intervals


def nothing(size: int) -> Interval:
    return Interval(torch.full((size,), -torch.inf, dtype=DOUBLE), torch.full((size,), torch.inf, dtype=DOUBLE))


@given(data=st.data())
def test_the_bounds_are_those_of_dense_rows(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS, shapes=((6,), (2, 6, 5), (1, 9, 8), (2, 4, 3))))
    regions = data.draw(boxes(graph))
    context, intervals = context_of(graph, regions)
    for name in graph.outputs:
        if name in context.known or name not in context.relaxed:
            continue
        elements = torch.arange(graph[name].type.size)
        bounds, halves = nothing(elements.shape[0]), nothing(elements.shape[0])
        Sweep(View(context, 1, intervals), name, elements, bounds).run(None, frozenset())
        sides = torch.where(elements % 2 == 0, 1.0, -1.0).double()
        for side in (sides, -sides):
            Sweep(View(context, 1, intervals), name, elements, halves, side).run(None, frozenset())
        rows = identity_rows(intervals[name].lower, torch.ones_like(elements), elements)
        low, high = lower_bounds(context, name, rows).chunk(2)
        for found in (bounds, halves):
            torch.testing.assert_close(found.lower, low, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.upper, -high, rtol=1e-9, atol=1e-9)


@given(data=st.data(), few=st.sampled_from([1, 4, 1000]), limit=st.sampled_from([None, 64, 4096]))
def test_examples_stay_apart(data: st.DataObject, few: int, limit: int | None) -> None:
    """Elements of several examples in one sweep have the bounds that each has alone, whatever stays together."""
    graph = data.draw(graphs(kinds=KINDS, shapes=((6,), (2, 6, 5), (1, 9, 8), (2, 4, 3))))
    regions = data.draw(boxes(graph))
    context, intervals = context_of(graph, regions)
    for name in graph.outputs:
        if name in context.known or name not in context.relaxed:
            continue
        batch, size = intervals[name].lower.shape[0], graph[name].type.size
        chosen = torch.tensor(data.draw(st.lists(st.integers(0, batch * size - 1), min_size=1, unique=True)))
        owner, elements = chosen.sort().values // size, chosen.sort().values % size
        alone = [nothing(size) for _ in range(batch)]
        for example in set(owner.tolist()):
            mine = elements[owner == example]
            Sweep(View(context, example, intervals), name, mine, alone[example]).run(None, frozenset())
        together = Interval(*(torch.stack([side] * batch) for side in nothing(size)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "FEW", few)
            patch.setattr(sweep, "NARROW", 0)
            view = View(context, None, intervals)
            Sweep(view, name, elements, together, None, owner, limit).run(None, frozenset())
        for example in range(batch):
            for found, expected in zip(together, alone[example], strict=True):
                torch.testing.assert_close(found[example], expected, rtol=1e-9, atol=1e-9)


def residual(channels: int = 4) -> Graph:
    """Two strided convolutions, a residual block with a strided shortcut, two dense layers."""
    generator = torch.Generator().manual_seed(0)

    def convolution(name: str, to: int, kernel: int, stride: int, pad: int) -> str:
        shape = (to, builder.type(name).shape[0], kernel, kernel)
        values = torch.randn(shape, generator=generator, dtype=DOUBLE) * 1.5 / (shape[1] * kernel**2) ** 0.5
        bias = torch.randn(to, generator=generator, dtype=DOUBLE) * 0.2
        return builder.add(Conv(values, bias, (stride, stride), ((pad, pad),) * 2, (1, 1), 1), name)

    builder = GraphBuilder()
    x = builder.input(TensorType((2, 12, 12), DOUBLE))
    first = builder.add(Relu(), convolution(x, channels, 3, 1, 1))
    inner = builder.add(Relu(), convolution(first, channels, 3, 2, 1))
    block = builder.add(Add(), convolution(inner, channels, 3, 1, 1), convolution(first, channels, 1, 2, 0))
    wide = builder.add(Relu(), convolution(builder.add(Relu(), block), channels, 3, 1, 1))
    flat = builder.add(Reshape((builder.type(wide).size,)), wide)
    hidden = Linear(torch.randn(20, builder.type(flat).size, generator=generator, dtype=DOUBLE) * 0.2)
    last = builder.add(Relu(), builder.add(hidden, flat))
    y = builder.add(Linear(torch.randn(5, 20, generator=generator, dtype=DOUBLE)), last, name="y")
    return builder.graph([y])


@pytest.mark.parametrize("analysis", ["crown", "crown-zero", "fast-lin"])
@pytest.mark.parametrize("ball", [False, True])
def test_examples_together_and_one_by_one(analysis: str, ball: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps, in one go or in pieces, find what dense rows of the whole batch find."""
    graph = residual()
    center = torch.rand(2, 2, 12, 12, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    region: Region = L2(center, 0.2) if ball else Box(center - 0.02, center + 0.02)
    swept = run(graph, analysis, region).bounds["y"]
    monkeypatch.setattr(crown, "CHUNK", 2**17)
    monkeypatch.setattr(crown, "MANY", 8)
    pieces = run(graph, analysis, region).bounds["y"]
    monkeypatch.setattr(sweep, "FEW", 10**6)
    dense = run(graph, analysis, region).bounds["y"]
    width = (dense.upper - dense.lower).max()
    for found in (swept, pieces):
        # Stable elements may keep looser bounds, which reach others through intervals: not by much.
        assert bool(((found.lower - dense.lower).abs() < 0.01 * width).all())
        assert bool(((found.upper - dense.upper).abs() < 0.01 * width).all())
    x = Box(center - 0.02, center + 0.02) if not ball else region
    y = graph.evaluate(*x.sample(40, torch.Generator().manual_seed(2))[:, 0][None])
    assert isinstance(y, Tensor)
    assert bool(((swept.lower[0] <= y) & (y <= swept.upper[0])).all())


def test_memory() -> None:
    """Little memory takes more parts, not other bounds."""
    graph = residual()
    center = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    region = Box(center - 0.02, center + 0.02)
    usual, little = (run(graph, method, region).bounds["y"] for method in ("crown", "crown{memory=1}"))
    torch.testing.assert_close(little.lower, usual.lower, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="at least 1 megabyte"):
        run(graph, "crown{memory=0}", region)


def test_rows_stop_where_they_are_decided() -> None:
    """On the way to the inputs bounds of the first layer decide y > 0; the second layer alone does not."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), DOUBLE))
    a = builder.add(Relu(), builder.add(Linear(torch.eye(2).double(), torch.tensor([2.0, 2.0]).double()), x))
    b = builder.add(Relu(), builder.add(Linear(torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double()), a))
    t = builder.add(Linear(torch.tensor([[1.0, -1.0]]).double(), torch.tensor([1.0]).double()), b, name="t")
    graph = builder.graph([builder.add(Linear(torch.tensor([[1.0]]).double()), builder.add(Relu(), t), name="y")])
    found = run(graph, "crown", Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double()))
    assert found.bounds["t"].lower.item() == pytest.approx(1.0)  # the interval of t says -3


@pytest.mark.parametrize("kernel", [None, 1, 3])
def test_rows_that_a_gather_moves_on_one_way(kernel: int | None) -> None:
    """`flip(z) + z` for z = x or a convolution of x: the rows of one element start from two places of one plane."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 5, 5), DOUBLE))
    ways = [x, x]
    weight = torch.arange(1.0, 10.0).double().reshape(1, 1, 3, 3)[..., : kernel or 1, : kernel or 1]
    half = (kernel or 1) // 2
    if kernel is not None:
        ways = [builder.add(Conv(weight, None, (1, 1), ((half, half),) * 2), x) for _ in ways]
    flipped = builder.add(Gather(torch.arange(4, -1, -1), 2), ways[0])
    graph = builder.graph([builder.add(Add(), flipped, ways[1], name="y")])
    center = torch.arange(25.0).double().reshape(1, 1, 5, 5)
    found = run(graph, "crown", Box(center - 1, center + 1)).bounds["y"]
    y = graph.evaluate(center)
    assert isinstance(y, Tensor)
    change = conv2d(torch.eye(25).double().reshape(25, 1, 5, 5), weight, padding=half)
    radius = (change.flip(3) + change).abs().sum(0)
    torch.testing.assert_close(found.lower, y - radius)
    torch.testing.assert_close(found.upper, y + radius)


def test_what_readers_need() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((3,), DOUBLE))
    first = builder.add(Linear(torch.eye(3).double()), x, name="first")
    second = builder.add(Linear(torch.eye(3).double()), builder.add(Relu(), first, name="r"), name="second")
    graph = builder.graph([builder.add(Sigmoid(), second, name="s")])
    needs = Needs(graph, intermediate=True)
    assert needs.stations == {"first", "second"}  # of s nothing is known beyond the sigmoid of the bounds of second
    need = needs.of("first")
    assert need is not None and needs.of("r") is None and needs.of("s") is None
    lower, upper = torch.tensor([[-1.0, 1.0, -2.0]]), torch.tensor([[1.0, 2.0, -1.0]])
    assert need(lower, upper).tolist() == [[True, False, False]]
    assert needs.pieces("first") and not needs.pieces("second")
    assert exact_ranges(graph) == {"x", "first", "r"}


def test_sums_of_dependent_values_are_not_exact() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((3,), DOUBLE))
    mixed = builder.add(Linear(torch.eye(3).double()), x, name="mixed")
    total = builder.add(Add(), x, x, name="total")
    after = builder.add(Linear(torch.eye(3).double()), builder.add(Relu(), mixed, name="r"), name="after")
    graph = builder.graph([total, after, builder.add(Linear(torch.ones(1, 3).double()), after, name="last")])
    assert exact_ranges(graph) >= {"x", "mixed", "r"}
    assert not exact_ranges(graph) & {"total", "last"}


def test_looks_that_decide_little_do_not_pay() -> None:
    looks = Looks()
    assert looks.pay(24, 0.06)  # nothing is known yet
    looks.note(30, 1)
    assert not looks.pay(24, 0.06)
    assert looks.pay(48, 0.06)
    looks.note(10, 4)
    assert looks.pay(24, 0.06)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_derivatives_of_sums_by_function_transforms(dtype: torch.dtype) -> None:
    """Of a convolution with a shortcut, where weights have gradients of their own."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 2, 3, 3, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    last = Linear(torch.randn(5, 32, generator=generator, dtype=dtype).requires_grad_())
    builder = GraphBuilder()
    steps = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    hidden = builder.add(Relu(), builder.add(Conv(first, None, *steps), builder.input(TensorType((2, 4, 4), dtype))))
    total = builder.add(Add(), builder.add(Conv(second, None, *steps), hidden), hidden)
    graph = builder.graph([builder.add(Relu(), builder.add(last, builder.add(Reshape((32,)), total)))])
    x = torch.randn(2, 2, 4, 4, generator=generator, dtype=dtype)

    def bound(x: Tensor) -> Tensor:
        return run(graph, "crown", Box(x - 0.3, x + 0.3)).bounds[graph.outputs[0]].lower.sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(bound(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(bound)(x), expected)


def test_an_activation_that_passes_nothing_on() -> None:
    """Rows of a layer behind it have no coefficients at all."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).requires_grad_(False)
    module.get_parameter("0.bias").fill_(-99.0)
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.eye(3)[None].repeat(1, 4, 1)
    state = iv.run(iv.compile(module, x), "crown", iv.Box(x, x + 0.1), spec=(rows, torch.zeros(1, 12)))
    found = state.bounds[state.graph.outputs[0]].lower
    torch.testing.assert_close(found, module(x).repeat(1, 4))
