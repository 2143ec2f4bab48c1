"""The robust loss with a SingleProp regulariser (paper 3, sec. 3.1, eq. 5)."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from irverify.backends.torch.models import Clip, Model, Norm, ball, graph_of, simplified
from irverify.passes.singleprop import SinglePropFastLin, SinglePropZero
from irverify.pipeline.manager import run

Lines: TypeAlias = Literal["zero", "fast-lin"]
"""Below an unstable ReLU: slope 0 (paper 3, eq. 8), or that of the line above (eq. 7)."""


class SinglePropTerms(NamedTuple):
    """The two terms of the loss, each a mean over the batch."""

    clean: Tensor
    """`L(z_nom, y)`."""
    regularizer: Tensor
    """R of eq. 5: `L(worst, y) - L(z_nom, y)`."""


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
    graph = simplified(graph_of(model))
    estimator = SinglePropZero() if lines == "zero" else SinglePropFastLin()
    halves = estimator.halves(run(graph, (), ball(x, eps, norm, clip)))
    found = [halves[name] for name in graph.outputs]
    nominal = torch.cat([part.nominal.reshape(x.shape[0], -1) for part in found], dim=1)
    gap = torch.cat([part.gap.reshape(x.shape[0], -1) for part in found], dim=1)
    worst = nominal + torch.where(one_hot(y, gap.shape[1]).bool(), -gap, gap)
    fit = cross_entropy(nominal, y)
    return SinglePropTerms(fit, cross_entropy(worst, y) - fit)


def singleprop(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, weight: float = 1.0, lines: Lines = "zero",
    norm: Norm = "inf", clip: Clip = None,
) -> Tensor:  # fmt: skip
    """`L + weight R` (paper 3, sec. 3.1), a mean over the batch; see `singleprop_terms`."""
    fit, regularizer = singleprop_terms(model, x, y, eps, lines=lines, norm=norm, clip=clip)
    return fit + weight * regularizer
