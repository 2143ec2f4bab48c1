"""What computes the terms of a loss: for each name in `irverify.train.terms.LOSSES` a function of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from irverify.backends.torch import losses, regularizers
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.dual_relaxation import Hidden
from irverify.backends.torch.losses.adversarial import normal_start, uniform_start
from irverify.backends.torch.losses.robust import crown_ibp, ibp
from irverify.backends.torch.models import Norm, ball
from irverify.backends.torch.training_graph import Total, TrainingGraph
from irverify.frontends.compile import compile as compile_source
from irverify.ir.graph import Graph
from irverify.regions import Region
from irverify.train.terms import Fixed, Term


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs `[batch, *shape]`, labels `[batch]`, and the radius of the perturbation.

    Where processes divide a batch, `whole` has the inputs of all of it, and these are its `rows`.
    """

    x: Tensor
    y: Tensor
    eps: float
    whole: Tensor | None = None
    rows: slice = field(default_factory=lambda: slice(None))


@dataclass
class Model:
    """The network in training, an `example` input with batch axis, and the perturbations that it meets; `total` sums
    over the processes that divide a batch.

    All losses of a step see one network: the batch normalisations of a module in training take mean and variance of the
    clean batch, and their running statistics are updated once.
    """

    module: nn.Module
    example: Tensor
    norm: Norm
    clip: tuple[float, float]
    total: Total | None = None
    _batch: Batch | None = field(default=None, init=False)
    _logits: Tensor = field(init=False)

    @cached_property
    def graph(self) -> Graph:
        """The network as it is evaluated; the parameters and the running statistics are live."""
        training = self.module.training
        graph = compile_source(self.module.eval(), self.example)
        self.module.train(training)
        return graph

    @cached_property
    def _training(self) -> TrainingGraph | None:
        """None for a network that is in training as it is in evaluation."""
        if not any(isinstance(part, _BatchNorm) for part in self.module.modules()):
            return None
        return TrainingGraph(self.module, self.example, self.total)

    def at(self, batch: Batch) -> Graph:
        """The network as it is for this batch."""
        if self._training is None:
            return self.graph
        self._take(self._training, batch)
        return self._training.graph

    def logits(self, batch: Batch) -> Tensor:
        """Of the clean inputs, `[batch, classes]`."""
        if self._training is None:
            logits: Tensor = self.module(batch.x)
            return logits
        self._take(self._training, batch)
        return self._logits

    def _take(self, training: TrainingGraph, batch: Batch) -> None:
        if self._batch is not batch:
            self._logits = training.take(batch.x, len(batch.x if batch.whole is None else batch.whole))
            self._batch = batch

    def bounded(self, batch: Batch, method: Literal["ibp", "crown-ibp"]) -> BoundGraph:
        """Intervals of the network as it is for this batch, or backward bounds over its intervals."""
        self.at(batch)
        return self._intervals if method == "ibp" else self._backward

    @cached_property
    def _intervals(self) -> BoundGraph:
        return self._bound_graph("ibp")

    @cached_property
    def _backward(self) -> BoundGraph:
        return self._bound_graph("crown-ibp")

    def _bound_graph(self, method: str) -> BoundGraph:
        if self._training is None:
            return BoundGraph(self.module, self.example, method)
        return BoundGraph(self._training.graph, method=method)

    def start(self, batch: Batch, how: Callable[[Region, Tensor], Tensor]) -> Tensor | None:
        """Where an attack on a part of a batch starts: drawn for the whole, so that it does not depend on how that is
        divided. None for a whole batch: as the attack itself does."""
        if batch.whole is None:
            return None
        return how(ball(batch.whole, batch.eps, self.norm, self.clip), batch.whole)[batch.rows]


Numbers: TypeAlias = Mapping[str, float]
"""The present values of the options of a term that follow schedules."""
Objective: TypeAlias = Callable[[Batch, Numbers], Tensor]
"""The value of a term on a batch: a scalar, a mean over the batch."""
Maker: TypeAlias = Callable[[Model, Mapping[str, Fixed]], Objective]


def objective(term: Term, model: Model) -> Objective:
    """What computes a term, without its weight."""
    return MAKERS[term.loss](model, term.fixed)


def _cross_entropy(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    return lambda batch, now: functional.cross_entropy(model.logits(batch), batch.y)


def _ibp(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    return lambda batch, now: ibp(
        model.bounded(batch, "ibp"), batch.x, batch.y, batch.eps, now["kappa"], model.clip
    )


def _crown_ibp(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    def value(batch: Batch, now: Numbers) -> Tensor:
        bounds = model.bounded(batch, "crown-ibp" if now["beta"] else "ibp")  # intervals alone cost less
        return crown_ibp(bounds, batch.x, batch.y, batch.eps, now["kappa"], now["beta"], model.clip)

    return value


def _dual(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    hidden, projections = _relaxation(fixed)
    return lambda batch, now: losses.dual(
        model.at(batch), batch.x, batch.y, batch.eps,
        hidden=hidden, projections=projections, norm=model.norm, clip=model.clip,
    )  # fmt: skip


def _tight(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    hidden, projections = _relaxation(fixed)

    def value(batch: Batch, now: Numbers) -> Tensor:
        if not any(now.values()):
            return batch.x.new_zeros(())
        found = losses.tight_terms(
            model.at(batch), batch.x, batch.y, batch.eps,
            hidden=hidden, projections=projections, norm=model.norm, clip=model.clip,
        )  # fmt: skip
        weighted = [now[name] * term for name, term in zip(("dual", "d", "r"), found, strict=True) if now[name]]
        return torch.stack(weighted).sum()

    return value


def _relaxation(fixed: Mapping[str, Fixed]) -> tuple[Hidden, losses.Projections | None]:
    columns = int(fixed["projections"])
    return "interval" if fixed["hidden"] == "interval" else "dual", losses.Projections(columns) if columns else None


def _adversarial(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    steps = int(fixed["steps"])

    def value(batch: Batch, now: Numbers) -> Tensor:
        start = model.start(batch, lambda region, x: uniform_start(region))
        ascent = losses.Ascent(steps, now["step"], start=start)
        return losses.adversarial(
            model.at(batch), batch.x, batch.y, batch.eps, ascent=ascent, norm=model.norm, clip=model.clip
        )

    return value


def _trades(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    steps = int(fixed["steps"])

    def value(batch: Batch, now: Numbers) -> Tensor:
        ascent = losses.Ascent(steps, now["step"], start=model.start(batch, normal_start))
        return losses.trades(
            model.at(batch), batch.x, batch.y, batch.eps,
            beta=now["beta"], ascent=ascent, norm=model.norm, clip=model.clip,
        )  # fmt: skip

    return value


def _singleprop(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    lines: Literal["zero", "fast-lin"] = "zero" if fixed["lines"] == "zero" else "fast-lin"

    def value(batch: Batch, now: Numbers) -> Tensor:
        return losses.singleprop(
            model.at(batch), batch.x, batch.y, batch.eps,
            weight=now["strength"], lines=lines, norm=model.norm, clip=model.clip,
        )  # fmt: skip

    return value


def _rs(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    naive = fixed["bounds"] == "interval"
    bounds: Literal["interval", "improved-interval"] = "interval" if naive else "improved-interval"
    return lambda batch, now: regularizers.rs_loss(
        model.at(batch), batch.x, batch.eps, bounds=bounds, norm=model.norm, clip=model.clip
    )


def _l1(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    return lambda batch, now: regularizers.l1(model.graph)


MAKERS: dict[str, Maker] = {
    "cross-entropy": _cross_entropy,
    "ibp": _ibp,
    "crown-ibp": _crown_ibp,
    "dual": _dual,
    "tight": _tight,
    "singleprop": _singleprop,
    "adversarial": _adversarial,
    "trades": _trades,
    "rs": _rs,
    "l1": _l1,
}
"""By the names of losses."""
