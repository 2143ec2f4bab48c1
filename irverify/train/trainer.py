"""The training loop: batches, schedules, named terms, an evaluation and a checkpoint after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from irverify.errors import FileError, IRVerifyError, TrainingError, UsageError
from irverify.train import masks
from irverify.train.adapting import adapted
from irverify.train.checkpoint import Checkpoint, Facts, Row, all_finite, save_checkpoint
from irverify.train.evaluation import Evaluator, own_randomness
from irverify.train.images import Images
from irverify.train.log import write_events, write_log
from irverify.train.networks import network
from irverify.train.objectives import Batch, Model, objective
from irverify.train.processes import ALONE, OtherEnded, Processes, Share
from irverify.train.pruning import Pruning
from irverify.train.recipe import Optimiser, Recipe
from irverify.train.schedule import Clock

EPOCH_SEEDS = 1_000_003
"""The random numbers of an epoch start from `EPOCH_SEEDS * seed + epoch`, so that one that is trained again after an
interruption is trained alike."""


@dataclass(frozen=True)
class Moment:
    """What is known after a step: where training stands, the radius, the options that follow schedules, the values of
    the terms."""

    clock: Clock
    eps: float
    scheduled: dict[str, float]
    terms: dict[str, float]


@dataclass
class Trainer:
    """Trains the network of a recipe on images, and keeps log and checkpoints in a folder.

    `facts` is what checkpoints say of the run; `watch` is called after every step. `network` holds the network that is
    trained, and `kept` is how many epochs the checkpoint in the folder has. Of several `processes` the first one alone
    measures, writes and calls `watch`. UsageError where recipe and images do not fit together.
    """

    recipe: Recipe
    images: Images
    folder: Path
    facts: Facts
    device: str = "cpu"
    processes: Processes = ALONE
    watch: Callable[[Moment], None] = lambda moment: None
    network: nn.Module = field(init=False)
    kept: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        recipe, images = self.recipe, self.images
        with own_randomness(self.device):
            torch.manual_seed(recipe.seed)
            built = network(recipe.network, images.shape, images.classes, recipe.normalisation)
        self.network = built.to(self.device)
        self.optimiser = _optimiser(recipe.optimiser, self.network)
        masks.keep(self.network, self.optimiser)
        self.example = torch.from_numpy(images.train.images[:1]).to(self.device)
        self.x = torch.from_numpy(images.train.images).to(self.device)
        self.y = torch.from_numpy(images.train.labels).to(self.device)
        self.clock = Clock(0, math.ceil(len(self.y) / recipe.batch), recipe.epochs)
        self.adapted: dict[str, dict[str, float]] = {}
        self.rows: list[Row] = []
        self._lower()

    def _lower(self) -> None:
        """Makes graphs and losses of the network as it is: anew when some of its ReLUs are no longer any."""
        recipe, images = self.recipe, self.images
        norm: Literal["inf", "2", "1"] = "inf" if recipe.norm == "inf" else "2" if recipe.norm == "2" else "1"
        total = self.processes.total if self.processes.size > 1 else None
        self.model = Model(self.network, self.example, norm, images.train.valid_range, total)
        self.objectives = {term.name: objective(term, self.model) for term in recipe.terms}
        self.evaluate = Evaluator(recipe, self.network, self.model.graph, images.test, self.device)

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
        if self.recipe.prunings:
            self._lower()
        self.clock = replace(self.clock, step=checkpoint.facts.step)
        self.rows = list(checkpoint.facts.rows)
        if checkpoint.path.parent == self.folder:
            self.kept = checkpoint.facts.epoch

    def run(self) -> None:
        """Trains to the end of the recipe.

        TrainingError as soon as a loss or a weight is not finite, or another process has ended; FileError where
        checkpoint or log cannot be written. Either way, and after an interruption, the last checkpoint is whole.
        """
        try:
            with self.processes.together(), own_randomness(self.device), _repeatable():
                self.processes.meet()
                self.processes.agree(list(self.network.state_dict().values()))
                for epoch in range(self.clock.step // self.clock.steps_per_epoch, self.recipe.epochs):
                    torch.manual_seed(EPOCH_SEEDS * self.recipe.seed + epoch)
                    self.rows.append(self._epoch(epoch))
                    if self.processes.first:
                        self._keep(epoch + 1)
                if self.processes.first and self.rows:  # where a run was stopped after its last checkpoint
                    write_log(self.folder, self.rows)
        except (OtherEnded, FileError) as error:
            raise type(error)(error.message, where=error.where, hint=self._way_on()) from error

    def _epoch(self, epoch: int) -> Row:
        begun = time.monotonic()
        self.network.train()
        now = self.recipe.eps(self.clock)
        self.adapted = {
            term.name: adapted(term, self.model, self.images.validation, now) for term in self.recipe.terms
        }
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for rows in torch.randperm(len(self.y)).split(self.recipe.batch):
            eps = self.recipe.eps(self.clock)
            rate = self._set_rate()
            terms, scheduled = self._step(rows, eps)
            self.clock = replace(self.clock, step=self.clock.step + 1)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * len(rows)
                counts[name] = counts.get(name, 0) + len(rows)  # a term of weight 0 is not computed
            if self.processes.first:
                self.watch(Moment(self.clock, eps, scheduled, terms))
        row: Row = {"epoch": epoch + 1, "step": self.clock.step, "eps": eps, "rate": rate, **scheduled}
        row |= {name: total / counts[name] for name, total in totals.items()}
        row |= self._pruned(epoch)
        return row | self._measured(epoch) | {"seconds": round(time.monotonic() - begun, 3)}

    def _step(self, rows: Tensor, eps: float) -> tuple[dict[str, float], dict[str, float]]:
        """One step of the optimiser: the total loss and its terms without their weights, and the options that follow
        schedules."""
        share = self.processes.share(len(rows))
        batch = self._batch(rows, eps, share)
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
        means = self.processes.total(share.weight * torch.stack([total, *terms.values()]).detach())
        values = dict(zip(("loss", *terms), means.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise self._stopped(f"the loss is not finite ({listed}) at eps {eps:g}")
        if total.requires_grad:  # not where all weights are 0
            self.optimiser.zero_grad(set_to_none=True)
            (share.weight * total).backward()
            self.processes.add_gradients(self.network)
            self.optimiser.step()
        return values, scheduled

    def _batch(self, rows: Tensor, eps: float, share: Share) -> Batch:
        """The part of a batch that this process computes."""
        x, y = self.x[rows], self.y[rows]
        if not share.split:
            return Batch(x, y, eps)
        return Batch(x[share.rows], y[share.rows], eps, whole=x, rows=share.rows)

    def _set_rate(self) -> float:
        rate = self.recipe.optimiser.rate * self.recipe.optimiser.decay(self.clock)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _pruned(self, epoch: int) -> Row:
        """Prunes what is due after an epoch; how much is pruned then, and where that became more, the clean accuracy
        before. Nothing where the recipe has no pruning."""
        if not self.recipe.prunings:
            return {}
        due = [pruning for pruning in self.recipe.prunings if epoch + 1 in pruning.after]
        row: Row = {"clean accuracy before pruning": None}
        if due:
            self._check_weights()
            if self.processes.first:
                self.network.eval()
                row["clean accuracy before pruning"] = self.evaluate.clean()
                self.network.train()
            for pruning in due:
                self._prune(pruning)
            self._lower()
        weights, relus = masks.pruned_weights(self.network), masks.pruned_relus(self.network)
        return row | {"pruned weights": weights.count, "pruned ReLUs": relus.count}

    def _prune(self, pruning: Pruning) -> None:
        if pruning.prune == "weights":
            masks.prune_weights(
                self.network, pruning.threshold, sparsity=pruning.sparsity, over=pruning.over, only=pruning.only
            )
            return
        found = masks.activity(self.network, self.x)
        self.processes.agree(list(found.active.values()))
        masks.prune_relus(self.network, found, pruning.share, only=pruning.only)

    def _measured(self, epoch: int) -> Row:
        skipped = (epoch + 1) % self.recipe.evaluation.every and epoch + 1 < self.recipe.epochs
        if skipped or not self.processes.first:
            return {"clean accuracy": None, "PGD accuracy": None, "certified accuracy": None}
        self._check_weights()
        found = self.evaluate()
        return {
            "clean accuracy": found.clean,
            "PGD accuracy": found.attacked,
            "certified accuracy": found.certified,
        }

    def _keep(self, epoch: int) -> None:
        """Checkpoint and log after so many epochs."""
        self._check_weights()
        facts = replace(self.facts, epoch=epoch, step=self.clock.step, rows=self.rows)
        save_checkpoint(self.folder, facts, self.network, self.optimiser)
        self.kept = epoch
        write_log(self.folder, self.rows)
        write_events(self.folder, self.rows[-1])

    def _check_weights(self) -> None:
        if not all_finite(list(self.network.state_dict().values())):
            raise self._stopped("weights are not finite")

    def _stopped(self, message: str) -> IRVerifyError:
        place = f"epoch {int(self.clock.epoch) + 1}, step {self.clock.step}"
        return TrainingError(message, where=place, hint=f"a lower learning rate may help; {self._way_on()}")

    def _way_on(self) -> str:
        if not self.kept:
            return "there is no checkpoint yet"
        return f"the last checkpoint is whole: --resume {self.folder} goes on from it"


def _repeatable() -> AbstractContextManager[None]:
    """The same numbers each time from the libraries that could choose."""
    return cudnn.flags(deterministic=True, benchmark=False)


def _optimiser(recipe: Optimiser, module: nn.Module) -> torch.optim.Optimizer:
    if recipe.name == "sgd":
        return torch.optim.SGD(
            module.parameters(), recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.Adam(module.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
