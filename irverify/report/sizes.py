"""How large a network is for whoever verifies it, before and after a pipeline."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from irverify.attacks import has_label
from irverify.backends.milp import Formulation, MilpModel, SolveOptions, Worker, formulate, solve
from irverify.backends.milp.encoding import Encoding
from irverify.errors import PropertyError, UnsupportedError
from irverify.ir.graph import Graph, convert
from irverify.ir.ops import Elementwise
from irverify.ir.params import value
from irverify.pipeline.catalog import find
from irverify.pipeline.manager import run
from irverify.pipeline.state import State
from irverify.properties import Property
from irverify.regions import Region
from irverify.report.tables import number, table

Margin = Literal["positive", "not positive", "open"]


@dataclass(frozen=True)
class Program:
    """The mixed-integer program of a network over one region, whose smallest margin of a property it asks for, where
    there is one: rows, columns, how many of these are binary, nonzero entries, and the seconds that it took to build.
    Where it was solved, until the margin's sign was known or the time was up, also the seconds that the solver took
    once its process ran, and `margin`: positive, not positive, or open. Nothing is replayed: it is no verdict."""

    rows: int
    columns: int
    binaries: int
    nonzeros: int
    seconds: float
    solving: float | None = None
    margin: Margin | None = None


@dataclass(frozen=True)
class Size:
    """`parameters`: entries of all weights and biases; `nonzeros`: those that are not 0; `neurons`: elements of
    piecewise linear activations. Over regions also `unstable`: activation -> how many elements are, the mean over the
    batch; `program`: that of the first example, None where there is no exact encoding; and with labels `accuracy`, the
    share of the regions' centres that are classified as labelled."""

    parameters: int
    nonzeros: int
    neurons: int
    unstable: dict[str, float] | None = None
    program: Program | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Situation:
    """What sizes are measured over: regions, one for each input, labels `[batch]` of their centres, the analyses that
    give the bounds, as a pipeline text, what is asked of each region (of none where there is nothing), and for how many
    seconds the solver may look for an answer (None: it is not asked)."""

    regions: tuple[Region, ...] | None = None
    labels: Tensor | None = None
    analyses: str = "ibp"
    props: tuple[Property, ...] = ()
    limit: float | None = None


def size_of(graph: Graph, situation: Situation) -> Size:
    """The size of a network; what needs regions is None where there are none."""
    if situation.regions is None:
        return counted(graph)
    state = analysed(graph, situation)
    return size_over(state, counted(graph), situation.labels, program_of(state, situation))


def counted(graph: Graph) -> Size:
    """What a size has without regions."""
    tensors = {id(parameter): value(parameter).detach() for parameter in graph.parameters().values()}
    weights = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    activations = [node for node in graph if isinstance(node.op, Elementwise) and node.op.pieces() is not None]
    return Size(
        sum(weight.numel() for weight in weights),
        sum(int((weight != 0).sum()) for weight in weights),
        sum(node.type.size for node in activations),
    )


def analysed(graph: Graph, situation: Situation) -> State:
    """The bounds and the stability of a network over the regions of a situation that has some."""
    # In double precision: the encoding takes bounds for contradictory that cross by more than its rounding.
    return run(convert(graph, torch.float64), f"{situation.analyses},stability", situation.regions)


def size_over(state: State, plain: Size, labels: Tensor | None, program: Program | None) -> Size:
    """The size of a network that is analysed; `plain` is what is counted without regions."""
    unstable = {name: pieces.counts()[2] / state.batch for name, pieces in state.stability.items()}
    accuracy = None if labels is None else float(right(state, labels).double().mean())
    return replace(plain, unstable=unstable, program=program, accuracy=accuracy)


def right(state: State, labels: Tensor) -> Tensor:
    """Which of the regions' centres are classified as labelled, `[batch]`; a tie counts as wrong."""
    centres = {node.name: region.center for node, region in zip(state.graph.inputs, state.regions or (), strict=True)}
    values = state.graph.values(centres)
    logits = torch.cat([values[name].flatten(1) for name in state.graph.outputs], dim=1)
    return has_label(logits, labels)


def program_of(state: State, situation: Situation, place: int = 0, worker: Worker | None = None) -> Program | None:
    """The program of one example of the batch, solved where the situation has a limit for that, by `worker` or a
    process of its own; None where there is no exact encoding."""
    started = time.perf_counter()
    regions = tuple(region.select([place]) for region in state.regions or ())
    bounds = {name: (found.lower[place], found.upper[place]) for name, found in state.bounds.items()}
    try:
        if situation.props:
            formulation = formulate(state.graph, regions, situation.props[place], bounds)
            return _asked(formulation, started, situation.limit, [region.center[0] for region in regions], worker)
        encoding = Encoding(state.graph, regions, bounds)
        for node in encoding.pending():
            encoding.add(node)
    except (UnsupportedError, PropertyError):  # no exact encoding, or nothing to ask
        return None
    return _measured(encoding.builder.build(), started)


def _asked(
    formulation: Formulation, started: float, limit: float | None, centres: Sequence[Tensor], worker: Worker | None
) -> Program:
    program = formulation.program()
    built = _measured(program.model, started)
    if limit is None:
        return built
    options = SolveOptions(time_limit=limit, sign_only=True)
    solution = solve(program.model, "highs", options, hint=program.hint(centres), worker=worker)
    reached = solution.objective is not None and solution.objective <= 0
    margin: Margin = "positive" if program.refuted(solution) else "not positive" if reached else "open"
    return replace(built, solving=solution.seconds, margin=margin)


def _measured(model: MilpModel, started: float) -> Program:
    rows, columns = model.size
    return Program(rows, columns, int(model.integer.sum()), model.rows.nnz, time.perf_counter() - started)


def size_table(before: Size, after: Size) -> str:
    """Two sizes as a table for people."""
    sides = (before, after)
    rows: list[tuple[str, ...]] = [
        (word, *(str(getattr(side, word)) for side in sides)) for word in ("parameters", "nonzeros", "neurons")
    ]
    for layer in dict.fromkeys(name for side in sides for name in by_activation(side)):
        rows.append((f"unstable in %{layer}", *(plain_number(by_activation(side).get(layer)) for side in sides)))
    if any(side.program is not None for side in sides):
        rows += [(f"MILP {label}", *(_cell(side.program, name) for side in sides)) for label, name in PROGRAM.items()]
        rows = [row for row in rows if row[1:] != ("", "")]
    if any(side.accuracy is not None for side in sides):
        rows.append(("accuracy", *(plain_number(side.accuracy) for side in sides)))
    return table(("", "before", "after"), rows, ("before", "after")).render()


PROGRAM = {
    "rows": "rows", "columns": "columns", "binaries": "binaries", "nonzeros": "nonzeros", "seconds to build": "seconds",
    "seconds to solve": "solving", "smallest margin": "margin",
}  # fmt: skip
"""How a table calls the fields of a program."""


def _cell(program: Program | None, name: str) -> str:
    found = None if program is None else getattr(program, name)
    return found if isinstance(found, str) else "" if found is None else plain_number(found)


def by_activation(size: Size) -> dict[str, float]:
    """Unstable neurons by the activation of the model that they belong to."""
    result: dict[str, float] = {}
    for name, count in (size.unstable or {}).items():
        layer = re.sub(r"(\.(open|whole)(\$\d+)?)+$", "", name)
        result[layer] = result.get(layer, 0.0) + count
    return result


def plain_number(count: float | None) -> str:
    """A count, which may be a mean, in few characters."""
    whole = count is not None and math.isfinite(count) and count == int(count)
    return str(int(count)) if whole and count is not None else number(count)


def analyses_of(steps: Sequence[str]) -> str:
    """Those of a pipeline's steps that give bounds, as a pipeline text; `ibp` where there are none."""
    words = [step for step in steps if find(step.partition("{")[0]).kind == "analysis"]
    return ",".join(dict.fromkeys(word for word in words if word != "stability")) or "ibp"
