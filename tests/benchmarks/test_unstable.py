"""The count of unstable ReLUs: its table, and a store that a run can go on from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import unstable
from benchmarks.unstable import METHODS, Count


def count(image: int, exact: int, naive: int) -> Count:
    layers = {name: [2, exact] for name in METHODS} | {"naive IA": [2, naive]}
    return Count("demo", image, 1.0, layers, dict.fromkeys(METHODS, 0.5), image)


def test_the_table_says_what_is_above_the_exact_count() -> None:
    lines = unstable.table([count(0, 3, 6), count(1, 5, 6)]).splitlines()
    assert lines[2] == "| exact | 2.00 | 4.00 | 0.50 |"
    assert lines[6] == "| naive IA | 2.00 | 6.00 (+50.0 %) | 0.50 |"
    assert lines[-1] == "demo, 2 images; 1 programs ended by the limit of 1 s"
    assert unstable.summary([count(0, 3, 6), count(1, 5, 6)])["unstable"] == {
        **{name: [2.0, 4.0] for name in METHODS},
        "naive IA": [2.0, 6.0],
    }


def test_a_run_goes_on_from_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "counts.jsonl"
    unstable._append(store, count(0, 3, 6))
    with store.open("a", encoding="utf-8") as file:
        file.write('{"network": "de')  # killed in the middle of a line
    unstable._append(store, count(1, 4, 6))
    assert unstable._kept(store, "demo", 1.0) == {0: count(0, 3, 6), 1: count(1, 4, 6)}
    assert not unstable._kept(store, "demo", 2.0) and not unstable._kept(None, "demo", 1.0)
    asked = []

    def counted(*arguments: object) -> Count:
        asked.append(arguments[3])
        return count(2, 5, 6)

    monkeypatch.setattr(unstable, "counted", counted)
    given = ["unstable", "--network", "demo", "--first", "3", "--limit", "1", "--store", str(store), "--json"]
    monkeypatch.setattr(sys, "argv", given)
    unstable.main()
    assert asked == [2] and set(unstable._kept(store, "demo", 1.0)) == {0, 1, 2}
