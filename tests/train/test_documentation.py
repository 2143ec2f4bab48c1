"""What docs/training.md says runs: every loss in one line, the loop, the recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import irverify as iv
from irverify.data import digits
from irverify.train.networks import network
from irverify.train.recipe import parse_recipe, recipes
from irverify.train.terms import LOSSES
from irverify.train.toml import parse_toml

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| `([a-z0-9-]+)`.*\| `(iv\..*)` \|$", PAGE, re.MULTILINE)


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_loss_and_recipe_is_there() -> None:
    assert {name for name, _ in LINES} == set(LOSSES)
    assert all(f"`{name}`" in PAGE for name in recipes())


@pytest.mark.parametrize("line", [line for _, line in LINES])
def test_losses(line: str) -> None:
    torch.manual_seed(0)
    data = digits("train").select(range(4))
    x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    module = network("mlp-2x100", (1, 8, 8), 10)
    names = {
        "iv": iv, "x": x, "y": y, "eps": 0.02,
        "graph": iv.compile(module.eval(), x[:1]), "bounded": iv.BoundGraph(module, x[:1], "ibp"),
    }  # fmt: skip
    value = eval(line, names)
    total = value if isinstance(value, torch.Tensor) else sum(value)
    total.backward()
    assert bool(total.isfinite())
    assert any(parameter.grad is not None for parameter in module.parameters())


def test_loop(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        exec(block("python").replace("range(40)", "range(1)"), {})
    assert "certified" in capsys.readouterr().out


def test_recipe() -> None:
    recipe = parse_recipe(parse_toml(block("toml"), "docs/training.md"))
    assert [term.loss for term in recipe.terms] == ["crown-ibp", "rs"]
