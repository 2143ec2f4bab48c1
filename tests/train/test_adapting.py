"""Weights that adapt to images held out of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irverify.backends.torch import losses
from irverify.data import digits, divided
from irverify.errors import TrainingError, UsageError
from irverify.train.adapting import adapted
from irverify.train.checkpoint import Facts, load_checkpoint
from irverify.train.images import Images, load_images
from irverify.train.recipe import parse_recipe
from irverify.train.toml import write_toml
from irverify.train.trainer import Trainer
from tests.train.recipes import small_images, table

RECIPE = parse_recipe(table({"x": {"loss": "singleprop", "strength": {"gamma": 2.0}}}))


def trainer(folder: Path) -> Trainer:
    plain = small_images()
    images = Images(plain.train, plain.test, digits("test").select(range(300, 350)))
    facts = Facts(write_toml(RECIPE.table), "digits", "train", images.fingerprint, 0, 0)
    return Trainer(RECIPE, images, folder, facts)


def test_weight_is_that_of_the_formula(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert run.images.validation is not None
    x, y = torch.from_numpy(run.images.validation.images), torch.from_numpy(run.images.validation.labels)
    with torch.no_grad():
        clean, regularizer = map(float, losses.singleprop_terms(run.model.graph, x, y, 0.03, lines="zero", clip=(0, 1)))
    found = adapted(RECIPE.terms[0], run.model, run.images.validation, 0.03)
    assert found["strength"] == pytest.approx(2 * clean / (3 * clean + regularizer))


def test_weight_is_set_every_epoch(tmp_path: Path) -> None:
    whole = trainer(tmp_path)
    whole.run()
    first, second = (row["x.strength"] for row in whole.rows)
    assert first == pytest.approx(2 / 3)  # eps is 0 at first: no regulariser
    assert second is not None
    assert 0 < second < 2 / 3
    with pytest.raises(UsageError, match="expected images that are held out of training"):
        adapted(RECIPE.terms[0], whole.model, None, 0.0)


def test_resumed_run_finds_the_same_weights(tmp_path: Path) -> None:
    whole, stopped = trainer(tmp_path), trainer(tmp_path)
    whole.run()

    def interrupt(moment: object) -> None:
        if stopped.clock.step == 15:
            raise KeyboardInterrupt

    stopped.watch = interrupt
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = trainer(tmp_path)
    resumed.resume(load_checkpoint(tmp_path))
    resumed.run()
    assert [row["x.strength"] for row in resumed.rows] == [row["x.strength"] for row in whole.rows]
    assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in whole.rows]


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    with torch.no_grad():
        for parameter in run.network.parameters():
            parameter.fill_(1e30)
    with pytest.raises(TrainingError, match="no weight on the validation images: expected a finite loss"):
        run.run()


def test_images_of_three_kinds() -> None:
    plain, images = load_images("digits", "train", None), load_images("digits", "train", None, 0.25)
    assert images.validation is not None
    assert (len(images.train), len(images.validation), len(images.test)) == (1438 - 360, 360, 359)
    assert (images.validation.images == divided(plain.train, 360)[1].images).all()
    assert images.fingerprint != plain.fingerprint
    images = load_images("digits", "test", 59, 30)
    assert images.validation is not None
    assert (len(images.train), len(images.validation), len(images.test)) == (270, 30, 59)
