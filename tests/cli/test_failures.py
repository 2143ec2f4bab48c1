"""Every failure is one clear message and the right exit code; it is never a verdict."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import torch
import typer

from irverify.cli.failures import failure_of, report
from irverify.errors import FileError, UnsupportedError
from tests.cli.conftest import Irverify


def test_errors_of_irverify_exit_with_1() -> None:
    failure = failure_of(FileError("no such file", where="x.onnx", hint="check the name"))
    assert (failure.kind, failure.code) == ("file", 1)
    assert failure.message == "x.onnx: no such file (check the name)"
    assert failure.details == {"where": "x.onnx", "hint": "check the name"}


def test_all_unsupported_items_are_told() -> None:
    failure = failure_of(UnsupportedError("no rule", items=("a", "b")))
    assert failure.details["items"] == ["a", "b"]


def test_operating_system_errors_exit_with_1() -> None:
    failure = failure_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.json"))
    assert (failure.code, failure.message) == (1, "No space left on device: out.json")


def test_a_reader_that_has_gone_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(failure_of(BrokenPipeError()), as_json=False) == 1
    assert capsys.readouterr() == ("", "")


def test_interruptions() -> None:
    assert failure_of(KeyboardInterrupt()).code == 130
    assert failure_of(KeyboardInterrupt(signal.SIGTERM)).code == 143


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 9 bytes")])
def test_out_of_memory_is_no_fault(error: Exception) -> None:
    assert (failure_of(error).kind, failure_of(error).code) == ("memory", 1)


def test_faults_exit_with_2_and_ask_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(failure_of(KeyError("x")), as_json=False) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "internal fault: KeyError: 'x'" in err
    assert "report this" in err
    assert "Traceback" not in err


def test_the_traceback_is_there_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRVERIFY_DEBUG", "1")
    try:
        torch.zeros(2) @ torch.zeros(3)
    except RuntimeError as error:
        assert report(failure_of(error), as_json=False) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_root_of_the_command_line_errors() -> None:
    """`failures` finds it through a class that typer exports."""
    assert typer.BadParameter.__mro__[2].__name__ == "ClickException"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "Missing command"),
        (("veryfy",), "No such command"),
        (("passes", "--jsn"), "No such option"),
        (("verify",), "Missing argument"),
        (("verify", "a.onnx", "b.vnnlib", "--timeout", "soon"), "--timeout"),
        (("supports",), "expected one of the options"),
    ],
)
def test_usage_errors(irverify: Irverify, arguments: tuple[str, ...], part: str) -> None:
    ran = irverify(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err
    assert len(ran.err.splitlines()) == 1


def test_json_errors_are_one_object(irverify: Irverify) -> None:
    ran = irverify("bounds", "missing.onnx", "missing.vnnlib", "--json")
    assert ran.code == 1
    assert ran.json["schema"] == "irverify/error/1"
    assert ran.json["error"]["kind"] == "file"
    assert ran.json["error"]["where"] == "missing.onnx"


def test_help_and_version(irverify: Irverify) -> None:
    assert irverify("--help").code == 0
    assert irverify("verify", "--help").code == 0
    ran = irverify("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "irverify")
