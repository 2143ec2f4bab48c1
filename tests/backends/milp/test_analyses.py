"""The analyses lp, lp-tighten and milp-tighten: what they contain, what nests in what, and what they refuse."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.backends.milp.encoding import ENCODED
from irverify.backends.milp.integer_programs import _Target
from irverify.backends.milp.model import ModelBuilder
from irverify.backends.milp.process import Pool
from irverify.backends.milp.programs import Wishes
from irverify.backends.milp.reserve import Reserve
from irverify.backends.milp.tightening import tighten
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import convert
from irverify.ir.ops import OPERATORS, Clip, LeakyRelu, Relu
from irverify.ir.text import parse_graph
from irverify.passes.rules import GIVEN
from irverify.pipeline import Bounds, margins, run
from irverify.regions import L1, Box, Region
from tests import random_graphs as kinds
from tests.passes.operator_cases import CASES, network
from tests.random_graphs import boxes, graphs, points
from tests.soundness.exact_nets import exact_net

PROGRAMS = ("lp", "lp-tighten", "milp-tighten")
RELU = kinds.elementwise(Relu())
PIECES = (*kinds.AFFINE, *(RELU,) * 4, kinds.elementwise(LeakyRelu(0.1)), kinds.elementwise(Clip(-0.5, 1.0)))
BY_HAND = parse_graph("""
graph "hand" {
  %x: f64[2] = input()
  %a = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %r = relu(%a)
  %z = linear(%r) {weight=tensor([[1, 1]]), bias=tensor([-2.5])}
  %s = relu(%z)
  %y = linear(%s) {weight=tensor([[-1]]), bias=tensor([1])}
  return %y
}
""")
SQUARE = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())


@pytest.mark.parametrize(
    ("method", "z", "y"),
    [
        ("lp{intermediate=ibp}", 1.5, 1 - 1.5 / 4 * (0.5 + 2.5)),
        ("lp-tighten", 0.5, 0.5),
        ("milp-tighten", -0.5, 1.0),
    ],
)
def test_by_hand(method: str, z: float, y: float) -> None:
    """z = relu(x_0 + x_1) + relu(x_0 - x_1) - 2.5 is at most 1.5 by intervals and 0.5 by triangles (x_0 + 2 - 2.5);
    the truth is -0.5, so that y = 1 - relu(z) is 1. Over z in [-2.5, 1.5] the triangle says that relu(z) is at most
    1.5 / 4 (z + 2.5), with z <= 0.5 by the triangles before it."""
    state = run(BY_HAND, method, SQUARE)
    assert state.bounds["z"].upper.item() == pytest.approx(z, abs=1e-4)
    assert state.bounds["y"].lower.item() == pytest.approx(y, abs=1e-4)
    assert state.bounds["y"].upper.item() == pytest.approx(1.0, abs=1e-4)
    assert method.split("{")[0] in state.bounds["y"].source


@settings(max_examples=10)
@given(st.data())
def test_lp_nests_in_what_uses_sides_of_the_triangle(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=(*kinds.AFFINE, *(RELU,) * 8), max_nodes=8))
    regions = data.draw(boxes(graph))
    for method in ("fast-lin", "crown", "alpha{steps=3}"):
        loose = run(graph, method, regions).bounds
        base = "crown" if method.startswith("alpha") else method
        tight = run(graph, f"lp{{intermediate={base}}}", regions).bounds
        assert nested(tight, loose, graph.outputs)


@settings(max_examples=6)
@given(st.data())
def test_the_ladder_nests_and_contains_executions(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=PIECES, max_nodes=7))
    regions = data.draw(boxes(graph))
    ladder = [run(graph, method, regions).bounds for method in ("crown", "lp", "lp-tighten", "milp-tighten")]
    for tight, loose in zip(ladder[1:], ladder[:-1], strict=True):
        assert nested(tight, loose, graph.outputs)
    for inputs in points(graph, regions, count=4):
        values = graph.values(inputs)
        for bounds in ladder[1:]:
            assert contains(bounds, values)


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.sampled_from(("scip", "highs")))
def test_milp_tighten_is_the_exact_range(seed: int, solver: str) -> None:
    """Of everything that a nonlinear operator reads and of the output; what is stable already stays as it is."""
    net = exact_net(seed, -0.5, 0.3)
    found = run(net.graph, f"milp-tighten{{solver={solver},limit=20}}", net.region)
    assert found.timings[-1].statistics["wrong"] == 0
    failed = found.timings[-1].statistics.get("failed", 0)  # HiGHS gives up on some programs
    for name, path in net.paths.items():
        bounds = found.bounds[name]
        # Solvers stop at a gap of 1e-4, and their bounds are moved outward.
        size = 3e-4 * max(1.0, float(torch.stack([bounds.lower, bounds.upper]).abs().max()))
        readers = [net.graph[user] for user in net.graph.users(name)]
        for element in range(bounds.lower.shape[1]):
            low, high = (float(end) for end in path.range(element))
            lower, upper = float(bounds.lower[0, element]), float(bounds.upper[0, element])
            assert lower <= low + 1e-9 and high - 1e-9 <= upper
            unstable = all(isinstance(reader.op, Relu) for reader in readers) and low < -size < size < high
            if not readers or unstable:
                assert failed or (low - size <= lower and upper <= high + size)


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_signs_are_all_that_is_asked(seed: int) -> None:
    """With signs, what is left unstable is what takes both signs (or comes within the margin of 0)."""
    net = exact_net(seed, -0.5, 0.3)
    found = run(net.graph, "milp-tighten{signs=true,limit=20},stability", net.region)
    full = run(net.graph, "milp-tighten{limit=20}", net.region)
    assert found.timings[-2].statistics["programs"] <= full.timings[-1].statistics["programs"]
    for node in net.graph:
        if isinstance(node.op, Relu):
            unstable = found.stability[node.name].unstable[0].tolist()
            size = max(abs(end) for element in range(len(unstable)) for end in net.paths[node.inputs[0]].range(element))
            for element, open_ in enumerate(unstable):
                low, high = net.paths[node.inputs[0]].range(element)
                slack = Fraction(1, 1000) * max(Fraction(1), size)
                assert open_ or not low < 0 < high
                assert not open_ or (low < slack and high > -slack)


def test_batches_and_specifications() -> None:
    """Example after example is what each gives alone, and margins are a specification over the outputs."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    region = Box(center - 0.5, center + 0.5)
    rows = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([0.0, 2.0]).double()
    for method in PROGRAMS:
        together = run(BY_HAND, method, region, spec=rows).bounds["spec"]
        for number in range(3):
            alone = run(BY_HAND, method, region.select(number), spec=rows).bounds["spec"]
            torch.testing.assert_close(together.lower[number], alone.lower[0], atol=1e-9, rtol=0)
        plain = run(BY_HAND, method, region).bounds["y"]
        torch.testing.assert_close(together.lower[:, 0], plain.lower[:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.lower[:, 1], 2 - plain.upper[:, 0], atol=1e-4, rtol=0)


def test_margins_are_below_those_of_executions() -> None:
    graph = parse_graph("""
    graph "two" {
      %x: f64[2] = input()
      %a = linear(%x) {weight=tensor([[1, 1], [1, -1], [0, 1]]), bias=tensor([0, 0.1, -0.3])}
      %r = relu(%a)
      %y = linear(%r) {weight=tensor([[1, -1, 2], [0.5, 1, -1]]), bias=tensor([0.2, 0])}
      return %y
    }
    """)
    region = Box(torch.zeros(2, 2).double(), torch.tensor([[0.5, 0.5], [1.0, 1.0]]).double())
    found = [margins(graph, region, [0, 1], method=method) for method in ("crown", *PROGRAMS)]
    samples = torch.stack([graph.values({"x": point})["y"] for point in region.sample(200)], 1)
    for number, label in enumerate((0, 1)):
        exact = (samples[number, :, label] - samples[number, :, 1 - label]).min()
        ends = [float(bound[number, 1 - label]) for bound in found]
        assert all(a <= b + 1e-4 for a, b in itertools.pairwise(ends)) and ends[-1] <= exact
        assert all(float(bound[number, label]) == pytest.approx(0.0, abs=1e-6) for bound in found)


@pytest.mark.parametrize("method", PROGRAMS)
def test_float32_bounds_contain_the_float64_ones(method: str) -> None:
    single = convert(BY_HAND, torch.float32)
    region = Box(-torch.ones(1, 2), torch.ones(1, 2))
    bounds, exact = run(single, method, region).bounds, run(BY_HAND, method, SQUARE).bounds
    for name in ("z", "y"):
        assert bounds[name].lower.dtype == torch.float32
        torch.testing.assert_close(bounds[name].lower.double(), exact[name].lower, atol=1e-3, rtol=0)
        torch.testing.assert_close(bounds[name].upper.double(), exact[name].upper, atol=1e-3, rtol=0)


def test_over_balls() -> None:
    region: Region = L1(torch.zeros(1, 2).double(), 1.0)
    upper = run(BY_HAND, "milp-tighten", region).bounds["z"].upper.item()
    assert upper == pytest.approx(-0.5, abs=1e-3)  # relu(x_0 + x_1) + relu(x_0 - x_1) <= 2 over the ball


def test_over_float32_balls() -> None:
    """Executions are looked for in float64, whatever the type of the region."""
    region = L1(torch.zeros(1, 2), 1.0)
    bounds = run(convert(BY_HAND, torch.float32), "milp-tighten", region).bounds["y"]
    assert float(bounds.lower) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("method", PROGRAMS)
def test_without_time_bounds_are_those_of_crown(method: str) -> None:
    state = run(BY_HAND, f"{method}{{time=0}}", SQUARE)
    crown = run(BY_HAND, "crown", SQUARE).bounds
    assert nested(state.bounds, crown, ("z", "y")) and nested(crown, state.bounds, ("z",))
    assert state.timings[-1].statistics["out_of_time"] == 1
    assert state.timings[-1].statistics["programs"] == 0


def test_operators_are_bounded_or_refused_by_name() -> None:
    for word in CASES:
        graph, region = network(word)
        supported = issubclass(OPERATORS[word], (*ENCODED, *GIVEN)) or word == "spec"
        try:
            state = run(graph, "lp", region.select([0]))
        except UnsupportedError as refusal:
            assert not supported and refusal.items, word
            continue
        assert supported, word
        for point in region.select([0]).sample(4):
            assert contains(state.bounds, graph.values({"x": point}))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("lp{time=-1}", "expected a time of at least 0 seconds"),
        ("lp-tighten{workers=0}", "expected one worker or more"),
        ("lp{intermediate=canonicalize}", "expected one analysis for option intermediate"),
        ('lp{intermediate="ibp,crown"}', "expected one analysis for option intermediate"),
        ("milp-tighten{limit=0}", "expected a limit of more than 0 seconds"),
        ("milp-tighten{solver=glpk}", "expected one of scip, highs"),
    ],
)
def test_bad_options(pipeline: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(BY_HAND, pipeline, SQUARE)


def test_bounds_that_an_execution_contradicts_are_dropped() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", [-1.0], [1.0])
    wishes = Wishes(x, np.zeros(1), np.ones((1, 2), dtype=np.bool_), (np.array([0.1]), np.array([0.2])))
    target = _Target(wishes, 0, builder.build(), 0)
    target.learn(1.0, 0.15)
    target.learn(-1.0, -0.15)
    target.learn(1.0, float("nan"))
    assert (target.lower, target.upper, target.wrong) == (-1.0, 1.0, 3)
    target.learn(1.0, 0.05)
    target.learn(-1.0, -0.3)
    assert target.lower == pytest.approx(0.05 - 1e-5) and target.upper == pytest.approx(0.3 + 1e-5)
    assert target.settled and target.wrong == 3


def test_processes_are_kept_for_the_next_user() -> None:
    reserve = Reserve()
    with reserve.borrow(1) as first, reserve.borrow(1) as other:
        assert first is not other
    with reserve.borrow(1) as again:
        assert again in (first, other)
    with pytest.raises(RuntimeError), reserve.borrow(1) as failed:
        raise RuntimeError
    with reserve.borrow(1) as fresh:
        assert fresh is not failed


def test_idle_processes_end() -> None:
    reserve = Reserve(idle=0.1)
    with reserve.borrow(1) as pool:
        tighten(BY_HAND, SQUARE, pool=pool)
        assert running(pool)
    deadline = time.monotonic() + 20
    while running(pool) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(pool)
    with reserve.borrow(1) as another:
        assert another is not pool


def running(pool: Pool) -> bool:
    return any(worker.pid is not None for worker in pool.workers)


def nested(tight: Mapping[str, Bounds], loose: Mapping[str, Bounds], names: tuple[str, ...]) -> bool:
    return all(
        bool((tight[name].lower >= loose[name].lower - slack(loose[name])).all())
        and bool((tight[name].upper <= loose[name].upper + slack(loose[name])).all())
        for name in names
    )


def contains(bounds: Mapping[str, Bounds], values: Mapping[str, torch.Tensor]) -> bool:
    return all(
        bool((entry.lower <= values[name] + 1e-9).all() and (values[name] <= entry.upper + 1e-9).all())
        for name, entry in bounds.items()
    )


def slack(bounds: Bounds) -> float:
    """What duals that are not optimal lose."""
    return 1e-6 * max(1.0, float(torch.stack([bounds.lower, bounds.upper]).abs().max()))
