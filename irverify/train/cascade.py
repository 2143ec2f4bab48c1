"""Training of a robust cascade (paper 5, sec. 3.3): each stage on the images that those before it do not certify.

The paper's text lacks its algorithm 2. As in the code published with it (locuslab/convex_adversarial, examples), an
image goes on where the bounds do not certify the stage's own prediction, right or wrong, at the radius that is trained
for, and every stage is trained by the same recipe, from the beginning. Two choices are ours: a stage counts its seed up
by one, and schedules in steps keep their place in the epochs, since later stages have far fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from irverify.certify import ByAnalysis, Cascade, Outcome, Settings, save_cascade
from irverify.certify.cascade import OwnPrediction
from irverify.certify.certifier import isolated
from irverify.certify.question import Norm
from irverify.errors import FileError, UsageError
from irverify.ir.program import load, write_whole
from irverify.train.cascade_state import FILE as STATE
from irverify.train.cascade_state import STAGE, StageDone, State, load_state, save_state
from irverify.train.checkpoint import FILE as CHECKPOINT
from irverify.train.checkpoint import Facts, load_checkpoint
from irverify.train.export import PROGRAM, RECIPE, export
from irverify.train.images import Images
from irverify.train.processes import ALONE, OtherEnded, Processes
from irverify.train.recipe import Recipe, parse_recipe
from irverify.train.toml import write_toml
from irverify.train.trainer import Moment, Trainer

FILE = "cascade.safetensors"
NORMS: dict[str, Norm] = {"inf": "inf", "2": "2", "1": "1"}


@dataclass
class CascadeTrainer:
    """Trains up to `stages` networks by a recipe, each in its folder `stageN`, and makes one cascade of them.

    `facts` is what checkpoints say of the run. What is complete stays so: a trainer for the same run in the same folder
    goes on where another one was stopped, and with more stages it adds to what is there. Of several `processes`, each
    with such a trainer, the first one alone says what a stage certifies, and writes. UsageError where the folder holds
    another run, or already has more stages.
    """

    recipe: Recipe
    images: Images
    folder: Path
    facts: Facts
    stages: int
    device: str = "cpu"
    processes: Processes = ALONE
    state: State = field(init=False)

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"expected a cascade of at least one stage, got {self.stages}")
        facts = self.facts
        fresh = State(facts.recipe, facts.data, facts.part, facts.fingerprint, self.stages)
        self.state = fresh
        if (self.folder / STATE).is_file():
            self.state = load_state(self.folder).of_the_same_run(fresh, str(self.folder))
            if self.stages < len(self.state.done):
                message = f"expected at least the {len(self.state.done)} stages that are there already"
                raise UsageError(message, where=str(self.folder))
        self.state = replace(self.state, stages=self.stages)

    def begin(self) -> None:
        """Notes in the folder what is to be done. FileError where it cannot be written."""
        self.processes.meet()  # nothing is written before all have looked at what is there
        if self.processes.first:
            _make(self.folder)
            save_state(self.folder, self.state)
            write_whole(self.folder / RECIPE, self.facts.recipe.encode())

    def trainers(self) -> Iterator[tuple[int, Trainer]]:
        """The stages that are not complete, with what trains them; the caller runs each and then calls `complete`. Ends
        early where no image is left to train on."""
        while len(self.state.done) < self.stages:
            number = len(self.state.done) + 1
            if not len(self.places(number)):
                return
            yield number, self._trainer(number, self.images.of(self.places(number)))

    def places(self, number: int) -> tuple[int, ...]:
        """The images that a stage is trained on: for the first all of them, then what the one before has left."""
        return tuple(range(len(self.images.train))) if number == 1 else self.state.done[number - 2].rest

    def _trainer(self, number: int, images: Images) -> Trainer:
        steps = -(-len(self.images.train) // self.recipe.batch)
        table = dict(self.recipe.table) if number == 1 else in_epochs(self.recipe.table, steps)
        recipe = parse_recipe(table, self.recipe.seed + number - 1)
        about = {**self.facts.about, "seed": recipe.seed, "cascade stage": number, "images": len(images.train)}
        facts = replace(
            self.facts, recipe=write_toml(recipe.table), fingerprint=images.fingerprint, epoch=0, step=0, rows=[],
            about=about,
        )  # fmt: skip
        folder = self.folder / f"{STAGE}{number}"
        _make(folder)
        trainer = Trainer(recipe, images, folder, facts, self.device, self.processes)
        if (folder / CHECKPOINT).is_file():
            trainer.resume(load_checkpoint(folder))
        return trainer

    def complete(
        self, number: int, trainer: Trainer, watch: Callable[[list[Outcome]], None] = lambda outcomes: None
    ) -> None:
        """Exports the network of a stage, finds the images that it does not certify, and notes both. `watch` is called
        with what is found of images. Raises as `Trainer.run`."""
        places = self.places(number)
        try:
            with self.processes.together():
                rest = self.processes.told(self._left(number, trainer, watch) if self.processes.first else ())
                done = StageDone(trainer.recipe.seed, len(places), rest)
                self.state = replace(self.state, done=(*self.state.done, done))
                if self.processes.first:
                    save_state(self.folder, self.state)
        except (OtherEnded, FileError) as error:
            hint = f"stage {number} is trained: --resume {self.folder} goes on from there"
            raise type(error)(error.message, where=error.where, hint=hint) from error

    def _left(self, number: int, trainer: Trainer, watch: Callable[[list[Outcome]], None]) -> list[int]:
        """The places of the images that a stage does not certify, after its network is written."""
        about = {name: str(said) for name, said in trainer.facts.about.items()}
        export(trainer.folder, trainer.network, trainer.example, trainer.facts.recipe, about)
        kept = self._certified(number, watch)
        return [place for row, place in enumerate(self.places(number)) if row not in kept]

    def _certified(self, number: int, watch: Callable[[list[Outcome]], None]) -> set[int]:
        """Which of the images that a stage is trained on have its own prediction certified."""
        images = self.images.train.select(self.places(number))
        question = OwnPrediction(
            load(self._program(number)), images, self.recipe.eps.last, NORMS[self.recipe.norm], images.valid_range
        )
        certifier = ByAnalysis(question, self.recipe.evaluation.certify, Settings(torch.float32, self.device))
        kept: set[int] = set()
        for found in isolated(certifier, range(len(images))):
            kept |= {outcome.index for outcome in found if outcome.status == "certified"}
            watch(found)
        return kept

    def cascade(self) -> Cascade:
        """The cascade of all stages that are complete; the first process saves it as `FILE` in the folder."""
        graphs = tuple(load(self._program(number)) for number in range(1, len(self.state.done) + 1))
        recipe = self.recipe
        stages = [{"seed": done.seed, "images": done.images, "left": len(done.rest)} for done in self.state.done]
        about = {**self.facts.about, "stages": stages, "data": self.facts.data, "recipe text": self.facts.recipe}
        cascade = Cascade(graphs, recipe.eps.last, NORMS[recipe.norm], recipe.evaluation.certify, about)
        if self.processes.first:
            save_cascade(cascade, self.folder / FILE)
        return cascade

    def _program(self, number: int) -> Path:
        return self.folder / f"{STAGE}{number}" / PROGRAM


def train_cascade(
    trainer: CascadeTrainer, watch: Callable[[int, Moment], None] = lambda stage, moment: None
) -> Cascade:
    """Trains all stages that are not complete, and returns the cascade, which is saved in the folder of the trainer.
    `watch` is called with the stage after every step. Raises as `Trainer.run`."""
    with trainer.processes.together():
        trainer.begin()
        for number, stage in trainer.trainers():
            stage.watch = partial(watch, number)
            stage.run()
            trainer.complete(number, stage)
        return trainer.cascade()


def in_epochs(table: Mapping[str, object], steps_per_epoch: int) -> dict[str, object]:
    """The table of a recipe with its schedules in epochs where they were in steps of so many an epoch."""

    def turned(value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        if value.get("unit") != "steps":
            return {key: turned(part) for key, part in value.items()}
        counted = {key: _share(value[key], steps_per_epoch) for key in ("begin", "end", "at", "every") if key in value}
        return {**value, **counted, "unit": "epochs"}

    return {key: turned(value) for key, value in table.items()}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror or error}", where=str(folder)) from error


def _share(given: object, steps_per_epoch: int) -> object:
    if isinstance(given, list):
        return [_share(part, steps_per_epoch) for part in given]
    return given / steps_per_epoch if isinstance(given, int | float) else given
