"""Lower bounds of margins and of the rows of a property, with the last layer elided into the specification."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from irverify.errors import PropertyError, UsageError
from irverify.ir.graph import Graph
from irverify.kernels.native import watched
from irverify.pipeline.base import Estimator, parse_passes, refuse_changes
from irverify.pipeline.catalog import CATALOG
from irverify.pipeline.facts import Estimate
from irverify.pipeline.manager import Given, fitted, optimize, run, run_alone
from irverify.pipeline.spec import SpecRows, spec_operands, with_spec
from irverify.pipeline.state import State
from irverify.regions import Region

if TYPE_CHECKING:
    from irverify.properties import Property

REWRITES = "canonicalize,fold-batchnorm,fuse-linear"
KEPT = 64
"""Up to so many classes the rows of every label are made once: a megabyte for 64."""


def margins(graph: Graph, region: Given, labels: Tensor | Sequence[int] | int, method: str = "ibp") -> Tensor:
    """Lower bounds of `logit_y - logit_j` over the region, `[batch, classes]`; 0 at j = y.

    `labels` is one y for each example (or one for all), `method` an analysis or a pipeline that ends in one. The last
    layer is elided into the margins (paper 4, eq. 9). All bounds positive but the one at y: every input of the region
    is classified as y, up to rounding.
    """
    regions = fitted(graph, region)
    return _lower(graph, regions, margin_rows(graph, regions, labels), method, alone=True)[0]


def estimates(
    graph: Graph, region: Given, labels: Tensor | Sequence[int] | int, method: str = "singleprop-zero"
) -> Estimate:
    """What an estimator guesses for `logit_y - logit_j` over the region, `[batch, classes]`, as in `margins`.

    Not bounds: an input of the region may well lie outside. For training, and for a first look at a network.
    """
    regions = fitted(graph, region)
    state = rows_run(graph, regions, margin_rows(graph, regions, labels), method)
    result = state.graph.outputs[0]
    if result not in state.estimates:
        known = ", ".join(entry.name for entry in CATALOG.values() if entry.kind == "estimator")
        raise UsageError(f"expected a pipeline that ends in an estimator, got {method!r}", hint=f"there are {known}")
    return state.estimates[result]


def margin_rows(graph: Graph, regions: Sequence[Region], labels: Tensor | Sequence[int] | int) -> SpecRows:
    """The rows `logit_y - logit_j` of each example, `[batch, classes, classes]`, and their zeros; labels checked."""
    classes = sum(graph[name].type.size for name in graph.outputs)
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise PropertyError(f"expected labels, got {labels!r}", hint="whole numbers, one for each example") from None
    if given.numel() and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool):
        raise PropertyError(f"expected whole numbers as labels, got {given.dtype}")
    targets = given.reshape(-1).to(regions[0].device, torch.long)
    if targets.shape[0] not in (1, regions[0].batch):
        raise PropertyError(f"expected a label for each of {regions[0].batch} examples, got {targets.shape[0]}")
    listed = targets.tolist()
    if not (min(listed, default=0) >= 0 and max(listed, default=0) < classes):
        raise PropertyError(f"expected labels in [0, {classes}), got {listed}")
    if classes <= KEPT and not watched() and not torch._C._are_functorch_transforms_active():
        every = _every_label(classes, torch.get_default_dtype(), targets.device)
        rows = every[listed[0] : listed[0] + 1] if len(listed) == 1 else every.index_select(0, targets)
    else:
        identity = torch.eye(classes, device=targets.device)
        rows = identity.index_select(0, targets).unsqueeze(1) - identity
    return rows, rows.new_zeros(targets.shape[0], classes)


@lru_cache(maxsize=16)
def _every_label(classes: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """The rows of every label, `[classes, classes, classes]`."""
    with torch.inference_mode(False):  # what is kept may be met where there are gradients
        identity = torch.eye(classes, dtype=kind, device=device)
        return identity.unsqueeze(1) - identity


def row_bounds(graph: Graph, region: Given, prop: Property, method: str = "ibp") -> Tensor:
    """Lower bounds over the region of the rows of all disjuncts of a property, `[batch, rows]`; see `row_state`."""
    return _rows(graph, region, prop, method, alone=True)[0]


def row_state(graph: Graph, region: Given, prop: Property, method: str = "ibp") -> tuple[Tensor, State]:
    """Lower bounds over the region of the rows `A x + C y + d` of all disjuncts of a property, `[batch, rows]`, and the
    state that the analysis left, with the bounds of every other value.

    The rows stand in the order of the disjuncts. A disjunct is refuted where one of its rows is bounded above zero
    (with a margin for rounding); x and y are the flattened inputs and outputs.
    """
    return _rows(graph, region, prop, method)


def _rows(
    graph: Graph, region: Given, prop: Property, method: str, *, alone: bool = False
) -> tuple[Tensor, State]:
    """See `row_state`; with `alone` the state need not have other bounds."""
    regions = fitted(graph, region)
    columns = sum(node.type.size for node in graph.inputs)
    disjuncts = prop.bind(columns, sum(graph[name].type.size for name in graph.outputs)).disjuncts
    if not disjuncts:
        return regions[0].center.new_zeros((regions[0].batch, 0)), run(graph, method, region)
    mixed = any(disjunct.inputs is not None for disjunct in disjuncts)
    outputs = torch.cat([disjunct.outputs for disjunct in disjuncts])
    offset = torch.cat([disjunct.offset for disjunct in disjuncts])
    if mixed:
        inputs = [
            disjunct.offset.new_zeros((disjunct.offset.shape[0], columns))
            if disjunct.inputs is None
            else disjunct.inputs
            for disjunct in disjuncts
        ]
        outputs = torch.cat([outputs, torch.cat(inputs)], dim=1)
    return _lower(graph, regions, (outputs[None], offset[None]), method, inputs=mixed, alone=alone)


def specified(graph: Graph, rows: int, *, inputs: bool = False) -> Graph:
    """`with_spec`, rewritten for analyses: layers fused, the last one elided into the specification.

    The parameters stay live. The result is kept as long as the graph is, so that a loop over batches rewrites once.
    """
    kept = _SPECIFIED.setdefault(graph, {})
    if (rows, inputs) not in kept:
        kept[rows, inputs] = optimize(with_spec(graph, rows, inputs=inputs), REWRITES)
    return kept[rows, inputs]


_SPECIFIED: WeakKeyDictionary[Graph, dict[tuple[int, bool], Graph]] = WeakKeyDictionary()
"""What `specified` has made, by graph, number of rows, and whether they read inputs. Graphs are immutable."""


def _lower(
    graph: Graph, region: Given, rows: SpecRows, method: str, *, inputs: bool = False, alone: bool = False
) -> tuple[Tensor, State]:
    last = parse_passes(method)[-1:]
    if last and isinstance(last[0], Estimator):
        hint = "iv.estimates gives what it guesses; crown, say, gives bounds"
        raise UsageError(f"{last[0].name} is an estimator, and an estimate is not a bound", hint=hint)
    state = rows_run(graph, region, rows, method, inputs=inputs, alone=alone)
    result = state.graph.outputs[0]
    if result not in state.bounds:
        raise PropertyError(f"expected a pipeline that bounds the specification, got {method!r}")
    return state.bounds[result].lower, state


def rows_run(
    graph: Graph, region: Given, rows: SpecRows, method: str, *, inputs: bool = False, alone: bool = False
) -> State:
    """What a method leaves on the graph with these rows `(C, d)`, each with its batch axis, as its output; with `alone`
    bounds of these are all that is asked for. UsageError for a method that changes the function."""
    refuse_changes(method)
    extended = specified(graph, rows[0].shape[1], inputs=inputs)
    operands = dict(zip(spec_operands(extended), rows, strict=True))
    return run_alone(extended, method, region, operands) if alone else run(extended, method, region, operands=operands)
