"""`passes` and `supports`."""

from __future__ import annotations

import pytest

from irverify.cli.supports import ANSWERS
from irverify.pipeline.catalog import CATALOG
from tests.cli.conftest import Irverify


def test_passes_lists_every_pass_with_its_options(irverify: Irverify) -> None:
    ran = irverify("passes")
    assert ran.code == 0
    for entry in CATALOG.values():
        assert entry.name in ran.out
        assert all(str(option) in ran.out for option in entry.options)


def test_passes_as_json(irverify: Irverify) -> None:
    listed = irverify("passes", "--json").json
    assert (listed["schema"], [entry["name"] for entry in listed["passes"]]) == ("irverify/passes/1", list(CATALOG))


@pytest.mark.parametrize("flag", [flag for flag in ANSWERS if flag != "analyses"])
def test_every_answer_of_supports_is_words_on_lines(irverify: Irverify, flag: str) -> None:
    ran = irverify("supports", f"--{flag}")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines
    assert ran.out == "\n".join(lines) + "\n"
    assert all(line and line == line.strip() and " " not in line for line in lines)


def test_supports_in_the_words_of_the_standard(irverify: Irverify) -> None:
    assert {"Relu", "Conv", "Gemm"} <= set(irverify("supports", "--onnx-operators").out.split())
    assert irverify("supports", "--vnnlib-versions").out == "1.0\n2.0\n"
    assert irverify("supports", "--onnx-opset-versions").out == "8\n26\n"
    assert irverify("supports", "--serialise-assignments").out == "true\n"


def test_the_table_of_analyses(irverify: Irverify) -> None:
    assert irverify("supports", "--analyses").out.startswith("| operator | interval | ibp |")


@pytest.mark.parametrize("flags", [(), ("--name", "--version"), ("--colour",)])
def test_supports_takes_one_flag(irverify: Irverify, flags: tuple[str, ...]) -> None:
    ran = irverify("supports", *flags)
    assert (ran.code, ran.out) == (1, "")
