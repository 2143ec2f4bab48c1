"""`irverify train --stages`: a robust cascade, one network after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from irverify.cli.cascades import sweeps_of
from irverify.cli.numbers import Numbers
from irverify.cli.progress import Tally
from irverify.cli.several import Worker
from irverify.cli.streams import encode, note, write
from irverify.cli.train import Wanted, about, draw, resumed_recipe, run
from irverify.errors import UsageError
from irverify.train.toml import write_toml

if TYPE_CHECKING:
    from irverify.certify import Cascade, CascadeSweep, Outcome
    from irverify.data import Part
    from irverify.train.cascade import CascadeTrainer
    from irverify.train.recipe import Recipe
    from irverify.train.trainer import Trainer


def train_stages(
    wanted: Wanted, stages: int | None, folder: Path, resume: Path | None, worker: Worker, as_json: bool
) -> None:
    """Trains the stages that are not complete, evaluates the cascade on the test images, and says what came of it."""
    if resume is None:
        trainer = _begun(wanted, stages or 1, folder, worker)
    elif folder != resume:
        raise UsageError("a cascade goes on in its own folder", hint="leave --out out")
    else:
        trainer = _resumed(wanted, stages, resume, worker)
    trainer.begin()
    for number, stage in trainer.trainers():
        note(f"stage {number} of {trainer.stages}: {len(stage.images.train)} images to train on")
        run(stage, known=stage.clock.step)
        if worker.speaks:
            draw(stage)
        _complete(trainer, number, stage)
    if not worker.speaks:
        return
    if len(trainer.state.done) < trainer.stages:
        note(f"no image is left to train on after stage {len(trainer.state.done)}")
    cascade = trainer.cascade()
    sweep = _evaluated(trainer, cascade)
    write(encode("train-cascade", _content(trainer, sweep)) if as_json else _text(trainer, sweep))


def _begun(wanted: Wanted, stages: int, folder: Path, worker: Worker) -> CascadeTrainer:
    if wanted.data is None:
        raise UsageError("expected --data, such as --data digits")
    recipe = wanted.load(wanted.data)
    from irverify.train.cascade_state import FILE
    from irverify.train.checkpoint import FILE as CHECKPOINT

    if (folder / FILE).exists() or (folder / CHECKPOINT).exists():
        hint = f"--resume {folder} goes on from there"
        raise UsageError("a run has left its state in this folder", where=str(folder), hint=hint)
    return _trainer(recipe, wanted.data, wanted.part or "train", stages, folder, worker)


def _resumed(wanted: Wanted, stages: int | None, folder: Path, worker: Worker) -> CascadeTrainer:
    from irverify.train.cascade_state import cascade_folder, load_state

    place = cascade_folder(folder)
    if place is None:
        raise UsageError("expected the folder of a cascade in training, found none", where=str(folder))
    state = load_state(place)
    recipe = resumed_recipe(wanted, state.recipe, state.data, str(place))
    return _trainer(recipe, wanted.data or state.data, wanted.part or state.part, stages or state.stages, place, worker)


def _trainer(recipe: Recipe, data: str, part: Part, stages: int, folder: Path, worker: Worker) -> CascadeTrainer:
    from irverify.train.cascade import CascadeTrainer
    from irverify.train.checkpoint import Facts
    from irverify.train.images import load_images
    from irverify.train.processes import ALONE

    device = Numbers("float32", worker.device).check_device()
    images = load_images(data, part, recipe.held_out, recipe.validation)
    facts = Facts(write_toml(recipe.table), data, part, images.fingerprint, epoch=0, step=0, about=about(recipe))
    return CascadeTrainer(recipe, images, folder, facts, stages, device, worker.processes or ALONE)


def _complete(trainer: CascadeTrainer, number: int, stage: Trainer) -> None:
    """Finds what a stage leaves to the next one, and says how it goes."""
    count, eps = len(stage.images.train), trainer.recipe.eps.last
    with Tally(count) as tally:
        lines = (f"training images that stage {number} certifies at eps {eps:g}",)

        def watch(found: list[Outcome]) -> None:
            for _ in found:
                tally.advance(lambda: lines)

        trainer.complete(number, stage, watch)
    left = len(trainer.state.done[-1].rest)
    note(f"stage {number} certifies its prediction for {count - left} of {count} training images at eps {eps:g}")


def _evaluated(trainer: CascadeTrainer, cascade: Cascade) -> CascadeSweep:
    """The cascade on the test images that the recipe names, at its test radius."""
    import torch

    from irverify.certify import Ball, Settings

    test, recipe = trainer.images.test, trainer.recipe
    indices = range(min(recipe.evaluation.first, len(test)))
    ball = Ball(recipe.test_eps, test.valid_range)
    return sweeps_of(cascade, test, indices, [ball], Settings(torch.float32, trainer.device))[0]


def _content(trainer: CascadeTrainer, sweep: CascadeSweep) -> dict[str, object]:
    from irverify.train.cascade import FILE

    said = {name: value for name, value in sweep.content().items() if name != "per_image"}
    stages = [
        {"seed": done.seed, "images": done.images, "certified": done.images - len(done.rest), "left": len(done.rest)}
        for done in trainer.state.done
    ]
    return {
        **trainer.facts.about,
        "method_of_stages": trainer.recipe.evaluation.certify,
        "stages": stages,
        "test": said,
        "files": [str(trainer.folder / FILE)],
    }


def _text(trainer: CascadeTrainer, sweep: CascadeSweep) -> str:
    from irverify.report.cascades import cascade_tables, stage_table

    recipe = trainer.recipe
    return (
        f"{recipe.network} trained by {recipe.name}, a cascade of {len(trainer.state.done)}; training images:\n"
        f"{stage_table([(done.images, len(done.rest)) for done in trainer.state.done])}\n"
        f"{len(sweep.found)} test images, bounds by {recipe.evaluation.certify}:\n{cascade_tables([sweep])}"
        f"{trainer.folder}: cascade.safetensors, cascade.json, recipe.toml, and a folder for each stage"
    )
