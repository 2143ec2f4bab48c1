"""What a network in training is measured by: only what is proved counts as certified, and doubt counts as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irverify.train.evaluation import Accuracies
from irverify.train.recipe import parse_recipe
from irverify.train.trainer import Trainer
from tests.train.recipes import small_trainer, table


def trainer(folder: Path, eps: float = 0.003) -> Trainer:
    training, evaluation = {"eps": eps, "epochs": 1, "batch": 20}, {"first": 40, "attack_steps": 2}
    return small_trainer(folder, parse_recipe({**table(), "training": training, "evaluation": evaluation}))


@pytest.mark.parametrize("number", [0.0, 3e38])
def test_ties_and_outputs_that_are_no_numbers_are_wrong(tmp_path: Path, number: float) -> None:
    one = trainer(tmp_path)
    with torch.no_grad():
        for parameter in one.network[-1].parameters():  # type: ignore[index]
            parameter.fill_(number)
    assert one.evaluate() == Accuracies(0.0, 0.0, 0.0)


def test_certified_images_are_classified_as_their_label_and_resist_the_attack(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.run()
    found = one.evaluate()
    one.network.eval()
    first = one.images.test.select(range(40))
    with torch.no_grad():
        predicted = one.network(torch.from_numpy(first.images)).argmax(1)
    right = (predicted == torch.from_numpy(first.labels)).tolist()
    outcomes = [outcome for part in one.evaluate.certifier.outcomes(range(40)) for outcome in part]
    certified = [outcome.index for outcome in outcomes if outcome.status == "certified"]
    assert all(right[index] for index in certified)
    assert found.certified == len(certified) / 40
    assert 0 < found.certified <= found.attacked <= sum(right) / 40 < 1
    everything = trainer(tmp_path / "far", eps=1.0).evaluate()
    assert (everything.attacked, everything.certified) == (0.0, 0.0)
