"""Training losses, one file a method: functions of (model, x, y, eps, ...) with a scalar result, a mean over the batch.

A model is a graph (`iv.compile`) or a bound graph; parameters are live, so that the result is differentiable in those
of the user's module. A graph normalises with the running statistics of a BatchNorm;
`irverify.backends.torch.training_graph.TrainingGraph` gives one that follows each batch. `Term` makes a module of a
loss, `Sum` adds named ones up.
"""

from __future__ import annotations

from irverify.backends.torch.dual_relaxation import Projections
from irverify.backends.torch.losses.adversarial import Ascent, adversarial, trades
from irverify.backends.torch.losses.cross_entropy import clean, robust_cross_entropy
from irverify.backends.torch.losses.dual import TightTerms, dual, tight_terms
from irverify.backends.torch.losses.robust import crown_ibp, ibp
from irverify.backends.torch.losses.singleprop import SinglePropTerms, singleprop, singleprop_terms
from irverify.backends.torch.losses.sum import Sum, Summed, Term

__all__ = [
    "Ascent",
    "Projections",
    "SinglePropTerms",
    "Sum",
    "Summed",
    "Term",
    "TightTerms",
    "adversarial",
    "clean",
    "crown_ibp",
    "dual",
    "ibp",
    "robust_cross_entropy",
    "singleprop",
    "singleprop_terms",
    "tight_terms",
    "trades",
]
