"""Training on attacked inputs: PGD adversarial training and TRADES. Neither bounds anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from irverify.backends.torch.boxes import checked_labels
from irverify.backends.torch.models import (
    Clip,
    Model,
    Norm,
    ball,
    graph_of,
    inputs_of,
    is_count,
    is_number,
    logits_of,
    simplified,
)
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.regions import Region
from irverify.regions.base import rowwise


@dataclass(frozen=True)
class Ascent:
    """How a training step attacks: `steps` of projected gradient ascent, each of `step` times the region's half width
    (after Madry et al. 2018), from the inputs `start` `[batch, *shape]`, or from random ones, drawn from `generator`,
    on the device of the inputs."""

    steps: int = 10
    step: float = 0.25
    generator: torch.Generator | None = None
    start: Tensor | None = None

    def __post_init__(self) -> None:
        if not (is_count(self.steps) and is_number(self.step) and self.step > 0):
            message = f"expected a whole number of steps >= 0 and step > 0, got steps={self.steps}, step={self.step}"
            raise UsageError(message)
        if not isinstance(self.start, Tensor | None):
            raise UsageError(f"expected inputs to start from as a tensor, got {type(self.start).__name__}")


def adversarial(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, ascent: Ascent = Ascent(), norm: Norm = "inf",
    clip: Clip = None,
) -> Tensor:  # fmt: skip
    """The mean cross-entropy at inputs that projected gradient ascent on it finds in the region, from a uniformly
    random start (Madry et al. 2018, eq. 2.1; the training of paper 1, sec. 4.1). Raises PropertyError for labels that
    are no classes."""
    graph, x, y = _checked(model, x, y)
    region = ball(x, eps, norm, clip)
    start = uniform_start(region, ascent.generator) if ascent.start is None else region.project(ascent.start.to(x))
    attacked = _ascended(graph, region, start, ascent, lambda logits: cross_entropy(logits, y, reduction="sum"))
    return cross_entropy(logits_of(graph, attacked), y)


TRADES_START = 1e-3
"""The scale of the normal noise that an attack of TRADES starts from; at `x` itself the divergence has no slope."""


def trades(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, beta: float = 6.0, ascent: Ascent = Ascent(),
    norm: Norm = "inf", clip: Clip = None,
) -> Tensor:  # fmt: skip
    """`L(f(x), y) + beta KL(f(x) || f(x'))`, a mean over the batch, with x' in the region from projected gradient
    ascent on the divergence (Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy",
    eq. 5 and alg. 1; their beta is 1 / lambda). Raises PropertyError for labels that are no classes."""
    graph, x, y = _checked(model, x, y)
    if not (is_number(beta) and beta >= 0):
        raise UsageError(f"expected a finite weight beta >= 0, got {beta}")
    region = ball(x, eps, norm, clip)
    natural = logits_of(graph, x)
    target = log_softmax(natural.detach(), dim=1)
    start = normal_start(region, x, ascent.generator) if ascent.start is None else region.project(ascent.start.to(x))
    attacked = _ascended(graph, region, start, ascent, lambda logits: _divergence(target, logits, "sum"))
    apart = _divergence(log_softmax(natural, dim=1), logits_of(graph, attacked), "batchmean")
    return cross_entropy(natural, y) + beta * apart


def uniform_start(region: Region, generator: torch.Generator | None = None) -> Tensor:
    """Where `adversarial` starts: uniformly random inputs of the region, `[batch, *shape]`."""
    return region.sample(1, generator)[0]


def normal_start(region: Region, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Where `trades` starts: near `x` `[batch, *shape]`."""
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return region.project(x + TRADES_START * noise)


def _checked(model: Model, x: Tensor, y: Tensor) -> tuple[Graph, Tensor, Tensor]:
    """The graph as analyses see it, the inputs `[batch, *shape]` and their labels."""
    graph = graph_of(model)
    x = inputs_of(graph, x)
    return simplified(graph), x, checked_labels(y, x, sum(graph[name].type.size for name in graph.outputs))


def _divergence(target: Tensor, logits: Tensor, reduction: str) -> Tensor:
    """`KL(p || q)` with the log of p given and q the softmax of the logits."""
    return kl_div(log_softmax(logits, dim=1), target, reduction=reduction, log_target=True)


def _ascended(
    graph: Graph, region: Region, start: Tensor, ascent: Ascent, objective: Callable[[Tensor], Tensor]
) -> Tensor:
    """Where ascent on a sum over the batch ends; no function of the parameters."""
    point = start.detach()
    lower, upper = region.box()
    width = (upper - lower) / 2 * ascent.step
    for _ in range(ascent.steps):
        with torch.enable_grad():
            point.requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(logits_of(graph, point)), point)
        point = region.project(point.detach() + _step(gradient, width, signs=region.is_box))
    return point.detach()


def _step(gradient: Tensor, width: Tensor, *, signs: bool) -> Tensor:
    """By signs in a box, along the normalised gradient in a ball."""
    if signs:
        return width * gradient.sign()
    shape = (-1, *(1,) * (gradient.ndim - 1))
    norm = torch.linalg.vector_norm(rowwise(gradient), dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    moved: Tensor = rowwise(width).amax(1).reshape(shape) * gradient / norm.reshape(shape)
    return moved
