"""Sparsity benchmarks: the table says what a step bought, and the curves are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import irverify as iv
from benchmarks.sparsity import Question, bought, table, unstable
from benchmarks.sparsity_curves import draw_shares, draw_weights, tables
from irverify.data import digits

FIRST: dict[str, Any] = {
    "row": "adversarial", "test": 0.97, "pgd": 0.9, "crown": 200.0, "interval": 400.0, "layers": [150.0, 50.0],
    "nonzeros": 1000, "relus": 500, "images": 20, "provable": 0.4, "upper": 0.9, "open": 10, "seconds": 60.0,
    "timeout": 120.0,
}  # fmt: skip
SECOND = {**FIRST, "row": "adversarial-l1", "test": 0.965, "crown": 100.0, "nonzeros": 250, "provable": 0.55,
          "seconds": 15.0}  # fmt: skip


def test_what_a_step_bought() -> None:
    assert bought(None, FIRST) == ""
    assert bought(FIRST, SECOND) == "+3 proved, time x 0.25, unstable -50 %, weights -75 %, test -0.50"
    assert bought(FIRST, {**SECOND, "images": 10}) == "unstable -50 %, weights -75 %, test -0.50"


def test_table() -> None:
    lines = table([FIRST, SECOND]).splitlines()
    assert lines[2] == "| adversarial training | 97.00 | 90.00 | 40 | 90 | 60.0 | 200 | 400 | 500 | 1000 |  |"
    assert lines[3].startswith("| + l1 | 96.50 | 90.00 | 55 | 90 | 15.0 | 100 | 400 | 500 | 250 | +3 proved")
    assert {line.count("|") for line in lines} == {12}


def test_curves(tmp_path: Path) -> None:
    weights = [{**FIRST, "weight": 0.0}, {**SECOND, "weight": 2e-4}]
    shares = [{"share": share, "pruned": 3, "test": 0.9, "pgd": 0.5, "attacked": 10} for share in (0.0, 0.1)]
    draw_weights(weights, tmp_path / "weights.png")
    draw_shares(shares, tmp_path / "shares.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    text = tables(weights, shares).splitlines()
    assert "| 0.0002 | 96.50 | 90.00 | 100 | 150, 50 | 55 | 15.0 |" in text
    assert text[-1] == "| 10 | 3 | 90.00 | 50.0 |"


def test_unstable_relus_are_counted_by_layer() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5).relu().sub(0.25).relu()

    test = digits("test").select(range(12))
    images = torch.from_numpy(test.images)
    question = Question(0.01, test, 12, 0, 0.0)
    expected = [float((images == at).sum()) / 12 for at in (0.5, 0.75)]  # pixels are multiples of 1/16
    assert unstable(iv.compile(Two(), images[:1]), question, "interval") == expected
