"""Every loss takes a step of training: a finite value, and a gradient for the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irverify.errors import UsageError
from irverify.train.objectives import Batch
from irverify.train.recipe import parse_recipe
from irverify.train.terms import LOSSES
from tests.train.recipes import small_trainer, table

OPTIONS: dict[str, dict[str, object]] = {"tight": {"d": 0.1, "r": 0.1}, "adversarial": {"steps": 2}}


@pytest.mark.parametrize("network", ["mlp-2x100", "digits-resnet"])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("dual", "tight", "rs")])
def test_loss(name: str, network: str, tmp_path: Path) -> None:
    check(name, network, tmp_path)


@pytest.mark.parametrize("projections", [0, 3])
@pytest.mark.parametrize("name", ["dual", "tight"])
def test_dual_losses(name: str, projections: int, tmp_path: Path) -> None:
    check(name, "mlp-2x100", tmp_path, {"projections": projections})


def test_rs_loss(tmp_path: Path) -> None:
    check("rs", "mlp-2x100", tmp_path, {"bounds": "interval"})


def check(name: str, network: str, folder: Path, options: dict[str, object] | None = None) -> None:
    terms = {"x": {"loss": name, **OPTIONS.get(name, {}), **(options or {})}}
    trainer = small_trainer(folder, parse_recipe(table(terms, network)))
    trainer.network.train()
    now = {option: schedule(trainer.clock) for option, schedule in trainer.recipe.terms[0].schedules.items()}
    value = trainer.objectives["x"](Batch(trainer.x[:4], trainer.y[:4], 0.02), now)
    value.backward()
    assert bool(value.isfinite())
    gradients = [parameter.grad for parameter in trainer.network.parameters() if parameter.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_regularisers_that_are_phased_out_cost_nothing(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, parse_recipe(table({"x": {"loss": "tight"}})))
    batch = Batch(trainer.x[:4], trainer.y[:4], 0.02)
    assert torch.equal(trainer.objectives["x"](batch, {"dual": 0.0, "d": 0.0, "r": 0.0}), torch.zeros(()))


def test_norm_that_a_loss_does_not_take() -> None:
    recipe = table({"x": {"loss": "ibp"}})
    with pytest.raises(UsageError, match=r"terms.x: ibp takes perturbations in the norm inf, got training.norm 2"):
        parse_recipe({**recipe, "training": {"eps": 0.1, "norm": "2", "epochs": 1, "batch": 1}})
