"""The driver on networks whose answers are known by hand, on random small ones by sampling, and on the digits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.attacks import Pgd
from irverify.data import DIGITS_EPS, DIGITS_NETWORK, digits
from irverify.errors import PropertyError, RegionError, UsageError
from irverify.frontends import compile as compile_source
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Abs, Div, Linear, Relu, Sigmoid
from irverify.ir.text import parse_graph
from irverify.ir.types import TensorType
from irverify.passes.crown import Crown
from irverify.pipeline import BoundsFault, Rewrite, State, run
from irverify.properties import Case, Declaration, Query, any_of, linear, robust
from irverify.regions import L2, Box, Linf, Region
from irverify.verify import Options, Stage, attacking, bounding, stages, verify
from irverify.verify.bounding import check_method
from irverify.verify.driver import problem_of, working
from irverify.verify.problem import Clock
from irverify.verify.stages import Job, decide

RELU_SUM = """
graph "sum" {
  %x: f32[2] = input()
  %a = linear(%x) {weight=tensor([[1, 1], [1, -1]])}
  %r = relu(%a)
  %y = linear(%r) {weight=tensor([[1, 1]])}
  return %y
}
"""


def relu_sum() -> Graph:
    """y = relu(x1 + x2) + relu(x1 - x2), in [0, 2] over the unit box: 2 max(x1, |x2| ...) is at most 2."""
    return parse_graph(RELU_SUM)


def unit_box(size: int = 2) -> Box:
    return Box(-torch.ones(1, size), torch.ones(1, size))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 2.5, "verified"),  # 0 <= y <= 2 holds with room
        (-0.5, 1.5, "falsified"),  # y(1, 0) = 2
        (0.5, 2.5, "falsified"),  # y(-1, 0) = 0
    ],
)
def test_a_range_worked_by_hand(low: float, high: float, expected: str) -> None:
    """low <= y <= high; the exact range is [0, 2], linear bounds say up to 3."""
    prop = linear([[1.0], [-1.0]], [-low, high])
    verdict = verify(relu_sum(), unit_box(), prop, timeout=60)
    assert verdict.verdict == expected
    assert verdict.stages and verdict.seconds > 0
    if expected == "verified":
        assert verdict.method is not None and verdict.bound is not None and verdict.tolerance is not None
        assert verdict.bound >= verdict.tolerance > 0
        assert verdict.counterexample is None
    else:
        assert verdict.counterexample is not None
        (point,), (value,) = verdict.counterexample.inputs, verdict.counterexample.outputs
        assert ((point >= -1) & (point <= 1)).all()
        assert not low <= value.item() <= high
        assert [Fraction(float(number)) for number in point.flatten()] == list(verdict.counterexample.exact)


def test_a_property_that_holds_with_equality_is_not_falsified() -> None:
    """y <= 2 as written holds, since y = 2 is reached and not exceeded; nobody may claim otherwise."""
    verdict = verify(relu_sum(), unit_box(), linear([[-1.0]], [2.0]), timeout=60)
    assert verdict.verdict in ("verified", "unknown")


def test_a_tie_counts_as_misclassified() -> None:
    """Two outputs that are always equal."""
    graph = parse_graph(
        'graph "tie" {\n %x: f32[1] = input()\n %y = linear(%x) {weight=tensor([[1], [1]])}\n return %y\n}'
    )
    assert verify(graph, unit_box(1), robust(0)).verdict == "falsified"


def test_a_bounds_only_pipeline_never_guesses() -> None:
    """The property holds, but intervals alone cannot see it."""
    verdict = verify(relu_sum(), unit_box(), linear([[-1.0]], [2.5]), pipeline="ibp")
    assert verdict.verdict == "unknown" and verdict.reason


def test_no_time_is_a_timeout() -> None:
    assert verify(relu_sum(), unit_box(), linear([[-1.0]], [2.5]), timeout=0.0).verdict == "timeout"


def test_an_operator_without_exact_encoding_leaves_the_reason() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    first = builder.add(Sigmoid(), x)
    shifted = builder.add(Linear(-torch.eye(1).double()), builder.add(Sigmoid(), x))
    graph = builder.graph([builder.add(Div(), shifted, first)])  # always -1
    verdict = verify(graph, Box(-torch.ones(1, 1).double(), torch.ones(1, 1).double()), linear([[1.0]], [1.5]))
    assert verdict.verdict == "unknown" and "div" in str(verdict.reason)


def test_an_undefined_network_is_never_verified() -> None:
    """1 / |x| where x may be 0."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,)))
    graph = builder.graph([builder.add(Div(), x, builder.add(Abs(), x))])
    verdict = verify(graph, unit_box(1), linear([[1.0]], [5.0]), timeout=20)
    assert verdict.verdict in ("unknown", "falsified")


def test_wrong_use_is_one_error() -> None:
    graph = relu_sum()
    with pytest.raises(UsageError, match="one example"):
        verify(graph, Box(-torch.ones(2, 2), torch.ones(2, 2)), robust(0))
    with pytest.raises(UsageError, match="property"):
        verify(graph, unit_box())
    with pytest.raises(UsageError, match="solver"):
        verify(graph, unit_box(), linear([[-1.0]], [2.5]), solver="cplex")
    with pytest.raises(PropertyError):
        verify(graph, unit_box(), robust(1))
    with pytest.raises(RegionError):
        verify(graph, unit_box(3), robust(0))


def test_scalars() -> None:
    """y = -x on [-1, 1], both without an axis."""
    graph = parse_graph('graph "s" {\n %x: f32[] = input()\n %y = neg(%x)\n return %y\n}')
    region = Box(-torch.ones(1), torch.ones(1))
    assert verify(graph, region, linear([[-1.0]], [1.5])).verdict == "verified"
    assert verify(graph, region, linear([[-1.0]], [0.5])).verdict == "falsified"


def test_an_l2_ball() -> None:
    """x1 <= sqrt(1/2) where |x| <= 1 and x1 = x2: y = x1 + x2 is at most sqrt(2) over the ball, 2 over its box."""
    graph = parse_graph('graph "g" {\n %x: f32[2] = input()\n %y = linear(%x) {weight=tensor([[1, 1]])}\n return %y\n}')
    region = L2(torch.zeros(1, 2), 1.0)
    assert verify(graph, region, linear([[-1.0]], [1.5])).verdict == "verified"
    assert verify(graph, region, linear([[-1.0]], [1.3])).verdict == "falsified"


def query(low: Fraction, high: Fraction, bound: float) -> Query:
    """Is there x in [low, high]^2 with y >= bound?"""
    x, y = Declaration("X", "real", (2,)), Declaration("Y", "real", (1,))
    violation = linear([[-1.0]], [bound]).disjuncts
    case = Case((low, low), (high, high), any_of(linear([[-1.0]], [bound])).bind(2, 1), (x,))
    assert violation
    return Query((case,), (x,), (y,))


def test_a_query_with_a_fixed_input_gives_the_exact_point() -> None:
    """0.1 is no float: the model runs on the nearest one, the witness is 0.1 itself."""
    tenth = Fraction(1, 10)
    verdict = verify(relu_sum(), query(tenth, tenth, 0.1))
    assert verdict.verdict == "falsified" and verdict.counterexample is not None
    assert verdict.counterexample.exact == (tenth, tenth)
    assert verify(relu_sum(), query(tenth, tenth, 0.3)).verdict == "verified"


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), level=st.floats(-1.0, 1.0))
def test_random_networks_against_sampling(seed: int, level: float) -> None:
    """A verdict of `verified` survives ten thousand points; `falsified` comes with one; nothing stays open but what
    holds with equality."""
    generator = torch.Generator().manual_seed(seed)
    builder = GraphBuilder()
    value = builder.input(TensorType((3,)))
    for size in (6, 6):
        width = builder.type(value).size
        weight = torch.randn(size, width, generator=generator)
        value = builder.add(Relu(), builder.add(Linear(weight, torch.randn(size, generator=generator)), value))
    graph = builder.graph([builder.add(Linear(torch.randn(1, 6, generator=generator)), value)])
    region = Box(-torch.ones(1, 3), torch.ones(1, 3))
    values = graph.evaluate(region.sample(10_000, generator)[:, 0])
    assert isinstance(values, torch.Tensor)
    spread = float(values.max() - values.min())
    bound = float(values.max()) + level * max(spread, 0.1)
    verdict = verify(graph, region, linear([[-1.0]], [bound]), timeout=60)
    assert verdict.verdict in ("verified", "falsified") or abs(level) < 1e-3
    if level < -1e-3 and spread > 0.1:
        assert verdict.verdict == "falsified"
    if verdict.verdict == "verified":
        assert float(values.max()) <= bound


def test_digits_without_attack_are_decided_by_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact stage alone gives the same verdicts as the whole driver, on digits that intervals leave open."""
    graph = compile_source(DIGITS_NETWORK)
    data = digits("test").select(range(4))

    def verdicts() -> list[str]:
        result: list[str] = []
        for image, label in zip(data.images, data.labels, strict=True):
            region = Linf(torch.from_numpy(image)[None], DIGITS_EPS, clip=(0, 1))
            result.append(verify(graph, region, robust(int(label)), timeout=60).verdict)
        return result

    whole = verdicts()
    blind = Pgd(steps=0, restarts=1)
    for name in ("QUICK", "GUIDED", "SAMPLED", "THOROUGH"):
        monkeypatch.setattr(attacking, name, blind)
    assert verdicts() == whole and set(whole) <= {"verified", "falsified"}


@dataclass(frozen=True)
class Changing(Rewrite):
    """A rewrite that changes the function."""

    name = "changing"
    keeps_function = False

    def run(self, state: State) -> Graph:
        raise AssertionError("not reached")


@pytest.mark.parametrize("pipeline", ["singleprop-zero", "ibp,fuse-linear"])
def test_pipelines_that_prove_nothing_are_refused(pipeline: str) -> None:
    """An estimate, and no bounds of what was rewritten last."""
    with pytest.raises(UsageError, match=r"expected|estimate"):
        verify(relu_sum(), unit_box(), linear([[-1.0]], [2.5]), pipeline=pipeline)


def test_another_function_proves_nothing() -> None:
    with pytest.raises(UsageError, match="changing would leave another function"):
        check_method((Changing(), Crown()))


def test_the_first_attack_by_name() -> None:
    verdict = verify(relu_sum(), unit_box(), linear([[-1.0]], [1.5]), attack="pgd-40")
    assert (verdict.verdict, verdict.method) == ("falsified", "pgd-40")
    with pytest.raises(UsageError, match="pgd-200x10"):
        verify(relu_sum(), unit_box(), linear([[-1.0]], [1.5]), attack="pgd")


def test_points_that_came_nearest_are_remembered() -> None:
    graph = relu_sum()
    problem = problem_of(graph, working(graph), unit_box(), linear([[-1.0]], [2.5]))
    for _ in decide([Job([problem], Clock(Options()))]):
        pass
    ((margin, (point,)),) = problem.nearest.values()
    assert problem.decided and margin == pytest.approx(0.5) and float(point[0, 0]) == 1.0


def test_questions_that_share_stages_are_told_what_they_are_told_alone() -> None:
    """Of a batch each is charged its part of the time, and one that goes wrong is an error of its own."""
    graph, data = compile_source(DIGITS_NETWORK), digits("test").select(range(6))
    work = working(graph)

    def jobs() -> list[Job]:
        result = []
        for image, label in zip(data.images, data.labels, strict=True):
            region = Linf(torch.from_numpy(image)[None].double(), DIGITS_EPS, clip=(0, 1))
            result.append(Job([problem_of(graph, work, region, robust(int(label)))], Clock(Options(timeout=60), None)))
        return result

    batch, begun = jobs(), time.monotonic()
    together = {id(job) for job in decide(batch)}
    seconds = time.monotonic() - begun
    assert len(together) == len(batch)
    alone = [job for one in jobs() for job in decide([one])]
    said = [job.verdict() for job in batch]
    assert [verdict.verdict for verdict in said] == [job.verdict().verdict for job in alone]
    assert [verdict.method for verdict in said] == [job.verdict().method for job in alone]
    for one, other in zip(said, alone, strict=True):
        if one.bound is not None:
            assert one.bound == pytest.approx(other.verdict().bound, rel=1e-6)
    assert sum(verdict.seconds for verdict in said) <= seconds


def test_a_fault_is_one_questions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that fail whenever the third question takes part."""
    graph = relu_sum()
    work = working(graph)
    boxes = [Box(-torch.ones(1, 2) * scale, torch.ones(1, 2) * scale) for scale in (1.0, 0.5, 0.25, 0.75)]
    jobs = [Job([problem_of(graph, work, box, linear([[-1.0]], [3.5]))], Clock(Options(timeout=9))) for box in boxes]

    def faulty(graph: Graph, method: str, regions: Sequence[Region], **given: object) -> State:
        if bool((regions[0].box()[1] == 0.25).any()):
            raise BoundsFault("crossed")
        return run(graph, method, regions, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(bounding, "run", faulty)
    for _ in decide(jobs):
        pass
    assert [type(job.fault) for job in jobs] == [type(None), type(None), BoundsFault, type(None)]
    assert [job.verdict().verdict for job in jobs if job.fault is None] == ["verified"] * 3
    with pytest.raises(BoundsFault, match="crossed"):
        jobs[2].verdict()


def _next(answers: Iterator[bool], clock: Clock) -> bool:
    return next(answers, True)


def test_a_question_whose_time_runs_out_is_yielded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever that happens: here at the n-th time that somebody asks."""
    graph = relu_sum()
    problems = [problem_of(graph, working(graph), unit_box(), linear([[-1.0]], [1.9])) for _ in range(8)]
    for asked, problem in enumerate(problems):
        answers = iter([False] * asked)
        monkeypatch.setattr(Clock, "over", property(partial(_next, answers)))
        job = Job([problem], Clock(Options(timeout=9)))
        assert list(decide([job])) == [job]


def test_bounds_that_nobody_ends_are_not_begun_without_time_for_them() -> None:
    clock = Clock(Options(timeout=60.0))
    for seconds, expected in ((0.1, (True, True)), (1.0, (True, False)), (10.0, (False, False))):
        clock.stages = [Stage("crown", seconds, "refuted 0 of 9")]
        assert tuple(stages._affordable(method, clock) for method in ("alpha", stages.BETWEEN)) == expected
    assert stages._affordable(stages.BETWEEN, Clock(Options(), stages=clock.stages))
