"""The benchmark of bounds: what counts as looser, what is timed, and where the tables go."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import irverify as iv
from benchmarks import bounds, measure
from benchmarks.cases import Problem
from benchmarks.cell import Cell, Side, certified, looseness
from benchmarks.lirpa import Module, competitors, others
from irverify.data import DIGITS_NETWORK, digits


def side(*margins: float) -> Side:
    return Side(1.0, 1.0, torch.tensor([margins]))


def test_looser_is_relative_and_nan_is_looser() -> None:
    theirs = side(10.0, 1.0, -1.0)
    assert looseness(side(10.00001, 0.99995, -0.5), theirs).count == 0
    found = looseness(side(9.0, 2.0, -1.0), theirs)
    assert (found.count, found.total) == (1, 3)
    assert found.means == pytest.approx((10 / 3, 10 / 3))
    assert found.most == pytest.approx(0.1)
    assert looseness(side(float("nan"), 1.0, -1.0), theirs).count == 1


def test_only_the_images_that_both_have_are_compared() -> None:
    mine, theirs = Side(1.0, 1.0, torch.tensor([[1.0, 3.0], [9.0, 9.0]])), Side(None, None, torch.tensor([[2.0, 2.0]]))
    found = looseness(mine, theirs)
    assert (found.count, found.total, found.means) == (1, 2, (2.0, 2.0))
    row = bounds._text(Cell("net", "crown", 2, mine, None, theirs, "not run"))
    assert row[3:9] == ("1000", "", "", "", "1.0", "")
    assert row[9:] == ("2 of 2", "1 of the first 1", "2", "2", "1 of 2, at most by 5.0e-01", "not run")
    assert len(row) == len(bounds.HEADER)


def test_certified_needs_every_margin() -> None:
    assert certified(Side(1.0, 1.0, torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, float("nan")]]))) == 1


def test_both_sides_are_given_the_same_question() -> None:
    data = digits("test")
    clean = torch.from_numpy(data.images[:3])
    problem = Problem(iv.compile(DIGITS_NETWORK), iv.Box(clean, clean), torch.from_numpy(data.labels[:3]))
    module = Module(problem.graph)
    theirs = torch.einsum("bso,bo->bs", competitors(problem), module(clean))
    ours = iv.margins(problem.graph, problem.region, problem.labels)[others(problem.labels, 10)].reshape(3, 9)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = measure.interleaved({name: partial(order.append, name) for name in "ab"}, 10.0, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 3, "b": 3}
    assert len(measure.interleaved({"a": lambda: None}, 0.0, 3).seconds["a"]) == 1


def test_quick_calls_in_a_row() -> None:
    order: list[str] = []
    times = measure.interleaved({name: partial(order.append, name) for name in "ab"}, 0.0, 3, "b")
    assert order == ["a", *"b" * (measure.ROW + 1)]
    assert (len(times.seconds["b"]), times.number) == (measure.ROW, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_children_are_measured_and_ended() -> None:
    # No tensors in here: OpenMP's threads do not survive a fork, and tests before this one have used them.
    assert measure.in_child(lambda: measure.peak_of(lambda: b"x" * 2**25)[1] > 30, 30.0, 4.0)
    with pytest.raises(measure.MeasurementError, match="ValueError: no"):
        measure.in_child(_fails, 30.0, 4.0)
    with pytest.raises(measure.MeasurementError, match=r"over 0\.2 s"):
        measure.in_child(lambda: time.sleep(30), 0.2, 4.0)
    with pytest.raises(measure.MeasurementError, match="out of memory"):
        measure.in_child(lambda: len(bytearray(2**31)), 30.0, 1.0)


def test_memory_that_is_allocated() -> None:
    pytest.importorskip("memray")
    measure.allocated_by(lambda: None)  # what memray itself needs
    found = measure.allocated_by(lambda: (b"x" * 2**20, b"y" * 2**21)[:0])
    assert found is not None
    assert 3 <= found[1] < 3.1
    assert found[2] == ()


def _fails() -> None:
    raise ValueError("no")


def test_tables_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "PERFORMANCE.md"
    file.write_text("# Rows\n\n| a |\n", encoding="utf-8")
    monkeypatch.setattr(bounds, "PERFORMANCE", file)
    for text in ("first", "second"):
        bounds._write([text])
    assert file.read_text(encoding="utf-8") == (
        f"# Rows\n\n| a |\n\n## Bounds of margins\n\n{bounds.BEGIN}\nsecond\n{bounds.END}\n"
    )
