"""What computes the terms of a loss: for each name in `irverify.train.terms.LOSSES` a function of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from irverify.backends.torch import losses, regularizers
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.dual_relaxation import Hidden
from irverify.backends.torch.losses.robust import crown_ibp, ibp
from irverify.frontends.compile import compile as compile_source
from irverify.ir.graph import Graph
from irverify.train.terms import Fixed, Term


@dataclass(frozen=True)
class Batch:
    """Inputs `[batch, *shape]`, labels `[batch]`, and the radius of the perturbation."""

    x: Tensor
    y: Tensor
    eps: float


@dataclass
class Model:
    """The network in training, an `example` input with batch axis, and the perturbations that it meets."""

    module: nn.Module
    example: Tensor
    norm: Literal["inf", "2", "1"]
    clip: tuple[float, float]

    @cached_property
    def graph(self) -> Graph:
        """The network as it is evaluated; the parameters and the running statistics are live."""
        training = self.module.training
        graph = compile_source(self.module.eval(), self.example)
        self.module.train(training)
        return graph

    @cached_property
    def ibp(self) -> BoundGraph:
        """Intervals of the network in training."""
        return BoundGraph(self.module, self.example, "ibp")

    @cached_property
    def crown_ibp(self) -> BoundGraph:
        """Backward bounds of the network in training, over its intervals."""
        return BoundGraph(self.module, self.example, "crown-ibp")


Numbers: TypeAlias = Mapping[str, float]
"""The present values of the options of a term that follow schedules."""
Objective: TypeAlias = Callable[[Batch, Numbers], Tensor]
"""The value of a term on a batch: a scalar, a mean over the batch."""
Maker: TypeAlias = Callable[[Model, Mapping[str, Fixed]], Objective]


def objective(term: Term, model: Model) -> Objective:
    """What computes a term, without its weight."""
    return MAKERS[term.loss](model, term.fixed)


def _cross_entropy(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    return lambda batch, now: functional.cross_entropy(model.module(batch.x), batch.y)


def _ibp(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    return lambda batch, now: ibp(model.ibp, batch.x, batch.y, batch.eps, now["kappa"], model.clip)


def _crown_ibp(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    def value(batch: Batch, now: Numbers) -> Tensor:
        bounds = model.crown_ibp if now["beta"] else model.ibp  # intervals alone cost less
        return crown_ibp(bounds, batch.x, batch.y, batch.eps, now["kappa"], now["beta"], model.clip)

    return value


def _dual(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    hidden, projections = _relaxation(fixed)
    return lambda batch, now: losses.dual(
        model.graph, batch.x, batch.y, batch.eps,
        hidden=hidden, projections=projections, norm=model.norm, clip=model.clip,
    )  # fmt: skip


def _tight(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    hidden, projections = _relaxation(fixed)

    def value(batch: Batch, now: Numbers) -> Tensor:
        if not any(now.values()):
            return batch.x.new_zeros(())
        found = losses.tight_terms(
            model.graph, batch.x, batch.y, batch.eps,
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
        ascent = losses.Ascent(steps, now["step"])
        return losses.adversarial(
            model.graph, batch.x, batch.y, batch.eps, ascent=ascent, norm=model.norm, clip=model.clip
        )

    return value


def _trades(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    steps = int(fixed["steps"])

    def value(batch: Batch, now: Numbers) -> Tensor:
        ascent = losses.Ascent(steps, now["step"])
        return losses.trades(
            model.graph, batch.x, batch.y, batch.eps,
            beta=now["beta"], ascent=ascent, norm=model.norm, clip=model.clip,
        )  # fmt: skip

    return value


def _singleprop(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    lines: Literal["zero", "fast-lin"] = "zero" if fixed["lines"] == "zero" else "fast-lin"

    def value(batch: Batch, now: Numbers) -> Tensor:
        return losses.singleprop(
            model.graph, batch.x, batch.y, batch.eps,
            weight=now["strength"], lines=lines, norm=model.norm, clip=model.clip,
        )  # fmt: skip

    return value


def _rs(model: Model, fixed: Mapping[str, Fixed]) -> Objective:
    naive = fixed["bounds"] == "interval"
    bounds: Literal["interval", "improved-interval"] = "interval" if naive else "improved-interval"
    return lambda batch, now: regularizers.rs_loss(
        model.graph, batch.x, batch.eps, bounds=bounds, norm=model.norm, clip=model.clip
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
