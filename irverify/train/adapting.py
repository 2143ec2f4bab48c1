"""Options of terms that adapt: set before every epoch by what the network does on images held out of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from irverify.backends.torch import losses
from irverify.backends.torch.schedules import AdaptiveWeight
from irverify.data import DataSet
from irverify.errors import TrainingError, UsageError
from irverify.train.objectives import Model
from irverify.train.terms import Term

AT_ONCE = 500
"""Images that are evaluated together."""

Parts: TypeAlias = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""Of inputs, labels and a radius: the mean loss, and the mean of the regulariser beside it."""


def adapted(term: Term, model: Model, validation: DataSet | None, eps: float) -> dict[str, float]:
    """The present values of the options of a term that adapt (paper 3, sec. 3.3), by name.

    They are functions of the weights, the images and the radius alone: a run that goes on from a checkpoint finds the
    same ones. TrainingError where the loss on these images is not finite.
    """
    return {name: _weight(term, model, validation, eps, rule.gamma) for name, rule in term.adaptive.items()}


def _weight(term: Term, model: Model, validation: DataSet | None, eps: float, gamma: float) -> float:
    place = f"terms.{term.name}"
    if validation is None:
        raise UsageError("expected images that are held out of training, got none", where=place)
    parts = PARTS[term.loss](term, model)

    def measured() -> Iterator[tuple[Tensor, Tensor, int]]:
        device = next(model.module.parameters()).device
        images, labels = torch.from_numpy(validation.images), torch.from_numpy(validation.labels)
        for x, y in zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
            yield *parts(x.to(device), y.to(device), eps), len(y)

    with torch.no_grad():
        try:
            return AdaptiveWeight(gamma).measure(measured())
        except UsageError as error:
            raise TrainingError(f"no weight on the validation images: {error.message}", where=place) from error


def _singleprop(term: Term, model: Model) -> Parts:
    lines: Literal["zero", "fast-lin"] = "zero" if term.fixed["lines"] == "zero" else "fast-lin"
    return lambda x, y, eps: losses.singleprop_terms(
        model.graph, x, y, eps, lines=lines, norm=model.norm, clip=model.clip
    )


PARTS: Mapping[str, Callable[[Term, Model], Parts]] = {"singleprop": _singleprop}
"""By the names of losses that have an option which may adapt."""
