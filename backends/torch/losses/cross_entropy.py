"""Cross-entropy: of the network itself, and of bounds of its margins."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from irverify.backends.torch.boxes import checked_labels, described, is_floats
from irverify.backends.torch.models import Model, graph_of, inputs_of, logits_of
from irverify.errors import PropertyError


def clean(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of the network itself for inputs `[batch, *shape]` and labels `[batch]`. Raises
    PropertyError for labels that are no classes."""
    graph = graph_of(model)
    logits = logits_of(graph, inputs_of(graph, x))
    return functional.cross_entropy(logits, checked_labels(y, logits, logits.shape[1]))


def robust_cross_entropy(margins: Tensor, y: Tensor) -> Tensor:
    """The mean of `L(-margins, y)` for lower bounds `[batch, classes]` of `logit_y - logit_j`, 0 at j = y.

    For sound bounds it is at least the mean cross-entropy at whichever inputs of the regions (paper 2, eq. 10; paper 5,
    sec. 3.1; Wong and Kolter 2018, thm. 2). Raises PropertyError for labels that are no classes.
    """
    if not is_floats(margins) or margins.ndim != 2:
        raise PropertyError(f"expected margins as a tensor of floats [batch, classes], got {described(margins)}")
    return functional.cross_entropy(-margins, checked_labels(y, margins, margins.shape[1]))
