"""The process around a command: start-up, streams, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def with_command(body: str) -> str:
    """A program that runs the command line with one command `x` of this body."""
    return f"""
import sys, irverify.cli.app
def x(as_json: bool = False) -> None:
{body}
irverify.cli.app.COMMANDS["x"] = x
sys.argv = ["irverify", "x"]
from irverify.cli import main
main()
"""


def test_passes_starts_without_torch() -> None:
    text = """
import atexit, sys
slow = {"torch", "numpy", "onnx", "onnxruntime", "ortools", "scipy", "matplotlib"}
atexit.register(lambda: print(slow & set(sys.modules), file=sys.stderr))
sys.argv = ["irverify", "passes"]
from irverify.cli import main
main()
"""
    process = program(text)
    out, err = process.communicate()
    assert process.returncode == 0
    assert "ibp" in out
    assert err.strip() == "set()"


def test_module_and_entry_point_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "irverify.cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("irverify ")


def test_only_results_reach_stdout() -> None:
    """What a native library writes to file descriptor 1 is no result."""
    process = program(with_command("    import os; os.write(1, b'banner\\n'); sys.stdout.write('result\\n')"))
    assert process.communicate() == ("result\n", "banner\n")


def test_warnings_are_one_line_on_stderr() -> None:
    process = program(with_command("    import warnings; warnings.warn('old file')"))
    assert process.communicate() == ("", "irverify: warning: old file\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption(number: signal.Signals, code: int) -> None:
    process = program(with_command("    import time; sys.stderr.write('on\\n'); sys.stderr.flush(); time.sleep(60)"))
    assert process.stderr is not None
    assert process.stderr.readline() == "on\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    assert err in ("irverify: interrupted\n", "irverify: terminated\n")


def test_an_interruption_that_comes_out_as_something_else() -> None:
    """A library that turns KeyboardInterrupt into an error of its own does not make it one of ours."""
    body = """
    import time
    try:
        sys.stderr.write('on\\n'); sys.stderr.flush(); time.sleep(60)
    except KeyboardInterrupt:
        raise ImportError("half imported") from None
"""
    process = program(with_command(body))
    assert process.stderr is not None
    assert process.stderr.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "irverify: interrupted\n")
    assert process.returncode == 130


def test_a_reader_that_goes_away() -> None:
    process = program(with_command("    import time; time.sleep(0.5); sys.stdout.write('x' * 1000)"))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "irverify.cli", "passes"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"irverify: error: No space left on device\n"
