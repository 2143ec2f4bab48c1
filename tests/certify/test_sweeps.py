"""Sweeps over a data set: what is certified, falsified or neither, and what never becomes a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.attacks import Pgd, pgd
from irverify.certify import Accuracies, ByAnalysis, ByDriver, Certifier, Outcome, Question, Settings, Sweep
from irverify.certify.memory import batch_size, bytes_per_image
from irverify.certify.outcome import CLEAN
from irverify.data import DIGITS_NETWORK, DataSet, digits
from irverify.errors import PropertyError, UnsupportedError, UsageError
from irverify.frontends.compile import compile as compile_source
from irverify.ir.graph import Graph
from irverify.ir.text import parse_graph
from irverify.passes.support import METHODS
from irverify.pipeline import BoundsFault, Rewrite, State, margins
from irverify.pipeline.catalog import CATALOG, Entry
from irverify.properties import robust
from irverify.regions import Linf
from irverify.report.sweeps import sweep_tables
from irverify.verify import Options, bounding, verify

ROWS = parse_graph("""
graph "three" {
  %x: f32[2] = input()
  %y = linear(%x) {weight=tensor([[1, 0], [0, 1], [-1, -1]]), bias=tensor([0, 0, 0])}
  return %y
}
""")


def data_set(points: Sequence[Sequence[float]], labels: Sequence[int]) -> DataSet:
    return DataSet("points", np.array(points, dtype=np.float32), np.array(labels), (-9.0, 9.0))


def outcomes(sweep: Certifier, indices: Sequence[int]) -> list[Outcome]:
    """In the order of `indices`, however they come."""
    found = {outcome.index: outcome for batch in sweep.outcomes(indices) for outcome in batch}
    return [found[index] for index in indices]


@cache
def network() -> Graph:
    return compile_source(DIGITS_NETWORK)


def test_a_linear_network_by_hand() -> None:
    """Margins y0 - y1 = x1 - x2 and y0 - y2 = 2 x1 + x2; at radius r they lose 2 r and 3 r."""
    images = data_set([[3.0, 1.0], [3.0, 2.5], [1.0, 2.0], [2.0, 2.0]], [0, 0, 0, 0])
    found = outcomes(ByAnalysis(Question(ROWS, images, 0.5), "ibp"), range(4))
    assert [outcome.status for outcome in found] == ["certified", "unknown", "falsified", "falsified"]
    assert [outcome.predicted for outcome in found] == [0, 0, 1, None]  # a tie has no class, and counts as wrong
    assert [outcome.method for outcome in found] == ["ibp", None, "clean", "clean"]
    assert found[0].bound == pytest.approx(1.0)
    assert found[1].bound == pytest.approx(-0.5)
    assert found[2].bound is None
    assert found[0].tolerance is not None
    assert 0 < found[0].tolerance < 1e-8
    assert set(found[2].stages) == {"clean"}
    assert set(found[0].stages) == {"clean", "ibp"}


def test_a_margin_of_zero_is_not_certified() -> None:
    images = data_set([[3.0, 2.0]], [0])
    (outcome,) = outcomes(ByAnalysis(Question(ROWS, images, 0.5), "ibp"), [0])
    assert outcome.status == "unknown"
    assert outcome.bound == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp"])
def test_batches_agree_with_margins(norm: str, method: str) -> None:
    question = Question(network(), digits("test"), 0.05, norm, (0.0, 1.0))  # type: ignore[arg-type]
    places = [5, 3, 8, 13, 21]
    found = outcomes(ByAnalysis(question, method, Settings(batch=2)), places)
    assert [outcome.index for outcome in found] == places
    images = question.take(places)
    lower = margins(network(), question.region(images), images.labels, method)
    lower.scatter_(1, images.labels[:, None], torch.inf)
    for outcome, margin in zip(found, lower.min(dim=1).values, strict=True):
        assert outcome.bound == pytest.approx(float(margin), abs=1e-4)
        assert (outcome.status == "certified") == (float(margin) > 0)


def test_float32_decides_what_float64_decides() -> None:
    """Whatever is close is asked again, and what float32 decides alone is off by less than its tolerance."""
    for eps in (0.02, 0.04):
        question = Question(network(), digits("test"), eps, clip=(0.0, 1.0))
        exact = outcomes(ByAnalysis(question, "crown"), range(24))
        quick = outcomes(ByAnalysis(question, "crown", Settings(torch.float32)), range(24))
        for one, other in zip(exact, quick, strict=True):
            assert one.status == other.status
            if one.bound is not None and other.bound is not None and other.tolerance is not None:
                assert abs(one.bound - other.bound) <= max(other.tolerance, 1e-12)


def test_float32_asks_again_where_it_is_too_close_to_tell() -> None:
    question = Question(ROWS, data_set([[3.0, 2.0 - 1e-6], [3.0, 1.0]], [0, 0]), 0.5)
    close, far = outcomes(ByAnalysis(question, "ibp", Settings(torch.float32)), [0, 1])
    assert (close.status, far.status) == ("certified", "certified")
    assert "float64" in close.stages
    assert "float64" not in far.stages
    assert close.bound == pytest.approx(2e-6 / 2, rel=0.2)


@pytest.mark.parametrize(
    "method", [name for name in METHODS if CATALOG[name].kind == "analysis" and name not in ("gap", "forward")]
)
def test_what_is_certified_withstands_attacks(method: str) -> None:
    found = outcomes(ByAnalysis(attacked_question(), method), range(16))
    certified = {outcome.index for outcome in found if outcome.status == "certified"}
    assert certified or method in ("interval", "ibp", "improved-interval")
    assert not certified & attacked()


def attacked_question() -> Question:
    return Question(network(), digits("test"), 0.1, clip=(0.0, 1.0))


@cache
def attacked() -> set[int]:
    """The images of the first 16 that an attack finds a counterexample for."""
    found = set()
    for index in range(16):
        images = attacked_question().take([index])
        region = attacked_question().region(images).inner(torch.float32)
        prop = robust(int(images.labels[0])).bind(64, 10)
        if pgd(network(), [region], prop, Pgd(10, 2), lambda point: True) is not None:
            found.add(index)
    assert found
    return found


def test_a_driver_decides_both_ways() -> None:
    images = data_set([[3.0, 1.0], [3.0, 2.5], [1.0, 2.0]], [0, 0, 0])
    found = outcomes(ByDriver(Question(ROWS, images, 0.5), Options(timeout=20)), range(3))
    assert [outcome.status for outcome in found] == ["certified", "falsified", "falsified"]
    assert found[2].method == "clean"
    assert verify(ROWS, Linf(torch.tensor([[3.0, 2.5]]), 0.5), robust(0)).verdict == "falsified"


@pytest.mark.parametrize("method", ["stability", "canonicalize", "", "gap", "singleprop-zero", "ibp,dual-proj"])
def test_what_gives_no_bounds_is_refused(method: str) -> None:
    with pytest.raises(UsageError):
        outcomes(ByAnalysis(Question(ROWS, data_set([[3.0, 1.0]], [0]), 0.5), method), [0])


@dataclass(frozen=True)
class Changing(Rewrite):
    """A rewrite that changes the function."""

    name = "changing"
    keeps_function = False

    def run(self, state: State) -> Graph:
        raise AssertionError("not reached")


def test_a_rewrite_that_changes_the_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("changing", "rewrite", f"{__name__}:Changing", "A test.")
    monkeypatch.setitem(CATALOG, "changing", entry)
    load = Entry.load
    monkeypatch.setattr(Entry, "load", lambda self: Changing if self is entry else load(self))
    with pytest.raises(UsageError, match="changing would leave another function"):
        ByAnalysis(Question(ROWS, data_set([[3.0, 1.0]], [0]), 0.5), "changing,ibp")


@dataclass
class Lacking(ByAnalysis):
    """Has no rule for some operator of the network."""

    def _bounds(self, images, graph):  # type: ignore[no-untyped-def]
        raise UnsupportedError("no rule for one of the values", items=["%s = strange"])


def test_missing_rules_stop_the_sweep() -> None:
    with pytest.raises(UnsupportedError, match="no rule"):
        outcomes(Lacking(Question(ROWS, data_set([[1.0, 0.0]], [0]), 0.1), "crown"), [0])


@dataclass
class Faulty(ByAnalysis):
    """Fails for batches that hold image 2."""

    def _bounds(self, images, graph):  # type: ignore[no-untyped-def]
        if 2 in images.indices:
            raise BoundsFault("crossed")
        return super()._bounds(images, graph)


def test_a_fault_is_an_error_of_its_own_image() -> None:
    images = data_set([[3.0, 1.0]] * 5, [0] * 5)
    found = outcomes(Faulty(Question(ROWS, images, 0.5), "ibp"), range(5))
    assert [outcome.status for outcome in found] == ["certified", "certified", "error", "certified", "certified"]
    assert found[2].reason == "crossed"


def test_a_fault_of_the_driver_is_an_error_of_its_own_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*arguments: object) -> None:
        raise BoundsFault("crossed")

    monkeypatch.setattr(bounding, "_bound", faulty)
    images = data_set([[3.0, 1.0], [1.0, 2.0]], [0, 0])
    found = outcomes(ByDriver(Question(ROWS, images, 0.5), Options(timeout=20)), range(2))
    assert [(outcome.status, outcome.reason) for outcome in found] == [("error", "crossed"), ("falsified", None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sweep_sees_the_parameters_of_its_day(dtype: torch.dtype) -> None:
    graph = parse_graph("""
graph "two" {
  %x: f32[2] = input()
  %y = linear(%x) {weight=tensor([[1, 0], [0, 1]])}
  return %y
}
""")
    sweep = ByAnalysis(Question(graph, data_set([[3.0, 1.0]], [0]), 0.5), "crown", Settings(dtype))
    assert outcomes(sweep, [0])[0].status == "certified"
    with torch.no_grad():
        graph.leaves[0][0, 0] = 0.5  # the margin at the image is 0.5, and falls by 0.75
    assert outcomes(sweep, [0])[0].status == "unknown"


@dataclass
class Small(ByAnalysis):
    """Has memory for two images."""

    def _bounds(self, images, graph):  # type: ignore[no-untyped-def]
        if len(images) > 2:
            raise MemoryError
        return super()._bounds(images, graph)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    images = data_set([[3.0, 1.0]] * 5, [0] * 5)
    found = outcomes(Small(Question(ROWS, images, 0.5), "ibp"), range(5))
    assert [outcome.status for outcome in found] == ["certified"] * 5


def test_outputs_that_are_not_finite_decide_nothing() -> None:
    graph = parse_graph('graph "t" {\n%x: f32[2] = input()\n%y = exp(%x)\nreturn %y\n}')
    images = DataSet("points", np.array([[200.0, 1.0], [2.0, 1.0]], dtype=np.float32), np.array([1, 0]), (0.0, 300.0))
    found = outcomes(ByAnalysis(Question(graph, images, 0.1), "ibp"), range(2))
    assert [outcome.status for outcome in found] == ["error", "certified"]
    assert not found[0].correct


def test_questions_that_make_no_sense() -> None:
    with pytest.raises(PropertyError, match=r"expected images of shape \[2\], got \[3\]"):
        Question(ROWS, data_set([[1.0, 2.0, 3.0]], [0]), 0.1)
    with pytest.raises(PropertyError, match="image 0 has label 7, expected 0 to 2"):
        Question(ROWS, data_set([[1.0, 2.0]], [7]), 0.1).take([0])
    with pytest.raises(PropertyError, match="inside the range"):
        Question(ROWS, data_set([[1.0, 2.0]], [0]), 0.1, clip=(0.0, 1.0))


def test_counts_add_up() -> None:
    images = data_set([[3.0, 1.0], [3.0, 2.5], [1.0, 2.0]], [0, 0, 0])
    found = outcomes(ByAnalysis(Question(ROWS, images, 0.5), "ibp"), range(3))
    sweep = Sweep(0.5, (0, 1, 2), {outcome.index: outcome for outcome in found}, 1.0)
    said = sweep.content()
    assert (said["n"], said["correct"], said["certified"], said["falsified"], said["unknown"]) == (3, 2, 1, 1, 1)
    stages = sweep.per_stage()
    assert stages["clean"]["falsified"] == 1
    assert stages["ibp"]["certified"] == 1


def test_accuracies_as_in_the_paper() -> None:
    """Of 8 images one is misclassified, two are broken by attacks, one by the program, two are certified."""
    done = [
        Outcome(0, 5, "falsified", 4, CLEAN),
        Outcome(1, 5, "falsified", 5, "pgd", attacked=True),
        Outcome(2, 5, "falsified", 5, "pgd", attacked=True, unstable=10),
        Outcome(3, 5, "falsified", 5, "milp", attacked=False, unstable=30, build_seconds=1.0, solve_seconds=2.0),
        Outcome(4, 5, "certified", 5, "ibp"),
        Outcome(5, 5, "certified", 5, "milp", attacked=False, unstable=50, build_seconds=2.0, solve_seconds=6.0),
        Outcome(6, 5, "timeout", 5, attacked=False, build_seconds=3.0, solve_seconds=7.0),
        Outcome(7, 5, "error", 5),
    ]
    sweep = Sweep(0.1, tuple(range(9)), {outcome.index: outcome for outcome in done})
    assert sweep.accuracies() == Accuracies(7 / 8, 5 / 8, 4 / 8, 2 / 8, 30.0, 3, 2.0, 5.0)
    assert (sweep.content()["n"], sweep.content()["asked"]) == (8, 9)
    lines = sweep_tables([sweep]).splitlines()
    assert lines[2].split()[:3] == ["0.1", "8", "of"]
    cells = ["0.1", "87.50", "%", "62.50", "%", "50.00", "%", "25.00", "%", "30.00", "3", "2.00", "5.00"]
    assert cells in [line.split() for line in lines]


def test_nothing_is_made_up_for_a_table() -> None:
    """Without an attack on an image that is still open nobody knows how attacks fare."""
    unknown = Outcome(0, 5, "unknown", 5)
    assert Sweep(0.1, (0,), {0: unknown}).accuracies() == Accuracies(1.0, None, 1.0, 0.0, None, 0, None, None)
    assert Sweep(0.1, (0,)).accuracies() == Accuracies(None, None, None, None, None, 0, None, None)


def test_the_stage_that_decides() -> None:
    stages = {"clean": 0.1, "ibp": 0.1, "crown": 0.1}
    assert Outcome(0, 5, "certified", 5, "ibp & crown", stages=stages).decided_by == "crown"
    assert Outcome(0, 5, "falsified", 4, "clean", stages=stages).decided_by == "clean"
    assert Outcome(0, 5, "unknown", 5, stages=stages).decided_by is None


@given(memory=st.integers(1, 2**40))
def test_batches_fit_the_memory(memory: int) -> None:
    batch = batch_size(ROWS, memory, "cpu")
    assert batch >= 1
    assert batch == 1 or batch * bytes_per_image(ROWS) <= memory
