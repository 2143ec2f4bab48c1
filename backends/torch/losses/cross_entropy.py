"""Cross-entropy: of the network itself, and of bounds of its margins."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from irverify.backends.torch.models import Model, graph_of, logits_of


def clean(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of the network itself for inputs `[batch, *shape]` and labels `[batch]`."""
    return functional.cross_entropy(logits_of(graph_of(model), x), y)


def robust_cross_entropy(margins: Tensor, y: Tensor) -> Tensor:
    """The mean of `L(-margins, y)` for lower bounds `[batch, classes]` of `logit_y - logit_j`, 0 at j = y.

    For sound bounds it is at least the mean cross-entropy at whichever inputs of the regions (paper 2, eq. 10; paper 5,
    sec. 3.1; Wong and Kolter 2018, thm. 2).
    """
    return functional.cross_entropy(-margins, y)
