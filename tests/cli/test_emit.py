"""`irverify emit`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Irverify, query


@pytest.mark.parametrize("suffix", [".mps", ".lp", ".pb"])
def test_files(irverify: Irverify, models: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out{suffix}"
    said = irverify("emit", models / "relu.onnx", models / "sat.vnnlib", "-o", file, "--json").json
    (entry,) = said["files"]
    assert entry["file"] == str(file)
    assert file.stat().st_size > 0
    assert entry["integer"] == 2  # both ReLUs are unstable


@pytest.mark.parametrize(
    "arguments",
    [("--objective", "feasibility"), *(("--objective", "nearest", "--norm", norm) for norm in ("linf", "l1", "l2"))],
)
def test_objectives(irverify: Irverify, models: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "out.lp"
    said = irverify("emit", models / "relu.onnx", models / "sat.vnnlib", "-o", file, *arguments, "--json").json
    (entry,) = said["files"]
    assert entry["integer"] == 2 and sum(entry["unstable"].values()) == 2
    assert entry["nonzeros"] > entry["rows"] > 0 and entry["seconds"] > 0
    assert ("distance(0)" in file.read_text()) == ("nearest" in arguments)


def test_a_program_for_each_box(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    boxes = "(assert (or (and (<= X_0 0.25) (>= Y_0 0.5)) (and (>= X_0 0.75) (>= Y_0 0.5))))"
    (tmp_path / "boxes.vnnlib").write_text(query(boxes))
    ran = irverify("emit", models / "relu.onnx", tmp_path / "boxes.vnnlib", "-o", tmp_path / "out.mps")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == len(list(tmp_path.glob("out*.mps")))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("relu.onnx", "sat.vnnlib"), "--output"),
        (("relu.onnx", "sat.vnnlib", "-o", "out.txt"), ".mps"),
        (("relu.onnx", "sat.vnnlib", "-o", "no/such/folder/out.mps"), "no/such/folder"),
        (("relu.onnx", "sat.vnnlib", "-o", "out.lp", "--objective", "best"), "objectives margin"),
        (("relu.onnx", "sat.vnnlib", "-o", "out.lp", "--objective", "nearest", "--norm", "l3"), "norms linf"),
        (("erf.onnx", "sat.vnnlib", "-o", "out.mps"), "Erf"),
    ],
)
def test_errors(
    irverify: Irverify, models: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(models)
    ran = irverify("emit", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err
