"""The script that runs VNN-COMP instances: what it reads, keeps and counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.draw import category, draw
from benchmarks.vnncomp import Instance, Row, earlier, instances, listed, rewrite, summary

ROW = Row("a.onnx", "p.vnnlib", "10", "unsat", "unsat", "1.25", "ibp", "said, with a comma")


def test_instances_with_and_without_known_verdicts(tmp_path: Path) -> None:
    (tmp_path / "instances.csv").write_text("a.onnx,p.vnnlib,60\n")
    assert list(instances(tmp_path, None, "1.0")) == [Instance("a.onnx", "p.vnnlib", 60.0, "")]
    (tmp_path / "expected.csv").write_text("onnx,vnnlib,timeout,vnnlib2,expected\na.onnx,p.vnnlib,60,,sat\n")
    assert list(instances(tmp_path, 5.0, "1.0")) == [Instance("a.onnx", "p.vnnlib", 5.0, "sat")]
    assert list(instances(tmp_path, 5.0, "2.0")) == []


def test_rows_survive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "out" / "x.csv"
    rewrite(file, [ROW])
    with file.open("a", encoding="utf-8") as out:
        out.write("b.onnx,p.vnn")
    assert earlier(file) == {ROW.key: ROW}
    assert earlier(tmp_path / "none.csv") == {}


def test_wrong_verdicts_are_counted() -> None:
    rows = [
        ROW,
        Row("b.onnx", "p", "10", "sat", "unsat", "1", "ibp", ""),
        Row("c.onnx", "p", "10", "sat", "timeout", "10", "", ""),
        Row("d.onnx", "p", "10", "", "sat", "10", "", ""),
    ]
    assert summary("x", rows).splitlines() == [
        "x: 4 instances, 22 s in all",
        "  expected unknown: 1 sat",
        "  expected sat: 1 timeout, 1 unsat",
        "  expected unsat: 1 unsat",
        "  wrong: 1",
        "    b.onnx p: unsat, expected sat",
    ]


def test_a_drawn_list_is_fixed_and_takes_all_categories_in_turn() -> None:
    known = [
        Instance(f"onnx/net_256x{width}.onnx", f"prop_{number}_{radius}.vnnlib", 60.0, expected)
        for width in (2, 4)
        for radius in (0.03, 0.05)
        for number, expected in enumerate(["unsat"] * 9 + ["sat"])
    ]
    drawn = draw([*known, Instance("onnx/net_256x2.onnx", "prop_99_0.03.vnnlib", 60.0, "")], 12, seed=0)
    assert draw(known, 12, seed=0) == drawn != draw(known, 12, seed=1)
    assert Counter(category(instance) for instance in drawn) == Counter(
        {category(instance): 1 if instance.expected == "sat" else 2 for instance in drawn}
    )
    assert len(draw(known, 1000, seed=0)) == len(known)


def test_a_list_names_instances_of_several_benchmarks(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("benchmark,network,query,expected\na,x.onnx,p,sat\nb,y.onnx,q,unsat\na,z.onnx,p,\n")
    found = listed(file, 60.0)
    assert found["a"] == [Instance("x.onnx", "p", 60.0, "sat"), Instance("z.onnx", "p", 60.0, "")]
    assert found["b"] == [Instance("y.onnx", "q", 60.0, "unsat")]


def test_the_list_in_the_repository() -> None:
    found = listed(Path(__file__).resolve().parents[2] / "benchmarks" / "instances60.csv", 60.0)
    assert {name: len(members) for name, members in found.items()} == {"acasxu": 30, "mnistfc": 30}
    assert {instance.expected for members in found.values() for instance in members} == {"sat", "unsat"}
