"""The script that runs VNN-COMP instances: what it reads, keeps and counts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.vnncomp import Instance, Row, earlier, instances, rewrite, summary

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
