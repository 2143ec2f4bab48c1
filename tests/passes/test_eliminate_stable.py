"""eliminate-stable: the same on the region, less elsewhere; by hand, on random graphs, and in the exact backend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.backends.milp import formulate
from irverify.errors import GraphError, UsageError
from irverify.ir.check import check, deviation
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Clip, Conv, LeakyRelu, Linear, MaxPool, Relu, Reshape
from irverify.ir.params import value
from irverify.ir.text import parse_graph
from irverify.ir.types import TensorType
from irverify.passes.eliminate_stable import EliminateStable
from irverify.passes.winners import winners
from irverify.pipeline import Bounds, Rewrite, State, optimize, run
from irverify.properties import linear as at_least_zero
from irverify.properties import robust
from irverify.regions import Box, Linf
from tests.random_graphs import (
    AFFINE,
    EVERYTHING,
    PIECEWISE,
    Kind,
    boxes,
    conv,
    elementwise,
    graphs,
    linear,
    max_pool,
    points,
    reshape,
)

NAME = "eliminate-stable"
KINDS: tuple[tuple[Kind, ...], ...] = (
    EVERYTHING, AFFINE + PIECEWISE * 3, (conv, linear, reshape, *PIECEWISE[:4]), (conv, max_pool, elementwise(Relu())),
)  # fmt: skip


def dense(*layers: tuple[list[list[float]], list[float]], act: object = None) -> Graph:
    builder = GraphBuilder("dense")
    name = builder.input(TensorType((len(layers[0][0][0]),), torch.float64))
    for place, (weight, bias) in enumerate(layers):
        matrix, vector = torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
        name = builder.add(Linear(matrix, vector), name)
        if place + 1 < len(layers):
            name = builder.add(act or Relu(), name)  # type: ignore[arg-type]
    return builder.graph([name])


def box(lower: list[float], upper: list[float]) -> Box:
    return Box(torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64))


def activations(graph: Graph) -> list[int]:
    return [node.type.size for node in graph if isinstance(node.op, Relu | LeakyRelu | Clip)]


def test_by_hand() -> None:
    """Over [0, 1]: neuron 0 is active (x + 1), 1 inactive (x - 3), 2 unstable (x - 0.5)."""
    graph = dense(([[1.0], [1.0], [1.0]], [1.0, -3.0, -0.5]), ([[2.0, 5.0, 7.0]], [1.0]))
    after = run(graph, NAME, box([0.0], [1.0]), check=True).graph
    layers = {node.name: node.op for node in after if isinstance(node.op, Linear)}
    assert activations(after) == [1]
    weights = sorted((value(op.weight).item(), value(op.bias).item()) for op in layers.values() if op.bias is not None)
    # 7 relu(x - 0.5) and 2 (x + 1) + 1; the bias of the last layer is in one of the two.
    assert weights == [(1.0, -0.5), (2.0, 2.0), (7.0, 1.0)]


def test_unstable_elements_keep_their_bounds() -> None:
    graph = dense(([[1.0], [1.0], [1.0]], [1.0, -3.0, -0.5]), ([[2.0, 5.0, 7.0]], [1.0]))
    given = {graph.nodes[1].name: (torch.tensor([1.0, -3.0, -0.25]), torch.tensor([2.0, -2.0, 0.125]))}
    bounds = run(graph, f"ibp,{NAME}", box([0.0], [1.0]), bounds=given).bounds
    kept = [bounds[f"{graph.nodes[2].name}.{role}"] for role in ("unstable", "open")]
    assert [(float(found.lower), float(found.upper)) for found in kept] == [(-0.25, 0.125), (0.0, 0.125)]


def test_all_of_a_layer_leaves_one_linear_map() -> None:
    graph = dense(([[1.0], [1.0]], [1.0, -3.0]), ([[2.0, 5.0]], [1.0]))
    after = run(graph, NAME, box([0.0], [1.0]), check=True).graph
    assert [node.op.name for node in after] == ["input", "linear"]
    layer = after[after.outputs[0]].op
    assert isinstance(layer, Linear) and value(layer.weight).tolist() == [[2.0]]
    assert layer.bias is not None and value(layer.bias).tolist() == [3.0]


@pytest.mark.parametrize(("act", "expected"), [(LeakyRelu(0.1), [3.2, -0.2]), (Clip(-1.0, 1.5), [-1.0, 1.5])])
def test_pieces_with_slopes_and_constants(act: object, expected: list[float]) -> None:
    graph = dense(([[1.0], [1.0]], [-2.0, 2.0]), ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), act=act)
    if isinstance(act, LeakyRelu):
        expected = [0.1 * (0.5 - 2.0), 2.5]
    region = box([-0.5], [0.5]) if isinstance(act, LeakyRelu) else box([0.0], [0.5])
    after = run(graph, NAME, region, check=True).graph
    assert activations(after) == []
    assert torch.allclose(after.evaluate(torch.tensor([[0.5]], dtype=torch.float64)), torch.tensor(  # type: ignore[arg-type]
        [expected], dtype=torch.float64))  # fmt: skip


def test_an_element_is_stable_only_if_it_is_so_in_every_example() -> None:
    graph = dense(([[1.0], [1.0]], [0.0, 5.0]), ([[1.0, 1.0]], [0.0]))
    region = Box(torch.tensor([[-1.0], [0.5]]).double(), torch.tensor([[-0.5], [1.0]]).double())
    after = run(graph, NAME, region, check=True).graph
    assert activations(after) == [1]


def test_dead_channels_leave_the_convolution() -> None:
    builder = GraphBuilder("conv")
    name = builder.input(TensorType((1, 3, 3), torch.float64))
    weight = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    name = builder.add(Conv(weight, torch.tensor([0.0, -9.0, -2.0], dtype=torch.float64)), name)
    name = builder.add(Relu(), name)
    name = builder.add(Conv(torch.ones(2, 3, 1, 1, dtype=torch.float64)), name)
    name = builder.add(Reshape((8,)), builder.add(Relu(), name))
    graph = builder.graph([name])
    region = Box(torch.zeros(1, 1, 3, 3).double(), torch.ones(1, 1, 3, 3).double())
    after = run(graph, NAME, region, check=True).graph
    shapes = [tuple(value(node.op.weight).shape) for node in after if isinstance(node.op, Conv)]
    assert shapes[0] == (2, 1, 2, 2)
    assert all(shape[1] == 2 for shape in shapes[1:])


def residual(groups: int) -> Graph:
    """`relu(a(x) + b(relu(a(x))))`, a and b of four channels, and a linear layer."""
    generator = torch.Generator().manual_seed(groups)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    builder = GraphBuilder("residual")
    x = builder.input(TensorType((2, 4, 4), torch.float64))
    bias = torch.tensor([20.0, -20.0, 0.0, 0.5], dtype=torch.float64)
    a = builder.add(Conv(tensor(4, 2, 3, 3), bias, padding=((1, 1), (1, 1))), x)
    inner = Conv(tensor(4, 4 // groups, 3, 3) / 4, tensor(4), padding=((1, 1), (1, 1)), groups=groups)
    b = builder.add(inner, builder.add(Relu(), a))
    r = builder.add(Relu(), builder.add(Add(), a, b), name="last")
    flat = builder.add(Reshape((64,)), r)
    return builder.graph([builder.add(Linear(tensor(2, 64)), flat)])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_residual_sums_and_groups(groups: int) -> None:
    """Channel 0 of a is active and 1 inactive everywhere; the others are partly stable."""
    graph = residual(groups)
    centre = 0.2 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    region = Linf(centre, 0.05)
    state = run(graph, f"ibp,crown,{NAME},ibp,crown,stability", region, check=True)
    before = run(graph, "ibp,crown,stability", region)
    unstable = [sum(labels.counts()[2] for labels in each.stability.values()) for each in (before, state)]
    assert 0 < sum(activations(state.graph)) == unstable[0] < sum(activations(graph))
    assert unstable[1] <= unstable[0]
    for point in points(graph, (region,), count=4):
        assert deviation(graph.evaluate(point["x"]), state.graph.evaluate(point["x"])) <= 1e-12  # type: ignore[arg-type]


def test_no_new_value_has_the_name_of_one_that_is_gone() -> None:
    """What is known of a value by name outlives a run: a driver may hand it to the graph that it started from."""
    text = """graph "g" {
    %x: f64[1] = input()
    %y.read: f64[2] = linear(%x) {weight=tensor([[1.0], [1.0]], f64), bias=tensor([-9.0, -9.0], f64)}
    %d: f64[2] = relu(%y.read)
    %a: f64[2] = linear(%x) {weight=tensor([[1.0], [2.0]], f64), bias=tensor([-0.5, -0.5], f64)}
    %r: f64[2] = relu(%a)
    %s: f64[2] = add(%d, %r)
    %y: f64[1] = linear(%s) {weight=tensor([[1.0, 0.0]], f64)}
    return %y
    }"""
    graph = parse_graph(text)
    for pipeline in (NAME, "eliminate-stable{compact=false},compact", "ibp,eliminate-stable{compact=false},compact"):
        state = run(graph, pipeline, box([0.0], [1.0]))
        assert "y.read" not in state.graph
        assert "y.read" not in state.bounds


def pooled(kernel: tuple[int, int], stride: tuple[int, int], padding: int = 0) -> Graph:
    builder = GraphBuilder("pooled")
    x = builder.input(TensorType((1, 1, 6), torch.float64))
    pool = MaxPool(kernel, stride, ((0, 0), (padding, padding)), (1, 1))
    return builder.graph([builder.add(pool, x, name="p")])


def row(*entries: float) -> torch.Tensor:
    return torch.tensor([[[entries]]], dtype=torch.float64)


def test_windows_with_one_winner_are_selections() -> None:
    """Elements 0, 3 and 4 win their windows: 1 is at most 0's least, 5 is beaten by 4."""
    region = Box(row(2, 0, 0, 5, 1, -1), row(3, 2, 4, 6, 2, 1))
    after = run(pooled((1, 2), (1, 2)), NAME, region, check=True).graph
    assert [node.op.name for node in after] == ["input", "reshape", "gather", "reshape"]
    assert after.evaluate(row(2.5, 1, 1, 5, 1, 0)).tolist() == [[[[2.5, 5.0, 1.0]]]]  # type: ignore[union-attr]


def test_open_windows_keep_their_candidates_and_bounds() -> None:
    """Windows (0, 1, 2) and (3, 4, 5), padding in front: 0 and 2 may win the first, 4 wins the second."""
    region = Box(row(0, 0, 1, 0, 7, 0), row(2, 1, 3, 1, 8, 1))
    state = run(pooled((1, 3), (1, 3)), f"ibp,{NAME}", region, check=True)
    pools = [node for node in state.graph if isinstance(node.op, MaxPool)]
    assert [node.op.kernel for node in pools if isinstance(node.op, MaxPool)] == [(1, 2)]
    found = {role: state.bounds[f"p.{role}"] for role in ("unstable2", "open2")}
    assert found["unstable2"].lower.tolist() == [[0.0, 1.0]] and found["unstable2"].upper.tolist() == [[2.0, 3.0]]
    assert found["open2"].lower.tolist() == [[1.0]] and found["open2"].upper.tolist() == [[3.0]]
    assert state.graph.evaluate(row(2, 0, 1, 0, 7, 0)).tolist() == [[[[2.0, 7.0]]]]  # type: ignore[union-attr]


def test_a_winner_must_win_in_every_example() -> None:
    lower, upper = torch.cat([row(2, 0), row(0, 2)]), torch.cat([row(3, 1), row(1, 3)])
    graph = pooled((1, 2), (1, 2))
    lower, upper = (torch.nn.functional.pad(side, (0, 4)) for side in (lower, upper))
    state = run(graph, NAME, Box(lower, upper), check=True)
    assert [node.op.kernel for node in state.graph if isinstance(node.op, MaxPool)] == [(1, 2)]


def test_windows_with_more_candidates_are_apart() -> None:
    """Two candidates, three, and one: no element stands twice in a window, which would cost a binary."""
    region = Box(row(0, 0, -5, 0, 0, 0), row(1, 1, -4, 1, 1, 1))
    graph = pooled((1, 3), (1, 3))
    state = run(graph, f"ibp,{NAME}", region, check=True)
    assert state.graph is graph  # nothing is certain
    wide = GraphBuilder("wide")
    x = wide.input(TensorType((1, 1, 9), torch.float64))
    graph = wide.graph([wide.add(MaxPool((1, 3), (1, 3), ((0, 0), (0, 0)), (1, 1)), x, name="p")])
    region = Box(row(0, 0, -5, 0, 0, 0, 7, 0, 0), row(1, 1, -4, 1, 1, 1, 8, 1, 1))
    state = run(graph, f"ibp,{NAME}", region, check=True)
    kernels = [node.op.kernel for node in state.graph if isinstance(node.op, MaxPool)]
    assert kernels == [(1, 2), (1, 3)]
    prop = at_least_zero([[1.0, 1.0, 1.0]], [0.0])
    before, after = (formulate(each, region, prop).statistics for each in (graph, state.graph))
    assert after.binaries <= before.binaries


def test_padding_never_wins() -> None:
    """Negative elements, next to padding: the windows at the ends have two elements each."""
    region = Box(row(-5, -9, -9, -9, -9, -5), row(-4, -8, -8, -8, -8, -4))
    after = run(pooled((1, 3), (1, 3), 1), NAME, region, check=True).graph
    assert after.evaluate(row(-4, -8, -9, -9, -8, -5)).tolist() == [[[[-4.0, -8.0]]]]  # type: ignore[union-attr]


def test_bounds_that_say_nothing_exclude_no_candidate() -> None:
    nothing = torch.full((1, 1, 1, 6), torch.nan, dtype=torch.float64)
    for lower, upper in ((nothing, nothing), (row(*[-torch.inf] * 6), row(*[torch.inf] * 6))):
        graph = pooled((1, 2), (1, 2))
        pool = graph["p"].op
        assert isinstance(pool, MaxPool)
        assert winners(pool, graph.inputs[0].type, Bounds(lower, upper, "test")).counts.tolist() == [2, 2, 2]


def test_it_needs_a_region() -> None:
    with pytest.raises(UsageError, match="needs an input region"):
        optimize(dense(([[1.0]], [0.0])), NAME)


class Wrong(EliminateStable):
    """Takes every ReLU for active."""

    def run(self, state: State) -> Graph:
        builder = GraphBuilder(state.graph.name)
        names: dict[str, str] = {}
        for node in state.graph:
            inputs = [names[operand] for operand in node.inputs]
            relu = isinstance(node.op, Relu)
            names[node.name] = inputs[0] if relu else builder.add(node.op, *inputs, name=node.name)
        return builder.graph([names[output] for output in state.graph.outputs])


def test_the_check_samples_inside_the_region() -> None:
    graph = dense(([[1.0]], [0.0]), ([[1.0]], [0.0]))
    step: Rewrite = Wrong()
    run(graph, step, box([0.0], [1.0]), check=True)
    with pytest.raises(GraphError, match="expected output"):
        run(graph, step, box([-1.0], [1.0]), check=True)


@pytest.mark.parametrize("kinds", KINDS, ids=["everything", "piecewise", "layers", "pooling"])
@settings(max_examples=12)
@given(data=st.data())
def test_outputs_are_unchanged_on_the_region(kinds: tuple[Kind, ...], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=kinds, max_nodes=12))
    regions = data.draw(boxes(graph))
    compact = data.draw(st.booleans())
    after = run(graph, EliminateStable(compact=compact), regions).graph
    check(after)
    for point in points(graph, regions, count=3):
        before, now = graph.values(point), after.values(point)
        shared = [name for name in before if name in now]
        pairs = [*zip(graph.outputs, after.outputs, strict=True), *((name, name) for name in shared)]
        assert all(deviation(before[old], now[new]) <= 1e-9 for old, new in pairs)


@pytest.mark.parametrize("after", ["", ",crown,ibp"], ids=["carried", "computed"])
@settings(max_examples=10)
@given(data=st.data())
def test_bounds_hold_afterwards(after: str, data: st.DataObject) -> None:
    """Bounds from before survive by name or are carried over, and those of analyses of the rewritten graph hold."""
    kinds = data.draw(st.sampled_from((AFFINE + PIECEWISE * 2, (conv, max_pool, elementwise(Relu())))))
    graph = data.draw(graphs(kinds=kinds, max_nodes=10))
    regions = data.draw(boxes(graph))
    state = run(graph, f"ibp,crown,{NAME}{after}", regions)
    for point in points(graph, regions, count=2):
        values = state.graph.values(point) | {
            new: graph.values(point)[old] for old, new in zip(graph.outputs, state.graph.outputs, strict=True)
        }
        for name, bounds in state.bounds.items():
            slack = 1e-8 * max(1.0, float(values[name].abs().max()))
            assert bool((bounds.lower - slack <= values[name]).all() and (values[name] <= bounds.upper + slack).all())


@pytest.mark.parametrize("seed", range(2))
def test_exact_answers_stay_and_programs_shrink(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 8, 8, 3)
    layers: list[tuple[list[list[float]], list[float]]] = []
    for rows, columns in zip(sizes[1:], sizes, strict=False):
        weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * columns**-0.5
        layers.append((weight.tolist(), (0.3 * torch.randn(rows, generator=generator).double()).tolist()))
    graph = dense(*layers)
    centre = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    region = Linf(centre, 0.15)
    prop = robust(int(graph.evaluate(centre).argmax()))  # type: ignore[union-attr]
    optima: list[float | None] = []
    counts: list[int] = []
    for pipeline in ("ibp,crown", f"ibp,crown,{NAME},crown"):
        state = run(graph, pipeline, region)
        bounds = {name: (fact.lower[0], fact.upper[0]) for name, fact in state.bounds.items()}
        program = formulate(state.graph, region, prop, bounds)
        optima.append(program.solve().objective)
        counts.append(program.statistics.columns)
    assert optima[0] is not None and optima[1] == pytest.approx(optima[0], abs=1e-6)
    assert counts[1] < counts[0]
