"""What losses and regularisers share: the graph of a model, the region around a batch, and logits."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from irverify.backends.torch.boxes import check_examples, check_floats, limits, radius
from irverify.errors import ShapeError, UsageError
from irverify.ir.graph import Graph
from irverify.pipeline.manager import optimize
from irverify.pipeline.rows import REWRITES
from irverify.regions import L1, L2, Box, Region

Norm: TypeAlias = Literal["inf", "2", "1"]
"""The norm in which a perturbation is at most eps."""
Clip: TypeAlias = tuple[Any, Any] | None
"""The valid range `(lo, hi)` of inputs; None: no input is ruled out."""


@runtime_checkable
class HasGraph(Protocol):
    """A module that stands for a graph and holds the live parameters of it, such as a bound graph."""

    @property
    def graph(self) -> Graph: ...


Model: TypeAlias = Graph | HasGraph


def graph_of(model: Model) -> Graph:
    """The graph behind a model, which must have one input. Raises UsageError for anything else."""
    graph = model if isinstance(model, Graph) else getattr(model, "graph", None)
    if not isinstance(graph, Graph):
        hint = "iv.compile(module, example) makes a graph"
        raise UsageError(f"expected a graph or a bound graph, got {type(model).__name__}", hint=hint)
    if len(graph.inputs) != 1:
        names = ", ".join(f"%{node.name}" for node in graph.inputs) or "none"
        raise UsageError(f"losses take networks with one input, got {names}", where=f"graph {graph.name!r}")
    return graph


def is_number(value: object) -> bool:
    """Whether something is a finite real number."""
    return isinstance(value, Real) and math.isfinite(value)


def is_count(value: object, least: int = 0) -> bool:
    """Whether something is a whole number from `least` on."""
    return isinstance(value, int) and value >= least


def inputs_of(graph: Graph, x: Tensor) -> Tensor:
    """The inputs `[batch, *shape]` of a loss, checked, in the element type of the parameters. Raises UsageError or
    ShapeError for what does not fit."""
    check_floats(x, graph)
    (node,) = graph.inputs
    kind = next((leaf.dtype for leaf in graph.leaves if leaf.is_floating_point()), node.type.dtype)
    x = x.to(kind)
    if tuple(x.shape) == node.type.shape and not graph.has_batch_axis:
        x = x[None]
    if x.ndim == 0 or tuple(x.shape[1:]) != node.type.shape:
        wanted = ", ".join(map(str, ("batch", *node.type.shape)))
        message = f"expected inputs [{wanted}], got {list(x.shape)}"
        raise ShapeError(message, where=f"graph {graph.name!r}", hint="give a batch, with its axis in front")
    check_examples(x, graph)
    return x


def simplified(graph: Graph) -> Graph:
    """The graph as analyses should see it: constants folded, affine layers fused, parameters live. Kept as long as the
    graph is."""
    if graph not in _SIMPLIFIED:
        made = optimize(graph, REWRITES)
        _SIMPLIFIED[graph] = None if made is graph else made
    found = _SIMPLIFIED[graph]
    return graph if found is None else found


_SIMPLIFIED: WeakKeyDictionary[Graph, Graph | None] = WeakKeyDictionary()
"""None for a graph that stays as it is: one that held itself would be kept for ever."""


def ball(x: Tensor, eps: float | Tensor, norm: Norm = "inf", clip: Clip = None) -> Region:
    """The inputs within `eps` of each of `x` `[batch, *shape]`; in l-infinity a box, to rounding in the type of `x`.

    `eps` is a number, or a tensor with as many axes as x (`[batch, 1, ...]`). Raises RegionError where it is none, or
    where the region is empty or not finite.
    """
    if norm not in ("inf", "2", "1"):
        raise UsageError(f"expected the norm 'inf', '2' or '1', got {norm!r}")
    eps, sides = radius(eps, x), None if clip is None else limits(clip, x)
    if norm != "inf":
        return L2(x, eps, clip=clip) if norm == "2" else L1(x, eps, clip=clip)
    lower, upper = x - eps, x + eps
    if sides is not None:
        lower, upper = torch.maximum(lower, sides[0]), torch.minimum(upper, sides[1])
    return Box(lower, upper)


def logits_of(graph: Graph, x: Tensor) -> Tensor:
    """The outputs for inputs `[batch, *shape]`, one after the other, `[batch, classes]`."""
    values = graph.values({graph.inputs[0].name: x})
    parts = [values[name].reshape(x.shape[0], -1) for name in graph.outputs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
