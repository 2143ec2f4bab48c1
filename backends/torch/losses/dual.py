"""The dual loss, exact and with random projections (paper 5), and with the tightness regularisers of paper 2."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from irverify.backends.torch.dual_relaxation import Hidden, Projections, dual_relaxation
from irverify.backends.torch.losses.cross_entropy import robust_cross_entropy
from irverify.backends.torch.models import Clip, Model, Norm
from irverify.backends.torch.tightness import indicators


def dual(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, hidden: Hidden = "dual",
    projections: Projections | None = None, norm: Norm = "inf", clip: Clip = None,
) -> Tensor:  # fmt: skip
    """The robust cross-entropy on dual bounds: `mean L(-J, y)` with J the objective of the dual network for each margin
    `logit_y - logit_j` (paper 5, eq. 7 and sec. 3.1; Wong and Kolter 2018, eq. 14).

    The loss at every perturbed input is at most this. Pre-activation bounds are those of dual networks, intersected
    with intervals (`hidden="interval"`: intervals alone). With `projections` they are estimated from random columns,
    Cauchy for an l-infinity ball, normal at the input of an l2 ball, drawn anew each time (paper 5, sec. 3.2), and only
    the last layer is exact: the loss is then an estimate of the bound.
    """
    problem = dual_relaxation(model, x, y, eps, hidden=hidden, projections=projections, norm=norm, clip=clip)
    return robust_cross_entropy(problem.margins(), y)


class TightTerms(NamedTuple):
    """The three terms of paper 2, eq. 10, each a mean over the batch."""

    dual: Tensor
    """`L_CE(-p_C*, y)`."""
    d: Tensor
    """`sum_t d_t`."""
    r: Tensor
    """`sum_t r_t`."""


def tight_terms(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, hidden: Hidden = "dual",
    projections: Projections | None = None, norm: Norm = "inf", clip: Clip = None,
) -> TightTerms:  # fmt: skip
    """The dual loss and the tightness indicators d and r (paper 2, eq. 7 to 10), from one relaxed problem.

    The sums are over all classes t but the label. The options are those of `dual`.
    """
    problem = dual_relaxation(model, x, y, eps, hidden=hidden, projections=projections, norm=norm, clip=clip)
    margins, d, r = indicators(problem)
    return TightTerms(robust_cross_entropy(margins, y), d.sum(1).mean(), r.sum(1).mean())
