"""The box around each input of a batch, and the labels that its margins are about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from irverify.backends.torch.program import Box
from irverify.errors import PropertyError, RegionError, UsageError
from irverify.ir.graph import Graph

Clip: TypeAlias = tuple[Any, Any] | None
"""The valid range `(lo, hi)` of inputs, numbers or tensors that broadcast; None: no input is ruled out."""


def box_around(
    graph: Graph, x: Tensor | Sequence[Tensor], eps: float | Tensor, clip: Clip, dtype: torch.dtype
) -> Box:
    """The boxes `[x - eps, x + eps]`, met with `clip`, in this element type.

    Raises ShapeError or UsageError for inputs that do not fit the graph, RegionError for eps or clip that make no box.
    """
    given = (x,) if isinstance(x, Tensor) else tuple(x)
    if not all(part.is_floating_point() for part in given):
        kinds = ", ".join(str(part.dtype) for part in given)
        raise UsageError(f"expected inputs of a float type, got {kinds}", where=f"graph {graph.name!r}")
    batched = graph.batched([part.to(dtype) for part in given])
    clean = tuple(batched[node.name] for node in graph.inputs)
    pairs = [_ends(part, radius(eps, part), clip) for part in clean]
    return Box(clean, tuple(lower for lower, _ in pairs), tuple(upper for _, upper in pairs))


def radius(eps: float | Tensor, x: Tensor) -> float | Tensor:
    """A number, or a tensor with as many axes as x. Raises RegionError for what is no radius of each element."""
    if not isinstance(eps, Tensor):
        if not 0 <= eps < math.inf:
            raise RegionError(f"eps must be a finite number >= 0, got {eps}")
        return float(eps)
    fits = all(extent in (1, own) for extent, own in zip(eps.shape, x.shape, strict=False))
    if eps.ndim not in (0, x.ndim) or not fits:
        hint = "[batch, 1, ...] gives each example its own"
        raise RegionError(f"expected eps that broadcasts to {list(x.shape)}, got {list(eps.shape)}", hint=hint)
    if not _holds((eps >= 0) & torch.isfinite(eps)):
        raise RegionError("eps must be finite numbers >= 0 everywhere")
    return eps.to(x)


def _ends(x: Tensor, eps: float | Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    lower, upper = x - eps, x + eps
    if clip is None:
        return lower, upper
    if len(clip) != 2:
        raise RegionError(f"clip must be a pair (lo, hi), got {clip!r}")
    low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in clip)
    try:
        low, high = low.expand(x.shape), high.expand(x.shape)
    except RuntimeError:
        got = f"{list(low.shape)} and {list(high.shape)}"
        raise RegionError(f"expected clip that broadcasts to {list(x.shape)}, got {got}") from None
    lower, upper = torch.maximum(lower, low), torch.minimum(upper, high)
    if not _holds(lower <= upper):
        hint = "inputs lie further than eps outside clip, or clip is crossed"
        raise RegionError("the region of an example is empty, or not a number", hint=hint)
    return lower, upper


def checked_labels(labels: Tensor, x: Tensor, classes: int) -> Tensor:
    """Labels `[batch]` as whole numbers on the device of x. Raises PropertyError for others."""
    labels = torch.as_tensor(labels, device=x.device)
    if labels.ndim != 1 or labels.shape[0] != x.shape[0] or labels.is_floating_point():
        got = f"{labels.dtype} {list(labels.shape)}"
        raise PropertyError(f"expected whole numbers as labels, one for each of {x.shape[0]} examples, got {got}")
    if not _holds((labels >= 0) & (labels < classes)):
        raise PropertyError(f"expected labels in [0, {classes}), got others")
    return labels.long()


def _holds(condition: Tensor) -> bool:
    """Whether it holds everywhere; a compiled program does not ask, since it would have to wait for the answer."""
    return torch.compiler.is_compiling() or bool(condition.all())
