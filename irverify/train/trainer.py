"""The training loop: batches, schedules, named terms, an evaluation and a checkpoint after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from irverify.errors import FileError, IRVerifyError, TrainingError, UsageError
from irverify.train.adapting import adapted
from irverify.train.checkpoint import FILE, Checkpoint, Facts, Row, all_finite, save_checkpoint
from irverify.train.evaluation import Evaluator
from irverify.train.images import Images
from irverify.train.log import Events, write_log
from irverify.train.networks import network
from irverify.train.objectives import Batch, Model, objective
from irverify.train.recipe import Optimiser, Recipe
from irverify.train.schedule import Clock

EPOCH_SEEDS = 1_000_003
"""The random numbers of an epoch start from `EPOCH_SEEDS * seed + epoch`, so that one that is trained again after an
interruption is trained alike."""


@dataclass(frozen=True)
class Moment:
    """What is known after a step: where training stands, the radius, the options that follow schedules, the values of
    the terms, and the row of the last epoch that was logged."""

    clock: Clock
    eps: float
    scheduled: dict[str, float]
    terms: dict[str, float]
    last: Row | None


@dataclass
class Trainer:
    """Trains the network of a recipe on images, and keeps log and checkpoints in a folder.

    `facts` is what checkpoints say of the run; `watch` is called after every step. `network` holds the network that is
    trained. UsageError where recipe and images do not fit together.
    """

    recipe: Recipe
    images: Images
    folder: Path
    facts: Facts
    device: str = "cpu"
    watch: Callable[[Moment], None] = lambda moment: None
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        recipe, images = self.recipe, self.images
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            built = network(recipe.network, images.shape, images.classes, recipe.normalisation)
        self.network = built.to(self.device)
        self.optimiser = _optimiser(recipe.optimiser, self.network)
        norm: Literal["inf", "2", "1"] = "inf" if recipe.norm == "inf" else "2" if recipe.norm == "2" else "1"
        self.example = torch.from_numpy(images.train.images[:1]).to(self.device)
        self.model = Model(self.network, self.example, norm, images.train.valid_range)
        self.objectives = {term.name: objective(term, self.model) for term in recipe.terms}
        self.evaluate = Evaluator(recipe, self.network, self.model.graph, images.test, self.device)
        self.x = torch.from_numpy(images.train.images).to(self.device)
        self.y = torch.from_numpy(images.train.labels).to(self.device)
        self.clock = Clock(0, math.ceil(len(self.y) / recipe.batch), recipe.epochs)
        self.adapted: dict[str, dict[str, float]] = {}
        self.rows: list[Row] = []

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint of a run with the same recipe and images; the weights are then those of a run that
        was never interrupted. UsageError for another recipe or other images."""
        for what, mine, theirs in (
            ("recipe", self.facts.recipe, checkpoint.facts.recipe),
            ("images", self.facts.fingerprint, checkpoint.facts.fingerprint),
            ("part of the images", self.facts.part, checkpoint.facts.part),
        ):
            if mine != theirs:
                hint = "go on with what it began with, or start anew in another folder"
                raise UsageError(f"the {what} is not that of the checkpoint", where=str(checkpoint.path), hint=hint)
        checkpoint.restore(self.network, self.optimiser)
        self.clock = replace(self.clock, step=checkpoint.facts.step)
        self.rows = list(checkpoint.facts.rows)

    def run(self) -> None:
        """Trains to the end of the recipe.

        TrainingError as soon as a loss or a weight is not finite; FileError where checkpoint or log cannot be written.
        Either way, and after an interruption, the last checkpoint is whole.
        """
        events = Events(self.folder)
        try:
            with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
                for epoch in range(self.clock.step // self.clock.steps_per_epoch, self.recipe.epochs):
                    torch.manual_seed(EPOCH_SEEDS * self.recipe.seed + epoch)
                    row = self._epoch(epoch)
                    self.rows.append(row)
                    self._keep(epoch + 1)
                    events.add(row)
        finally:
            events.close()

    def _epoch(self, epoch: int) -> Row:
        begun = time.monotonic()
        self.network.train()
        now = self.recipe.eps(self.clock)
        self.adapted = {
            term.name: adapted(term, self.model, self.images.validation, now) for term in self.recipe.terms
        }
        totals: dict[str, float] = {}
        for rows in torch.randperm(len(self.y)).split(self.recipe.batch):
            eps = self.recipe.eps(self.clock)
            rate = self._set_rate()
            terms, scheduled = self._step(Batch(self.x[rows], self.y[rows], eps))
            self.clock = replace(self.clock, step=self.clock.step + 1)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * len(rows)
            self.watch(Moment(self.clock, eps, scheduled, terms, self.rows[-1] if self.rows else None))
        row: Row = {"epoch": epoch + 1, "step": self.clock.step, "eps": eps, "rate": rate, **scheduled}
        row |= {name: total / len(self.y) for name, total in totals.items()}
        return row | self._measured(epoch) | {"seconds": round(time.monotonic() - begun, 3)}

    def _step(self, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
        """One step of the optimiser: the total loss and its terms without their weights, and the options that follow
        schedules."""
        total = torch.zeros((), device=self.device)
        terms: dict[str, Tensor] = {}
        scheduled: dict[str, float] = {}
        for term in self.recipe.terms:
            weight = term.weight(self.clock)
            adapting = self.adapted[term.name]
            now = {name: schedule(self.clock) for name, schedule in term.schedules.items()} | adapting
            if not term.weight.constant:
                scheduled[f"{term.name}.weight"] = weight
            moving = [name for name, schedule in term.schedules.items() if not schedule.constant]
            scheduled |= {f"{term.name}.{name}": now[name] for name in (*moving, *adapting)}
            if weight:
                terms[term.name] = self.objectives[term.name](batch, now)
                total = total + weight * terms[term.name]
        values = {"loss": total.item(), **{name: value.item() for name, value in terms.items()}}
        if not all(map(math.isfinite, values.values())):
            listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise self._stopped(f"the loss is not finite ({listed}) at eps {batch.eps:g}")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        return values, scheduled

    def _set_rate(self) -> float:
        rate = self.recipe.optimiser.rate * self.recipe.optimiser.decay(self.clock)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _measured(self, epoch: int) -> Row:
        if (epoch + 1) % self.recipe.evaluation.every and epoch + 1 < self.recipe.epochs:
            return {"clean accuracy": None, "PGD accuracy": None, "certified accuracy": None}
        if not all_finite(list(self.network.state_dict().values())):
            raise self._stopped("weights are not finite")
        found = self.evaluate()
        return {
            "clean accuracy": found.clean,
            "PGD accuracy": found.attacked,
            "certified accuracy": found.certified,
        }

    def _keep(self, epoch: int) -> None:
        """Checkpoint and log after so many epochs."""
        if not all_finite(list(self.network.state_dict().values())):
            raise self._stopped("weights are not finite")
        facts = replace(self.facts, epoch=epoch, step=self.clock.step, rows=self.rows)
        try:
            save_checkpoint(self.folder, facts, self.network, self.optimiser)
            write_log(self.folder, self.rows)
        except FileError as error:
            raise FileError(error.message, where=error.where, hint=self._way_on()) from error

    def _stopped(self, message: str) -> IRVerifyError:
        place = f"epoch {int(self.clock.epoch) + 1}, step {self.clock.step}"
        return TrainingError(message, where=place, hint=f"a lower learning rate may help; {self._way_on()}")

    def _way_on(self) -> str:
        if not (self.folder / FILE).exists():
            return "there is no checkpoint yet"
        return f"the last checkpoint is whole: --resume {self.folder} goes on from it"


def _optimiser(recipe: Optimiser, module: nn.Module) -> torch.optim.Optimizer:
    if recipe.name == "sgd":
        return torch.optim.SGD(
            module.parameters(), recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.Adam(module.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
