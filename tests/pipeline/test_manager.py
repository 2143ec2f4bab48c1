"""The pass manager: what runs when, what is kept, what is checked, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from irverify.errors import GraphError, RegionError, UsageError
from irverify.ir.graph import Graph, rewrite
from irverify.ir.ops import Relu, Tanh
from irverify.ir.text import parse_graph
from irverify.pipeline import (
    Analysis,
    Bounds,
    BoundsFault,
    Facts,
    Pass,
    Rewrite,
    State,
    optimize,
    run,
)
from irverify.regions import Box, Linf, Region

GRAPH = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %a = linear(%x) {weight=tensor([[1, -1], [2, 1]]), bias=tensor([0, 1])}
  %n = batch_norm(%a) {mean=tensor([0, 0]), variance=tensor([1, 1]), epsilon=0.0}
  %r = relu(%n)
  %y = linear(%r) {weight=tensor([[1, -2]]), bias=tensor([0.5])}
  return %y
}
""")
TWO_INPUTS = parse_graph("""
graph "two" {
  %x: f64[1] = input()
  %z: f64[2] = input()
  %y = concat(%x, %z) {axis=0}
  return %y
}
""")


def region(batch: int = 1, dtype: torch.dtype = torch.float64) -> Region:
    return Linf(torch.tensor([[1.0, 2.0]] * batch, dtype=dtype), 0.5)


def test_timings_and_statistics() -> None:
    state = run(GRAPH, "fold-batchnorm,ibp,stability", region())
    assert [timing.step for timing in state.timings] == ["fold-batchnorm", "ibp", "stability"]
    assert all(timing.seconds >= 0 and timing.memory >= 0 for timing in state.timings)
    assert state.timings[0].statistics == {"nodes_before": 5, "nodes_after": 4}
    assert state.timings[2].statistics == {"active": 1, "inactive": 1, "unstable": 0}


def test_the_hook_sees_the_graph_before_and_after_each_pass() -> None:
    seen: list[tuple[str, str, int]] = []
    run(GRAPH, "fold-batchnorm,stability", region(), hook=lambda moment, step, state: seen.append(
        (moment, str(step), len(state.graph))
    ))  # fmt: skip
    assert seen == [
        ("before", "fold-batchnorm", 5), ("after", "fold-batchnorm", 4),
        ("before", "stability", 4), ("before", "ibp", 4), ("after", "ibp", 4), ("after", "stability", 4),
    ]  # fmt: skip


def test_a_list_of_passes_or_a_single_one() -> None:
    from irverify.passes.fold_batchnorm import FoldBatchnorm
    from irverify.passes.ibp import Ibp

    assert set(run(GRAPH, [FoldBatchnorm(), Ibp()], region()).bounds) == {"x", "n", "r", "y"}
    assert len(optimize(GRAPH, FoldBatchnorm())) == 4


def test_rewrites_need_no_region_and_analyses_do() -> None:
    assert run(GRAPH, "fold-batchnorm").bounds == {}
    with pytest.raises(UsageError, match="pass ibp needs an input region and got none"):
        run(GRAPH, "fold-batchnorm,ibp")


def test_results_are_cached_until_something_changes() -> None:
    @dataclass(frozen=True)
    class Counting(Analysis):
        name = "counting"
        which: int = 0

        def run(self, state: State) -> Facts:
            ran.append(self.which)
            return Facts()

    @dataclass(frozen=True)
    class Asking(Analysis):
        name = "asking"

        def run(self, state: State) -> Facts:
            for which in (0, 1, 0):
                state.require(Counting(which))
            return Facts()

    from irverify.passes.fold_batchnorm import FoldBatchnorm

    ran: list[int] = []
    run(GRAPH, [Asking(), Counting(1)], region())
    assert ran == [0, 1, 1]  # run again by name, since `asking` may have added to what is known
    ran.clear()
    run(GRAPH, [Counting(0), Counting(0), Asking()], region())
    assert ran == [0, 1]
    ran.clear()
    run(GRAPH, [Counting(0), FoldBatchnorm(), Counting(0)], region())
    assert ran == [0, 0]


def test_bounds_survive_where_names_keep_their_values() -> None:
    @dataclass(frozen=True)
    class Unknown(Rewrite):
        name = "unknown"

        def run(self, state: State) -> Graph:
            return Graph(state.graph.nodes, state.graph.outputs)

    from irverify.passes.fold_batchnorm import FoldBatchnorm
    from irverify.passes.ibp import Ibp

    kept = run(GRAPH, [Ibp(), FoldBatchnorm()], region())
    assert set(kept.bounds) == {"x", "n", "r", "y"}
    dropped = run(GRAPH, [Ibp(), Unknown()], region())
    assert set(dropped.bounds) == {"x"}


def test_stability_is_dropped_by_a_rewrite() -> None:
    assert run(GRAPH, "stability,fold-batchnorm", region()).stability == {}


@dataclass(frozen=True)
class Wrong(Rewrite):
    """Replaces relu by tanh."""

    name = "wrong"

    def run(self, state: State) -> Graph:
        return rewrite(state.graph, lambda builder, node, inputs: builder.add(
            Tanh() if isinstance(node.op, Relu) else node.op, *inputs, name=node.name
        ))  # fmt: skip


@dataclass(frozen=True)
class Pruning(Wrong):
    """The same, but says so."""

    name = "pruning"
    keeps_function = False


def test_check_compares_by_evaluation_and_names_the_first_difference() -> None:
    assert run(GRAPH, [Wrong()]).graph["r"].op.name == "tanh"
    with pytest.raises(GraphError, match="the first value that differs is %r = tanh"):
        run(GRAPH, [Wrong()], check=True)
    assert run(GRAPH, [Pruning()], check=True).graph["r"].op.name == "tanh"


def test_the_checker_runs_after_every_rewrite() -> None:
    @dataclass(frozen=True)
    class Broken(Rewrite):
        name = "broken"

        def run(self, state: State) -> Graph:
            return Graph(state.graph.nodes[1:], state.graph.outputs)

    with pytest.raises(GraphError, match="expected inputs in the graph, got %x"):
        run(GRAPH, [Broken()])


@pytest.mark.parametrize("bad", [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("nan"))])
def test_an_analysis_that_gives_nonsense_is_a_fault(bad: tuple[float, float]) -> None:
    @dataclass(frozen=True)
    class Nonsense(Analysis):
        name = "nonsense"

        def run(self, state: State) -> Facts:
            lower, upper = (torch.full((1, 1), end, dtype=torch.float64) for end in bad)
            return Facts({"y": Bounds(lower, upper, self.name)})

    with pytest.raises(BoundsFault, match="bounds of %y from nonsense"):
        run(GRAPH, [Nonsense()], region())


def test_an_analysis_that_contradicts_another_is_a_fault() -> None:
    @dataclass(frozen=True)
    class Elsewhere(Analysis):
        name = "elsewhere"

        def run(self, state: State) -> Facts:
            return Facts(
                {"y": Bounds(torch.full((1, 1), 100.0).double(), torch.full((1, 1), 101.0).double(), self.name)}
            )

    from irverify.passes.ibp import Ibp

    with pytest.raises(BoundsFault, match="from elsewhere and from ibp contradict each other"):
        run(GRAPH, [Ibp(), Elsewhere()], region())


def test_given_bounds_are_intersected_and_used() -> None:
    """Without them r is [0, 0] x [3.5, 6.5] and y = 0.5 + r1 - 2 r2 is [-12.5, -6.5]."""
    given = torch.tensor([[-1.0, 4.0]]), torch.tensor([[5.0, 5.0]])
    state = run(GRAPH, "ibp", region(), bounds={"r": given})
    assert (state.bounds["y"].lower.item(), state.bounds["y"].upper.item()) == (-9.5, -7.5)
    assert state.bounds["r"].source == "ibp & given"
    assert state.bounds["r"].lower.tolist() == [[0.0, 4.0]]


def test_given_bounds_of_an_input_and_through_a_rewrite() -> None:
    one = torch.tensor([[1.0, 2.0]])
    state = run(GRAPH, "fold-batchnorm,fuse-linear,ibp", region(), bounds={"x": (one, one), "r": (one * 0, one * 100)})
    assert state.bounds["y"].width.item() == 0
    assert state.bounds["r"].source == "ibp & given"


@pytest.mark.parametrize(
    ("name", "lower", "upper", "message"),
    [
        ("nobody", [[0.0, 0.0]], [[1.0, 1.0]], "bounds are given for %nobody, which is no value"),
        ("r", [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]], r"expected bounds \[1, 2\] for %r"),
        ("r", [[1.0, 0.0]], [[0.0, 1.0]], r"bounds of %r from given: lower 1.0, upper 0.0"),
        ("r", [[float("nan"), 0.0]], [[0.0, 1.0]], "bounds of %r from given"),
        ("r", [[50.0, 0.0]], [[60.0, 1.0]], "contradict each other"),
        ("x", [[50.0, 0.0]], [[60.0, 1.0]], "contradict each other"),
    ],
)
def test_given_bounds_that_do_not_fit(name: str, lower: Any, upper: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(GRAPH, "ibp", region(), bounds={name: (torch.tensor(lower), torch.tensor(upper))})


def test_several_inputs() -> None:
    first, second = Box(torch.zeros(1, 1).double(), torch.ones(1, 1).double()), region()
    expected = [[0.0, 0.5, 1.5]]
    assert run(TWO_INPUTS, "ibp", [first, second]).bounds["y"].lower.tolist() == expected
    assert run(TWO_INPUTS, "ibp", {"z": second, "x": first}).bounds["y"].lower.tolist() == expected
    with pytest.raises(RegionError, match="expected 2 region"):
        run(TWO_INPUTS, "ibp", first)


def test_the_region_takes_the_graphs_element_type_and_rounds_outward() -> None:
    single = parse_graph('graph "t" {\n%x: f32[1] = input()\n%y = relu(%x)\nreturn %y\n}')
    third = torch.tensor([[1 / 3]], dtype=torch.float64)
    found = run(single, "ibp", Box(third, third)).bounds["x"]
    assert found.lower.dtype == torch.float32
    assert bool((found.lower.double() < third).all())
    assert bool((third < found.upper.double()).all())


def test_operands_are_checked() -> None:
    graph = parse_graph("""
    graph "t" {
      %x: f64[2] = input()
      %C: f64[1,2] = operand()
      %d: f64[1] = operand()
      %m = spec(%x, %C, %d)
      return %m
    }
    """)
    rows, constant = torch.ones(1, 2), torch.zeros(1, 1)
    assert run(graph, "ibp", region(2), operands={"C": rows, "d": constant}).bounds["m"].lower.tolist() == [
        [2.0],
        [2.0],
    ]
    with pytest.raises(UsageError, match="pass ibp needs the runtime operands d"):
        run(graph, "ibp", region(), operands={"C": rows})
    with pytest.raises(UsageError, match=r"expected operands \['C', 'd'\], got \['e'\]"):
        run(graph, "ibp", region(), operands={"e": rows})
    with pytest.raises(UsageError, match=r"expected operand %C \[1, 1, 2\], got \[1, 3\]"):
        run(graph, "ibp", region(), operands={"C": torch.ones(1, 3), "d": constant})


def test_state_is_asked_for_analyses_only() -> None:
    with pytest.raises(UsageError, match="expected an analysis, got the rewrite fuse-linear"):
        run(GRAPH, "", region()).require("fuse-linear")


def test_a_state_can_be_asked_for_more() -> None:
    state = run(GRAPH, "fold-batchnorm", region())
    assert state.bounds_of("y").source == "ibp"
    assert [timing.step for timing in state.timings] == ["fold-batchnorm", "ibp"]


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Nothing that a run does may change the graph."""
    before = str(GRAPH), [tensor.clone() for tensor in GRAPH.parameters().values() if isinstance(tensor, torch.Tensor)]
    yield
    assert str(GRAPH) == before[0]
    for old, new in zip(before[1], GRAPH.parameters().values(), strict=True):
        assert isinstance(new, torch.Tensor)
        assert torch.equal(old, new)


def test_neither_an_analysis_nor_a_rewrite() -> None:
    @dataclass(frozen=True)
    class Odd(Pass):
        name = "odd"

    with pytest.raises(UsageError, match="expected an analysis or a rewrite"):
        run(GRAPH, [Odd()])
