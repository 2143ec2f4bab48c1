"""What a network in training is measured by: accuracy on clean images, under attack, and certified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from irverify.attacks import Pgd, has_label, keeps_label
from irverify.certify import ByAnalysis, Question, Settings
from irverify.certify.question import BALLS
from irverify.data import DataSet
from irverify.ir.graph import Graph
from irverify.regions import Region
from irverify.train.recipe import Recipe

AT_ONCE = 100
"""Images that are attacked together."""


@dataclass(frozen=True)
class Accuracies:
    """Shares of test images: `clean` of all of them, `attacked` and `certified` of the first ones, at the test
    radius."""

    clean: float
    attacked: float
    certified: float


class Evaluator:
    """Measures a network on the test images of its recipe. `graph` is the network as it is evaluated, its parameters
    live."""

    def __init__(self, recipe: Recipe, module: nn.Module, graph: Graph, test: DataSet, device: str) -> None:
        self.recipe, self.module, self.graph, self.test, self.device = recipe, module, graph, test, device
        first = test.select(np.arange(min(recipe.evaluation.first, len(test))))
        norm: Literal["inf", "2", "1"] = "inf" if recipe.norm == "inf" else "2" if recipe.norm == "2" else "1"
        self.question = Question(graph, first, recipe.test_eps, norm, test.valid_range)
        self.certifier = ByAnalysis(self.question, recipe.evaluation.certify, Settings(torch.float32, device))

    def __call__(self) -> Accuracies:
        """The accuracies of the network as it is; its mode is as before afterwards, and so is the random state."""
        training = self.module.training
        self.module.eval()
        try:
            with own_randomness(self.device):
                return Accuracies(self.clean(), self.attacked(), self.certified())
        finally:
            self.module.train(training)

    def clean(self) -> float:
        """The share of all test images that the module itself classifies as their label."""
        right = 0
        for start in range(0, len(self.test), 10 * AT_ONCE):
            part = self.test.select(np.arange(start, min(start + 10 * AT_ONCE, len(self.test))))
            right += int(self._right(self._inputs(part), torch.from_numpy(part.labels)).sum())
        return right / len(self.test)

    def attacked(self) -> float:
        """The share of the first images whose label survives projected gradient descent. No bound: what resists this
        attack may fall to another."""
        images = self.question.images
        survivors = 0
        for start in range(0, len(images), AT_ONCE):
            part = images.select(np.arange(start, min(start + AT_ONCE, len(images))))
            right = self._right(self._inputs(part), torch.from_numpy(part.labels)).nonzero()[:, 0].tolist()
            if right:
                survivors += self._survivors(part.select(right))
        return survivors / len(images)

    def certified(self) -> float:
        """The share of the first images that are proved to keep their label."""
        indices = range(len(self.question.images))
        outcomes = [outcome for batch in self.certifier.outcomes(indices) for outcome in batch]
        return sum(outcome.status == "certified" for outcome in outcomes) / len(outcomes)

    def _right(self, x: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return has_label(self.module(x).cpu(), labels)

    def _survivors(self, images: DataSet) -> int:
        steps = self.recipe.evaluation.attack_steps
        how = Pgd(steps, 1, min(1.0, 2.5 / steps), 1.0, seed=self.recipe.seed, untargeted=True)
        pixels = self._inputs(images)
        region: Region = BALLS[self.question.norm](pixels, self.recipe.test_eps, clip=images.valid_range)
        return int(keeps_label(self.graph, [region], torch.from_numpy(images.labels), how).sum())

    def _inputs(self, images: DataSet) -> Tensor:
        shape = self.graph.inputs[0].type.shape
        return torch.from_numpy(np.ascontiguousarray(images.images)).reshape(-1, *shape).to(self.device)


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Leaves the random states as they were; those of other GPUs are not even looked at."""
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        yield
