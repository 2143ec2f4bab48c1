"""All shared VNN-LIB files read, and quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from irverify.frontends.vnnlib import parse_query


def files(shared_data: Path, pattern: str) -> list[Path]:
    return sorted(shared_data.glob(f"vnncomp/*/{pattern}/*.vnnlib*"))


@pytest.mark.parametrize(("folder", "least"), [("vnnlib", 80), ("vnnlib2", 40)])
def test_every_file_reads(shared_data: Path, folder: str, least: int) -> None:
    if folder == "vnnlib2":
        pytest.importorskip("vnnlib")
    found = files(shared_data, folder)
    assert len(found) >= least
    for file in found:
        query = parse_query(file)
        assert query.version == ("2.0" if folder == "vnnlib2" else "1.0")
        assert all(case.prop.disjuncts for case in query.cases)


def test_acasxu_means_the_same_in_both_versions(shared_data: Path) -> None:
    pytest.importorskip("vnnlib")
    folder = shared_data / "vnncomp" / "acasxu"
    for number in range(1, 11):
        first = parse_query(folder / "vnnlib" / f"prop_{number}.vnnlib")
        second = parse_query(folder / "vnnlib2" / f"prop_{number}.v2.vnnlib.gz")
        for one, two in zip(first.cases, second.cases, strict=True):
            assert (one.lower, one.upper) == (two.lower, two.upper)
            rows = [[disjunct.rows for disjunct in case.prop.disjuncts] for case in (one, two)]
            assert rows[0] == rows[1]


def test_two_boxes_of_property_6(shared_data: Path) -> None:
    query = parse_query(shared_data / "vnncomp" / "acasxu" / "vnnlib" / "prop_6.vnnlib")
    assert [len(case.prop.disjuncts) for case in query.cases] == [4, 4]


def test_an_mnist_file_takes_a_moment(shared_data: Path) -> None:
    file = shared_data / "vnncomp" / "mnistfc" / "vnnlib" / "prop_0_0.03.vnnlib.gz"
    took = []
    for _ in range(3):  # what garbage and threads of other tests take is not the reader's time
        start = time.thread_time()
        query = parse_query(file)
        took.append(time.thread_time() - start)
    assert min(took) < 0.5  # 0.06 s on an idle machine
    assert (query.n_in, query.n_out, len(query.cases), len(query.cases[0].prop.disjuncts)) == (784, 10, 1, 9)
