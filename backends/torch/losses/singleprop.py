"""The robust loss with a SingleProp regulariser (paper 3, sec. 3.1, eq. 5)."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from irverify.backends.torch.boxes import checked_labels, ends, radius
from irverify.backends.torch.half_program import half_program
from irverify.backends.torch.models import Clip, Model, Norm, ball, graph_of, inputs_of, is_number, simplified
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.passes.lines import Choice
from irverify.passes.singleprop import Half, halves
from irverify.pipeline.manager import fitted
from irverify.regions.base import rowwise

Lines: TypeAlias = Literal["zero", "fast-lin"]
"""Below an unstable ReLU: slope 0 (paper 3, eq. 8), or that of the line above (eq. 7)."""


class SinglePropTerms(NamedTuple):
    """The two terms of the loss, each a mean over the batch."""

    clean: Tensor
    """`L(z_nom, y)`."""
    regularizer: Tensor
    """R of eq. 5: `L(worst, y) - L(z_nom, y)`."""


class _Ball(NamedTuple):
    """What `ball` makes the region of."""

    eps: float | Tensor
    norm: Norm
    clip: Clip


def singleprop_terms(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, lines: Lines = "zero", norm: Norm = "inf",
    clip: Clip = None,
) -> SinglePropTerms:  # fmt: skip
    """Cross-entropy and SingleProp regulariser (paper 3, eq. 5), from one forward pass beside the clean one:

        R = E[ L((z_nom - v) y + (z_nom + v) (1 - y), y) - L(z_nom, y) ]

    with y one-hot and v the estimate of half the distance between the bounds of the logits (eq. 6). R is an estimate of
    how much the loss can grow, no bound. Without `clip` z_nom is the output for `x` itself, as in the paper; with it
    the output at the centre of the clipped box.
    """
    nominal, worst, y = _logits(model, x, y, _Ball(eps, norm, clip), lines)
    fit = cross_entropy(nominal, y)
    return SinglePropTerms(fit, cross_entropy(worst, y) - fit)


def _logits(model: Model, x: Tensor, y: Tensor, around: _Ball, lines: Lines) -> tuple[Tensor, Tensor, Tensor]:
    """z_nom and `(z_nom - v) y + (z_nom + v) (1 - y)`, `[batch, classes]`; the labels y, checked."""
    if lines not in ("zero", "fast-lin"):
        raise UsageError(f"expected the lines 'zero' or 'fast-lin', got {lines!r}")
    graph = graph_of(model)
    x = inputs_of(graph, x)
    parts = _halves(simplified(graph), x, around, "zero" if lines == "zero" else "same")
    nominal, gap = _joined([half.nominal for half in parts]), _joined([half.gap for half in parts])
    y = checked_labels(y, x, nominal.shape[1])
    sign = torch.ones_like(gap).scatter_(1, y.unsqueeze(1), -1.0)
    return nominal, torch.addcmul(nominal, gap, sign), y


def _joined(outputs: list[Tensor]) -> Tensor:
    """Outputs `[batch, *shape]` one after the other, `[batch, classes]`."""
    return rowwise(outputs[0]) if len(outputs) == 1 else torch.cat([rowwise(part) for part in outputs], dim=1)


def _halves(graph: Graph, x: Tensor, around: _Ball, choice: Choice) -> list[Half]:
    """z_nom and v of each output."""
    program = half_program(graph, choice) if around.norm == "inf" else None
    if program is None:
        found = halves(graph, fitted(graph, ball(x, *around)), {}, choice, keep=False)
        return [found[name] for name in graph.outputs]
    x = x.to(graph.leaves[0].device) if graph.leaves else x
    return program(*ends(x, radius(around.eps, x), around.clip))


def singleprop(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, weight: float = 1.0, lines: Lines = "zero",
    norm: Norm = "inf", clip: Clip = None,
) -> Tensor:  # fmt: skip
    """`L + weight R` (paper 3, sec. 3.1), a mean over the batch; see `singleprop_terms`."""
    if not (is_number(weight) and weight >= 0):
        raise UsageError(f"expected a finite weight >= 0, got {weight}")
    nominal, worst, y = _logits(model, x, y, _Ball(eps, norm, clip), lines)
    estimate = cross_entropy(worst, y)  # L + R
    return estimate if weight == 1 else (1 - weight) * cross_entropy(nominal, y) + weight * estimate
