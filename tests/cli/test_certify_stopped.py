"""Sweeps that are killed, interrupted or run out of room: what is decided stays, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from irverify.certify import ByAnalysis, Store
from irverify.certify.store import FILE
from irverify.data import DIGITS_NETWORK
from irverify.errors import FileError
from tests.cli.conftest import Irverify

ROOT = Path(__file__).resolve().parents[2]
COMMON = ("certify", str(DIGITS_NETWORK), "--data", "digits")
MARK = "IRVERIFY_TEST_OF_STOPPING"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

KILLED_TEN_TIMES = """
import os, random, signal, sys, time
import torch
import irverify.certify.analysis, irverify.certify.store, irverify.frontends.onnx, irverify.passes.crown
from irverify.cli.process import execute

torch.set_num_threads(1)
chance = random.Random(7)
for life in range(11):
    child = os.fork()
    if child == 0:
        os._exit(execute(sys.argv[1:]))
    if life < 10:
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], file=sys.stderr)
"""
PROGRAM = """
import signal, sys
import irverify.cli.progress
signal.signal(signal.SIGINT, signal.default_int_handler)
irverify.cli.progress.PAUSE = 0.0
from irverify.cli import main
main()
"""


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """What two runs of the same sweep have in common."""
    images = [{**image, "seconds": 0} for image in content["per_image"]]
    stages = {name: {**stage, "seconds": 0} for name, stage in content["per_stage"].items()}
    return {**content, "per_image": images, "per_stage": stages, "seconds": 0}


def attempts(folder: Path) -> list[int]:
    connection = sqlite3.connect(folder / FILE)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [count for (count,) in connection.execute("SELECT attempts FROM outcome")]
    finally:
        connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_ten_times(irverify: Irverify, tmp_path: Path) -> None:
    """The same outcomes as in one go, and none of them found twice."""
    command = (*COMMON, "--eps", "0.05", "--method", "crown", "--first", "120", "--batch", "3")
    script = [sys.executable, "-c", KILLED_TEN_TIMES, *command, "--out", str(tmp_path), "--json"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    codes = [line for line in done.stderr.splitlines() if line.isdigit()]
    assert len(codes) == 11
    assert codes.count(str(int(signal.SIGKILL))) >= 3
    assert codes[-1] == "0"
    last = json.loads((tmp_path / "certify.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == last
    assert plain(last) == plain(irverify(*command, "--json").json)
    assert attempts(tmp_path) == [1] * 120


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command as a process of its own, as soon as it has told that it decided something."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMON, "--out", str(folder), *arguments],
        cwd=ROOT, env={**os.environ, MARK: str(folder)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " of 300, " in line, line + process.stderr.read()
    return process


def family(folder: Path) -> list[int]:
    """The processes that belong to a command that was started with this folder."""
    mark, found = f"{MARK}={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile, or is somebody else's
                continue
    return found


def gone(folder: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while family(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@linux
def test_interrupted_and_killed_with_workers(tmp_path: Path) -> None:
    arguments = ("--eps", "0.08", "--first", "300", "--workers", "1", "--timeout", "20")
    process = started(tmp_path, *arguments)
    assert len(family(tmp_path)) >= 2
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert (process.returncode, out) == (130, "")
    assert f"of 300 decided and kept in {tmp_path}; the same command goes on" in err
    assert "test accuracy" in err
    assert err.endswith("irverify: interrupted\n")
    assert gone(tmp_path, 2)
    before = json.loads((tmp_path / "certify.json").read_text())
    assert 0 < before["n"] < before["asked"] == 300

    process = started(tmp_path, *arguments)
    process.kill()
    process.communicate()
    assert gone(tmp_path, 5)
    counts = attempts(tmp_path)
    assert counts == [1] * len(counts)
    assert before["n"] < len(counts) < 300


def swept(irverify: Irverify, folder: Path, *arguments: str) -> dict[str, Any]:
    said: dict[str, Any] = irverify(*COMMON, "--method", "ibp", "--out", folder, "--json", *arguments).json
    return said


def test_what_is_decided_is_not_asked_again(
    irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, tuple[int, ...]]] = []
    honest = ByAnalysis.outcomes

    def watched(self: ByAnalysis, indices: Sequence[int]):  # type: ignore[no-untyped-def]
        asked.append((self.question.eps, tuple(indices)))
        return honest(self, indices)

    monkeypatch.setattr(ByAnalysis, "outcomes", watched)
    first = swept(irverify, tmp_path, "--eps", "0.05", "--first", "3")
    more = swept(irverify, tmp_path, "--eps", "0.01,0.05", "--index", "7,2,0")
    assert asked == [(0.05, (0, 1, 2)), (0.01, (7, 2, 0)), (0.05, (7,))]
    assert [image["index"] for image in more["runs"][1]["per_image"]] == [7, 2, 0]
    assert more["runs"][1]["per_image"][1] == first["per_image"][2]
    assert more["runs"][1]["seconds"] > first["seconds"]
    again = swept(irverify, tmp_path, "--eps", "0.01,0.05", "--index", "7,2,0")
    assert again == more
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--norm", "2"), "norm"),
        (("--clip", "none"), "clip"),
        (("--seed", "1"), "seed"),
        (("--dtype", "float32"), "numbers"),
    ],
)
def test_another_question_is_refused(irverify: Irverify, tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    swept(irverify, tmp_path, "--eps", "0.05", "--first", "1")
    before = (tmp_path / "certify.json").read_bytes()
    ran = irverify(*COMMON, "--method", "ibp", "--out", tmp_path, "--eps", "0.05", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert f"holds outcomes of another question: {part} " in ran.err
    assert (tmp_path / "certify.json").read_bytes() == before


def test_a_full_disk_stops_the_sweep(irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Store.record

    def full(self: Store, eps: float, outcome, *rest):  # type: ignore[no-untyped-def]
        if outcome.index == 4:
            raise FileError("cannot be written or read: database or disk is full")
        honest(self, eps, outcome, *rest)

    command = (*COMMON, "--method", "ibp", "--eps", "0.05", "--first", "9", "--batch", "2", "--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "record", full)
        ran = irverify(*command)
    assert (ran.code, ran.out) == (1, "")
    assert "4 of 9 decided and kept" in ran.err
    assert ran.err.endswith("disk is full\n")
    assert json.loads((tmp_path / "certify.json").read_text())["n"] == 4
    assert irverify(*command, "--json").json["n"] == 9
    assert attempts(tmp_path) == [1] * 9


def test_an_answer_that_cannot_be_written_is_told(irverify: Irverify, tmp_path: Path) -> None:
    (tmp_path / "certify.json").mkdir()
    ran = irverify(*COMMON, "--method", "ibp", "--eps", "0.05", "--first", "2", "--out", tmp_path, "--json")
    assert (ran.code, ran.json["n"]) == (1, 2)
    assert "certify.json: cannot be written" in ran.err
    assert not list(tmp_path.glob(".*"))


def test_errors_are_asked_again(irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ByAnalysis._batch

    def faulty(self: ByAnalysis, images):  # type: ignore[no-untyped-def]
        if 1 in images.indices:
            raise MemoryError("no room")
        return honest(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(ByAnalysis, "_batch", faulty)
        ran = irverify(*COMMON, "--method", "ibp", "--eps", "0.05", "--first", "4", "--out", tmp_path, "--json")
    assert (ran.code, ran.json["error"], ran.json["n"]) == (0, 1, 4)
    assert "error of 1 image: MemoryError: no room" in ran.err
    assert swept(irverify, tmp_path, "--eps", "0.05", "--first", "4")["error"] == 0
    assert sorted(attempts(tmp_path)) == [1, 1, 1, 2]
