"""Public instances through the command line, a process each, against the verdicts that are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.vnncomp import Instance, instances, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["test_nano", "test_tiny", "test_small", "test_sat", "test_unsat"])
def test_small_instances(shared_data: Path, name: str) -> None:
    folder = shared_data / "vnncomp" / "test"
    (instance,) = [one for one in instances(folder, 60.0, "1.0") if one.network == f"onnx/{name}.onnx"]
    row = run(folder, instance, 1, [])
    assert row.result == ("sat" if name == "test_sat" else "unsat"), row.message


def chosen(folder: Path, expected: str, version: str = "1.0", step: int = 1) -> list[Instance]:
    return [one for one in instances(folder, 10.0, version) if one.expected == expected][::step]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_acasxu(shared_data: Path, version: str) -> None:
    """A few of each verdict: what is decided is right, and those that an attack finds are found."""
    if version == "2.0":
        pytest.importorskip("vnnlib", reason="needs the VNN-LIB 2.0 parser, which has wheels for some systems only")
    folder = shared_data / "vnncomp" / "acasxu"
    sat = [run(folder, instance, 1, []) for instance in chosen(folder, "sat", version, 20)]
    unsat = [run(folder, instance, 1, ["--pipeline", "ibp"]) for instance in chosen(folder, "unsat", version, 60)]
    assert [row for row in (*sat, *unsat) if row.wrong or row.result == "error"] == []
    assert any(row.result == "sat" for row in sat)


def test_mnistfc_counterexamples_are_found(shared_data: Path) -> None:
    """The verdicts that are known are those of the queries of version 2.0; the files of 1.0 ask about other images."""
    pytest.importorskip("vnnlib", reason="needs the VNN-LIB 2.0 parser, which has wheels for some systems only")
    folder = shared_data / "vnncomp" / "mnistfc"
    rows = [run(folder, instance, 1, []) for instance in chosen(folder, "sat", "2.0", step=6)]
    assert [row.result for row in rows] == ["sat"] * len(rows), rows


HEAVY = ("scipy", "ortools", "matplotlib", "networkx", "sklearn")


def test_start_of_verify_is_light(shared_data: Path) -> None:
    """An instance that bounds decide brings nothing of what solvers, pictures and data sets need."""
    folder = shared_data / "vnncomp" / "test"
    command = [sys.executable, "-X", "importtime", "-m", "irverify.cli", "verify"]
    command += [str(folder / "onnx" / "test_nano.onnx"), str(folder / "vnnlib" / "test_nano.vnnlib")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    brought = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "torch" in brought and not brought.intersection(HEAVY)
