"""`irverify demo`, whole."""

from __future__ import annotations

import re

from tests.cli.conftest import Irverify


def test_demo(irverify: Irverify) -> None:
    ran = irverify("demo")
    assert ran.code == 0
    assert "%stem.norm.relu" in ran.out
    assert "replayed with onnxruntime" in ran.out
    last = ran.out.splitlines()[-1]
    totals = re.fullmatch(r"(\d+) verified, (\d+) falsified, (\d+) undecided of 20 digits in .* s", last)
    assert totals is not None
    verified, falsified, undecided = map(int, totals.groups())
    assert verified + falsified + undecided == 20
    assert falsified >= 3
    assert verified >= 14
    assert len([line for line in ran.err.splitlines() if line.startswith("irverify: digit ")]) == 20


def test_demo_as_json(irverify: Irverify) -> None:
    said = irverify("demo", "--json").json
    assert said["schema"] == "irverify/demo/1"
    counts = [said[name] for name in ("verified", "falsified", "unknown", "timeout")]
    assert sum(counts) == said["digits"] == len(said["per_digit"]) == 20
    assert said["seconds"] > 0
    assert all(one["bound"] > 0 for one in said["per_digit"] if one["verdict"] == "verified")
