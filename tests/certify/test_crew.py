"""Worker processes: what kills one costs one image, and what makes all of them useless stops the sweep."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irverify.certify import ByAnalysis, Certifier, Crew, Outcome, Question
from irverify.certify import crew as module
from irverify.certify.certifier import Maker, in_this_process, isolated
from irverify.certify.crew import CHUNK, _Work
from irverify.certify.messages import Setup
from irverify.data import DataSet
from irverify.errors import IRVerifyError, UsageError
from irverify.ir.text import parse_graph

TWO = """
graph "two" {
  %x: f32[2] = input()
  %y = linear(%x) {weight=tensor([[1, 0], [0, 1]])}
  return %y
}
"""


def question(count: int) -> Question:
    """Image i has margin i - 0.5 in its middle."""
    images = np.array([[index, 0.5] for index in range(count)], dtype=np.float32)
    return Question(parse_graph(TWO), DataSet("points", images, np.zeros(count, np.int64), (-99.0, 99.0)), 0.1)


@dataclass
class Dangerous:
    """Decides by intervals; some images are dangerous."""

    question: Question

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        for index in indices:
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if index == 3:
                raise ZeroDivisionError("a fault")
            if index == 4:
                np.ones(2**31, dtype=np.uint8)
            yield from ByAnalysis(self.question, "ibp").outcomes([index])


@dataclass(frozen=True)
class DangerousRecipe:
    def __call__(self) -> Maker:
        return lambda eps: Dangerous(question(8).at(eps)) if eps < 99 else refuse()


def refuse() -> Certifier:
    raise UsageError("no such thing", where="here")


def dying() -> Maker:
    sys.exit("died early")


def sleeping() -> Maker:
    return lambda eps: Sleeping(question(3))


@dataclass
class Sleeping:
    """Never comes back from image 1."""

    question: Question

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        for index in indices:
            if index == 1:
                time.sleep(600)
            yield [Outcome(index, 0, "unknown")]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs /proc")
def test_what_goes_wrong_with_an_image_costs_that_image() -> None:
    with Crew(question(8), Setup(DangerousRecipe(), 1, 2**30), 1) as crew:
        found = {outcome.index: outcome for outcome in crew.outcomes(0.1, range(8))}
        assert sorted(found) == list(range(8))
        assert [found[index].status for index in (0, 1)] == ["falsified", "certified"]
        assert [found[index].status for index in (5, 6, 7)] == ["certified"] * 3
        assert [found[index].status for index in (2, 3, 4)] == ["error"] * 3
        assert found[2].reason == "its worker process was killed by SIGKILL, as happens where memory runs out"
        assert found[3].reason == "ZeroDivisionError: a fault"
        assert "allocate" in str(found[4].reason)
        again = list(crew.outcomes(9.0, [7]))  # the same worker, at another radius
        assert [outcome.status for outcome in again] == ["unknown"]
        with pytest.raises(UsageError, match="here: no such thing"):  # what concerns all images stops the sweep
            list(crew.outcomes(100.0, [7]))


def test_workers_that_cannot_start_stop_the_sweep() -> None:
    with (
        Crew(question(3), Setup(dying, 1), 1) as crew,
        pytest.raises(IRVerifyError, match="worker process ended with code 1: died early before it could begin"),
    ):
        list(crew.outcomes(0.1, range(3)))


def test_a_worker_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 1.0)
    with Crew(question(2), Setup(sleeping, 1), 1, limit=0.1) as crew:
        found = {outcome.index: outcome for outcome in crew.outcomes(0.1, range(2))}
    assert [found[index].status for index in range(2)] == ["unknown", "timeout"]
    assert "no answer" in str(found[1].reason)


def test_faults_are_kept_to_their_image() -> None:
    @dataclass
    class Faulty:
        question: Question
        asked: list[tuple[int, ...]]

        def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
            self.asked.append(tuple(indices))
            yield [Outcome(index, 0, "certified") for index in indices[:2] if index != 5]
            if 5 in indices:
                raise RuntimeError("a fault")
            yield [Outcome(index, 0, "certified") for index in indices[2:]]

    faulty = Faulty(question(9), [])
    found = {outcome.index: outcome for part in isolated(faulty, range(9)) for outcome in part}
    assert {index for index, outcome in found.items() if outcome.status == "error"} == {5}
    assert found[5].reason == "RuntimeError: a fault"
    assert len(found) == 9
    assert faulty.asked[0] == tuple(range(9))
    assert faulty.asked[1] == (2, 3, 4, 5)


def test_a_certifier_that_forgets_an_image() -> None:
    class Forgetful:
        question = question(2)

        def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
            yield [Outcome(index, 0, "certified") for index in indices if index != 1]

    source = in_this_process(lambda eps: Forgetful())
    assert {outcome.index: outcome.status for outcome in source(0.1, [0, 1])} == {0: "certified", 1: "error"}
    assert list(source(0.1, [])) == []


def test_a_fault_behind_the_last_outcome_is_nobodys() -> None:
    class Late:
        question = question(2)

        def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
            yield [Outcome(index, 0, "certified") for index in indices]
            raise RuntimeError("a fault")

    for indices in ([0], [0, 1]):
        found = [outcome.index for part in isolated(Late(), indices) for outcome in part]
        assert found == indices


def test_errors_of_the_whole_sweep_are_raised() -> None:
    class Refusing:
        question = question(2)

        def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
            raise UsageError("no")

    certifier: Certifier = Refusing()
    with pytest.raises(UsageError):
        list(isolated(certifier, [0, 1]))


@given(count=st.integers(1, 400), workers=st.integers(1, 9))
def test_chunks_get_smaller_towards_the_end(count: int, workers: int) -> None:
    work = _Work(deque(range(count)), deque())
    chunks = []
    while work.fresh:
        chunks.append(work.take(workers, CHUNK))
    assert [index for chunk in chunks for index in chunk] == list(range(count))
    sizes = [len(chunk) for chunk in chunks]
    assert max(sizes) <= CHUNK
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
