"""The box around each input of a batch, and the labels that its margins are about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from irverify.backends.torch.program import Box
from irverify.errors import PropertyError, RegionError, UsageError
from irverify.ir.graph import Graph

Clip: TypeAlias = tuple[Any, Any] | None
"""The valid range `(lo, hi)` of inputs, numbers or tensors that broadcast; None: no input is ruled out."""


def box_around(graph: Graph, x: Tensor | Sequence[Tensor], eps: float | Tensor, clip: Clip, dtype: torch.dtype) -> Box:
    """The boxes `[x - eps, x + eps]`, met with `clip`, in this element type.

    Raises ShapeError or UsageError for inputs that do not fit the graph, RegionError for eps or clip that make no box.
    """
    given = x if isinstance(x, tuple | list) else (x,)
    for part in given:
        check_floats(part, graph)
    batched = graph.batched([part.to(dtype) for part in given])
    clean = tuple(batched[node.name] for node in graph.inputs)
    check_examples(clean[0], graph)
    pairs = [ends(part, radius(eps, part), clip) for part in clean]
    return Box(clean, tuple(lower for lower, _ in pairs), tuple(upper for _, upper in pairs))


def check_floats(x: object, graph: Graph) -> None:
    """Raises UsageError for inputs that are no tensor of a float type."""
    if not is_floats(x):
        hint = "torch.as_tensor(x).float() makes one"
        raise UsageError(f"expected inputs as a tensor of floats, got {described(x)}", where=_place(graph), hint=hint)


def is_floats(value: object) -> bool:
    """Whether something is a tensor of a float type."""
    return isinstance(value, Tensor) and value.is_floating_point()


def check_examples(x: Tensor, graph: Graph) -> None:
    """Raises UsageError for a batch `[batch, *shape]` without examples, of which there is no mean, or elements."""
    if not len(x):
        raise UsageError("expected at least one example, got an empty batch", where=_place(graph))
    if not x.numel():
        raise UsageError(f"expected inputs with elements, got {list(x.shape)}", where=_place(graph))


def _place(graph: Graph) -> str:
    return f"graph {graph.name!r}"


def described(value: object) -> str:
    """What something is, for messages."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return "None" if value is None else type(value).__name__


def radius(eps: float | Tensor, x: Tensor) -> float | Tensor:
    """A number, or a tensor with as many axes as x. Raises RegionError for what is no radius of each element."""
    if not isinstance(eps, Tensor):
        if not isinstance(eps, Real):
            raise RegionError(f"expected eps as a number >= 0 or a tensor of such, got {described(eps)}")
        if not 0 <= eps < math.inf:
            raise RegionError(f"eps must be a finite number >= 0, got {eps}")
        return float(eps)
    fits = all(extent in (1, own) for extent, own in zip(eps.shape, x.shape, strict=False))
    if eps.ndim not in (0, x.ndim) or not fits:
        hint = "[batch, 1, ...] gives each example its own"
        raise RegionError(f"expected eps that broadcasts to {list(x.shape)}, got {list(eps.shape)}", hint=hint)
    if eps.is_complex() or not _holds((eps >= 0) & torch.isfinite(eps)):
        raise RegionError("eps must be finite numbers >= 0 everywhere")
    return eps.to(x)


def limits(clip: Clip, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of a valid range, which broadcast to x. Raises RegionError for what is none."""
    hint = "clip=(0, 1), say, or None"
    if not isinstance(clip, tuple | list) or len(clip) != 2:
        raise RegionError(f"clip must be a pair (lo, hi), got {clip!r}", hint=hint)
    try:
        low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in clip)
    except (TypeError, ValueError, RuntimeError):
        raise RegionError(f"clip must be a pair of numbers or tensors, got {clip!r}", hint=hint) from None
    try:
        return low.expand(x.shape), high.expand(x.shape)
    except RuntimeError:
        got = f"{list(low.shape)} and {list(high.shape)}"
        raise RegionError(f"expected clip that broadcasts to {list(x.shape)}, got {got}") from None


def ends(x: Tensor, eps: float | Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """The box `[x - eps, x + eps]`, met with `clip`, for a radius that was checked. Raises RegionError where it is
    empty, or not finite."""
    lower, upper = x - eps, x + eps
    if clip is not None:
        low, high = limits(clip, x)
        watched = torch.compiler.is_compiling() or any(part.requires_grad for part in (lower, low, high))
        lower = torch.maximum(lower, low, out=None if watched else lower)
        upper = torch.minimum(upper, high, out=None if watched else upper)
    if torch.compiler.is_compiling():
        return lower, upper
    least, most = torch.aminmax(upper - lower)
    if not (least.item() >= 0 and most.item() < math.inf):
        if not bool(torch.isfinite(x).all()):
            raise RegionError("expected finite inputs, got NaN or infinity")
        hint = "inputs lie further than eps outside clip, clip is crossed, or eps is huge"
        raise RegionError("the region of an example is empty, or not finite", hint=hint)
    return lower, upper


def checked_labels(labels: Tensor, x: Tensor, classes: int) -> Tensor:
    """Labels `[batch]` as whole numbers on the device of x. Raises PropertyError for others."""
    hint = f"a class of each example, from 0 to {classes - 1}, as torch.long"
    try:
        given = torch.as_tensor(labels, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise PropertyError(f"expected labels as a tensor, got {described(labels)}", hint=hint) from None
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.ndim != 1 or given.shape[0] != x.shape[0] or not whole:
        wanted = f"expected whole numbers as labels, one for each of {x.shape[0]} examples"
        raise PropertyError(f"{wanted}, got {described(given)}", hint=hint)
    given = given.long()
    if len(given) and not torch.compiler.is_compiling():
        least, most = torch.aminmax(given)
        if not (least.item() >= 0 and most.item() < classes):
            raise PropertyError(f"expected labels in [0, {classes}), got others")
    return given


def _holds(condition: Tensor) -> bool:
    """Whether it holds everywhere; a compiled program does not ask, since it would have to wait for the answer."""
    return torch.compiler.is_compiling() or bool(condition.all())
