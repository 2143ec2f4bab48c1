"""Small training runs that tests share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from irverify.data import DataSet, digits
from irverify.train.cascade import CascadeTrainer
from irverify.train.checkpoint import Facts
from irverify.train.images import Images
from irverify.train.processes import ALONE, Processes
from irverify.train.recipe import Recipe, parse_recipe
from irverify.train.toml import write_toml
from irverify.train.trainer import Trainer

TERMS: dict[str, object] = {"clean": {"loss": "cross-entropy"}}


def table(terms: Mapping[str, object] | None = None, network: str = "mlp-2x100", epochs: int = 2) -> dict[str, object]:
    """A recipe for 200 digits: 10 steps an epoch."""
    return {
        "name": "small",
        "network": {"name": network},
        "training": {"eps": {"from": 0.0, "to": 0.05, "end": 1}, "epochs": epochs, "batch": 20, "seed": 3},
        "evaluation": {"first": 10, "attack_steps": 2, "every": 2},
        "optimiser": {"rate": 1e-3},
        "terms": terms or TERMS,
    }


def small_images() -> Images:
    def part(whole: DataSet, count: int) -> DataSet:
        return whole.select(range(count))

    return Images(part(digits("train"), 200), part(digits("test"), 50))


def small_cascade(folder: Path, recipe: Recipe, stages: int, processes: Processes = ALONE) -> CascadeTrainer:
    images = small_images()
    facts = Facts(write_toml(recipe.table), "digits", "train", images.fingerprint, 0, 0, about={"recipe": "small"})
    return CascadeTrainer(recipe, images, folder, facts, stages, processes=processes)


def small_trainer(folder: Path, recipe: Recipe | None = None, processes: Processes = ALONE) -> Trainer:
    chosen = recipe or parse_recipe(table())
    images = small_images()
    facts = Facts(write_toml(chosen.table), "digits", "train", images.fingerprint, 0, 0)
    return Trainer(chosen, images, folder, facts, processes=processes)
