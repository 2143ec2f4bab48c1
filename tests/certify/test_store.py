"""What is decided stays decided, whatever happens; what cannot be kept is told, and never mixed up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.certify import Outcome, Question, Store
from irverify.certify import store as module
from irverify.certify.fingerprint import identity
from irverify.certify.outcome import STATUSES
from irverify.certify.store import FILE, Stored
from irverify.data import DataSet
from irverify.errors import FileError, UsageError
from irverify.ir.graph import Graph
from irverify.ir.text import parse_graph

WHO = {"network": "one", "method": "crown"}
TWO = """
graph "two" {
  %x: f32[2] = input()
  %y = linear(%x) {weight=tensor([[1, 0], [0, 1]])}
  return %y
}
"""


def outcome(index: int, status: str = "certified") -> Outcome:
    return Outcome(index, 3, status, reason=f"image {index}")  # type: ignore[arg-type]


texts, numbers = st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False)
outcomes = st.builds(
    Outcome, st.integers(0, 2**40), st.integers(0, 9), st.sampled_from(STATUSES), st.none() | st.integers(0, 9),
    st.none() | texts, st.none() | numbers, st.none() | numbers, st.none() | texts, st.dictionaries(texts, numbers),
    st.none() | st.booleans(), st.none() | st.integers(0, 2**40), st.none() | numbers, st.none() | numbers,
)  # fmt: skip


@settings(max_examples=10)
@given(
    kept=st.lists(outcomes, min_size=1, max_size=8, unique_by=lambda kept: kept.index),
    eps=st.floats(0, 1e9),
    limit=st.none() | st.floats(0, 1e9),
)
def test_outcomes_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, kept: list[Outcome], eps: float, limit: float | None
) -> None:
    folder = tmp_path_factory.mktemp("store")
    indices = [one.index for one in kept]
    with Store(folder, WHO) as store:
        for one in kept:
            store.record(eps, one, limit, 1.5)
    with Store(folder, WHO) as store:
        assert store.stored(eps, indices) == {one.index: Stored(one, limit, 1) for one in kept}
        assert store.stored(eps, [max(indices) + 1]) == {}
        assert store.stored(eps + 1, indices) == {}
        assert (store.seconds(eps), store.seconds(eps + 1)) == (1.5 * len(kept), 0.0)


def test_what_is_decided_stays() -> None:
    assert Stored(outcome(1, "certified"), None, 1).final(9.0)
    assert Stored(outcome(1, "unknown"), 1.0, 1).final(9.0)
    assert not Stored(outcome(1, "error"), None, 1).final(None)
    timeouts = {
        (stored, asked): Stored(outcome(1, "timeout"), stored, 1).final(asked)
        for stored in (5.0, None)
        for asked in (4.0, 5.0, 6.0, None)
    }
    assert [pair for pair, final in timeouts.items() if not final] == [(5.0, 6.0), (5.0, None)]


def test_nothing_is_decided_twice(tmp_path: Path) -> None:
    with Store(tmp_path, WHO) as store:
        for status in ("error", "timeout", "certified"):
            store.record(0.1, outcome(7, status), 2.0, 1.0)
        assert store.stored(0.1, [7])[7].attempts == 3
        with pytest.raises(RuntimeError, match="image 7 is decided twice"):
            store.record(0.1, outcome(7, "falsified"), 2.0, 1.0)
        assert store.stored(0.1, [7])[7].outcome.status == "certified"
        assert store.seconds(0.1) == 3.0
        store.record(0.2, outcome(7, "falsified"), 2.0, 1.0)


def test_another_question_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, WHO).close()
    with pytest.raises(UsageError, match=r"another question: method crown, not ibp \(give another folder"):
        Store(tmp_path, {**WHO, "method": "ibp"})
    with pytest.raises(UsageError, match="seed unknown, not 1"):
        Store(tmp_path, {**WHO, "seed": "1"})
    with pytest.raises(UsageError, match="more than is asked"):
        Store(tmp_path, {"method": "crown"})
    Store(tmp_path, WHO).close()


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.0)
    with Store(tmp_path, WHO) as store, pytest.raises(FileError, match="in use by another sweep"):
        Store(tmp_path, WHO)
    with pytest.raises(FileError, match="closed"):
        store.record(0.1, outcome(1), None, 0.0)
    Store(tmp_path, WHO).close()


@contextmanager
def changed(folder: Path, statement: str) -> Iterator[Path]:
    """A store with two outcomes, after somebody has run a statement on it."""
    with Store(folder, WHO) as store:
        store.record(0.1, outcome(1), None, 0.0)
        store.record(0.1, outcome(2), None, 0.0)
    connection = sqlite3.connect(folder / FILE)
    connection.execute(statement)
    connection.commit()
    connection.close()
    yield folder


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA application_id = 5", "expected a store of outcomes in format 1, got another database"),
        ("PRAGMA user_version = 2", "got a store in format 2"),
        ("DROP TABLE identity", "no such table"),
    ],
)
def test_other_databases_are_left_alone(tmp_path: Path, statement: str, message: str) -> None:
    with changed(tmp_path, statement) as folder, pytest.raises(FileError, match=message):
        Store(folder, WHO)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"index": 1}', '{"index": 1, "new": 2}'])
def test_rows_that_are_no_outcomes(tmp_path: Path, content: str) -> None:
    with (
        changed(tmp_path, f"UPDATE outcome SET content = '{content}' WHERE image = 1") as folder,
        Store(folder, WHO) as store,
        pytest.raises(FileError, match=r"broken one: .*move it away"),
    ):
        store.stored(0.1, [1, 2])


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="unable to open"):
        Store(tmp_path / "missing", WHO)
    (tmp_path / FILE).write_bytes(b"something else" * 100)
    with pytest.raises(FileError, match="not a store of outcomes, or a broken one"):
        Store(tmp_path, WHO)
    assert (tmp_path / FILE).read_bytes().startswith(b"something else")


def test_damaged_pages(tmp_path: Path) -> None:
    with Store(tmp_path, WHO) as store:
        for index in range(300):
            store.record(0.1, outcome(index), None, 0.0)
    data = bytearray((tmp_path / FILE).read_bytes())
    assert len(data) > 5 * 4096
    data[4 * 4096 : 5 * 4096] = b"\xaa" * 4096
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(FileError, match="broken one"):
        Store(tmp_path, WHO)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond a size."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    stored = 0
    with Store(tmp_path, WHO) as store:
        with pytest.raises(FileError, match=r"cannot be written.*the same command goes on"), small_disk(400_000):
            for index in range(1000):
                store.record(0.1, outcome(index), None, 1.0)
                stored = index + 1
        assert 10 < stored < 1000
        assert len(store.stored(0.1, range(1000))) == stored
        store.record(0.1, outcome(stored), None, 1.0)  # there is room again
    with Store(tmp_path, WHO) as store:
        assert set(store.stored(0.1, range(1000))) == set(range(stored + 1))
        assert store.seconds(0.1) == stored + 1


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    with small_disk(0), pytest.raises(FileError, match="cannot be written"):
        Store(tmp_path, WHO)
    Store(tmp_path, WHO).close()


def points(values: list[list[float]], name: str = "points") -> DataSet:
    return DataSet(name, np.array(values, dtype=np.float32), np.zeros(len(values), dtype=np.int64), (-9.0, 9.0))


def test_questions_are_told_apart_by_what_they_say_not_by_names() -> None:
    graph = parse_graph(TWO)
    question = Question(graph, points([[3.0, 1.0]]), 0.5)

    def of(changed: Question, **method: str) -> dict[str, str]:
        return identity(changed, {"method": "crown", **method})

    known = of(question)
    assert of(Question(Graph(graph.nodes, graph.outputs, "other"), points([[3.0, 1.0]], "elsewhere"), 0.7)) == known
    other = parse_graph(TWO)
    with torch.no_grad():
        other.leaves[0][0, 0] += 1e-6
    different = {
        "network": replace(question, graph=other),
        "data": replace(question, images=points([[3.0, 1.0], [0.0, 0.0]])),
        "norm": replace(question, norm="2"),
        "clip": replace(question, clip=(-9.0, 9.0)),
    }
    for part, asked in different.items():
        assert {name for name, says in of(asked).items() if says != known[name]} == {part}
    assert of(question, method="ibp") != known
    labels = replace(question.images, labels=np.ones(1, dtype=np.int64))
    assert of(replace(question, images=labels))["data"] != known["data"]
