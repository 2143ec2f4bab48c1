"""Bound graphs: a network with bounds of its margins, differentiable in the parameters of the user's module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from irverify.backends.torch.boxes import Clip, box_around, checked_labels
from irverify.backends.torch.leaves import CurrentGraph, Holder, Leaves
from irverify.backends.torch.normalising import batch_norms, check_modes, update
from irverify.backends.torch.program import Box, Found, Program, Variant, specialisable
from irverify.backends.torch.walking import walked
from irverify.errors import UnsupportedError, UsageError
from irverify.frontends.compile import Example
from irverify.frontends.compile import compile as compile_graph
from irverify.ir.graph import Graph
from irverify.pipeline.certifying import check_certifies
from irverify.pipeline.manager import optimize
from irverify.pipeline.rows import specified
from irverify.pipeline.spec import with_spec

Source: TypeAlias = "nn.Module | Graph"
OPEN = "canonicalize,fuse-linear"
"""The rewrites that leave batch normalisations as they are, for those that normalise with the batch."""


class Bounded(NamedTuple):
    """What a bound graph says about a batch of regions, all of it differentiable in the parameters.

    `logits` `[batch, classes]` of the clean inputs (None where they were not asked for); `margins` `[batch, classes]`,
    lower bounds of `logit_y - logit_j` over the region, 0 at j = y; `interval` and `backward`, the margins by intervals
    and those by backward rows, of which `margins` is the larger (None where the method has no such part); `bounds`,
    lower and upper ends `[batch, *shape]` of every value that a nonlinear operator reads, by its name in the graph.
    """

    logits: Tensor | None
    margins: Tensor
    interval: Tensor | None
    backward: Tensor | None
    bounds: dict[str, tuple[Tensor, Tensor]]

    @property
    def worst(self) -> Tensor:
        """The worst-case logits `[batch, classes]` of paper 4, eq. 10, up to a shift of each example, which no
        cross-entropy sees: the margins with the opposite sign."""
        return -self.margins


class BoundGraph(nn.Module):
    """A module that bounds another one: `forward(x, eps, labels)` gives `Bounded`.

    The user's module is the submodule `module`, whose own parameters are read at every step: `parameters()`,
    `state_dict()` and `load_state_dict()` are the module's, and optimisers, schedulers, `.to(...)`, `torch.compile` and
    DistributedDataParallel work as with the module itself. `method` is `ibp`, `crown-ibp` (both specialised once into
    straight-line code) or any other analysis that bounds, which walks through the graph at every step.

    A batch normalisation in training mode normalises with mean and variance of the clean batch, for the clean values
    and for the bounds alike, and its running statistics are updated once for each forward, as by PyTorch. A step that
    takes several forwards of one batch, here or of the module itself, gives `track=False` to all but one. Bounds are
    those of real arithmetic, up to rounding in the module's element type: `iv.certify` and `iv.verify` certify. Under
    `torch.autocast` `ibp` and `crown-ibp` compute in its type, for training; every other method, as all that bounds for
    a verdict, computes in the module's. They have first derivatives; of `crown-ibp`, second ones are refused.
    """

    def __init__(self, source: Source, example: Example = None, method: str = "ibp") -> None:
        """`example`: one input beside a module, with or without batch axis. A graph is bounded with the running
        statistics of its batch normalisations, in either mode: a graph is a network in evaluation mode.

        Raises what `iv.compile` raises, UsageError for a method that bounds nothing, or another function, and
        UnsupportedError for values without elements.
        """
        super().__init__()
        check_certifies(method, "the method")
        self.method = method
        self._source: Graph | None = source if isinstance(source, Graph) else None
        self._example = example
        self.module: nn.Module = Holder(source) if isinstance(source, Graph) else source
        self._parts = tuple(self.module.modules())
        with _evaluating(self.module):
            graph = compile_graph(source, example)
        if graph.operands or not graph.inputs:
            names = ", ".join(f"%{node.name}" for node in graph.operands) or "no inputs"
            raise UsageError(f"expected a network of inputs alone, got {names}", where=f"graph {graph.name!r}")
        empty = [str(node) for node in graph if node.type.size == 0]
        if empty:
            hint = "leave them out of the model, or bound it with iv.margins"
            raise UnsupportedError("a bound graph needs elements in these values", items=empty, hint=hint)
        self.classes = sum(graph[name].type.size for name in graph.outputs)
        self._graph = graph
        self._folded = specified(graph, self.classes)
        self._open = optimize(with_spec(graph, self.classes), OPEN)
        self._constants = nn.Module()
        self._leaves = Leaves(self.module, self._constants)
        for made in (graph, self._folded, self._open):
            self._leaves.cover(made)
        self._current = CurrentGraph(graph, self._leaves)
        self._special = specialisable(self._open, method)
        self._norms = batch_norms(self._open if self._special else graph, self._leaves)
        self._programs: dict[Variant, Program] = {}
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    @property
    def graph(self) -> Graph:
        """The graph of the module in evaluation mode, with its parameters as they are now."""
        return self._current()

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        eps: float | Tensor,
        labels: Tensor | None = None,
        clip: Clip = None,
        clean: bool = True,
        track: bool = True,
    ) -> Bounded:
        """Bounds over all inputs within `eps` (l-infinity, in raw input units) of `x`, kept inside `clip` = (lo, hi).

        `x` is in the module's own layout (a tuple for several inputs); `eps` a number, or a tensor with as many axes as
        x; `labels` `[batch]`, or None: the network's own predictions. With `clean` False `logits` are left out, which
        saves a forward pass; with `track` False running statistics stay as they are. Raises RegionError, PropertyError,
        ShapeError or UsageError for what does not fit, and UsageError where parts of the module are others than before.
        """
        self._check_parts()
        check_modes(self.module, self._norms)
        box = box_around(self._graph, x, eps, clip, self._leaves.dtype(self._graph.inputs[0].type.dtype))
        trained = frozenset(name for name, norm in self._norms.items() if norm.training)
        if labels is None:
            with torch.no_grad():
                nobody = box.clean[0].new_zeros(box.clean[0].shape[0], dtype=torch.long)
                first = self._found(box, nobody, Variant("ibp", trained, clean=True))
            assert first.logits is not None
            labels = first.logits.argmax(1)
        labels = checked_labels(labels, box.clean[0], self.classes)
        found = self._found(box, labels, Variant(self.method, trained, clean))
        for name, (mean, variance) in found.statistics.items() if track else ():
            update(self._norms[name], mean, variance, self._graph[name].type.size * box.clean[0].shape[0] // len(mean))
        return Bounded(found.logits, found.margins, found.interval, found.backward, dict(found.bounds))

    def _check_parts(self) -> None:
        """The graph is that of the parts that there were: pruning of ReLUs, for one, puts others in their place."""
        now = tuple(self.module.modules())
        if len(now) != len(self._parts) or any(part is not known for part, known in zip(now, self._parts, strict=True)):
            raise UsageError(
                "expected a module of the same parts as when the bound graph was made, got others",
                where=type(self.module).__name__, hint="make another bound graph of the module",
            )  # fmt: skip

    def _found(self, box: Box, labels: Tensor, variant: Variant) -> Found:
        if not self._special:
            return walked(self.graph, box, labels, variant)
        if variant not in self._programs:
            graph = self._open if variant.trained else self._folded
            self._programs[variant] = Program(graph, self._leaves, variant, self.classes)
        return self._programs[variant](box, labels)

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundGraph:
        """A bound graph of a copy of the module. (What has been specialised reads this one's parameters.)"""
        if self._source is not None:
            raise UsageError("a bound graph of a graph cannot be copied", hint="make another one from the graph")
        return type(self)(deepcopy(self.module, memo), self._example, self.method)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """With every part in evaluation mode; afterwards each is again in its own."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """The state is the module's: its names have no `module.` in front."""
    _renamed(state, f"{prefix}module.", prefix)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    _renamed(state, prefix, f"{prefix}module.")


def _renamed(state: dict[str, Any], old: str, new: str) -> None:
    for key in [key for key in state if key.startswith(old)]:
        state[new + key[len(old) :]] = state.pop(key)
