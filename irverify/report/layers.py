"""Bounds and stability, value by value: what a pipeline knows about each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from irverify.ir.graph import Node
from irverify.ir.ops import Constant, Operand
from irverify.pipeline.facts import Bounds, Estimate
from irverify.pipeline.state import State, Timing
from irverify.report.tables import number, table


@dataclass(frozen=True)
class Layer:
    """One value of a graph over a batch of regions.

    `width`: its elements; `lower`, `upper`: the extremes of its bounds over elements and batch; `gap`: the mean of
    upper - lower; `active`, `inactive`, `unstable`: how many elements are, the mean over the batch, where the value is
    a piecewise linear activation. With `estimate` the numbers are an estimator's guess and no bounds.
    """

    value: str
    operator: str
    type: str
    width: int
    lower: float | None = None
    upper: float | None = None
    gap: float | None = None
    source: str | None = None
    active: float | None = None
    inactive: float | None = None
    unstable: float | None = None
    estimate: bool = False


def layers(state: State) -> list[Layer]:
    """The values of the graph in order, but for constants and runtime operands; a value that has been estimated has a
    second entry for that."""
    result = []
    for node in state.graph:
        if not isinstance(node.op, Constant | Operand):
            result.append(_layer(state, node, state.bounds.get(node.name)))
            if node.name in state.estimates:
                result.append(_layer(state, node, state.estimates[node.name]))
    return result


def _layer(state: State, node: Node, known: Bounds | Estimate | None) -> Layer:
    estimate = isinstance(known, Estimate)
    labels = None if estimate else state.stability.get(node.name)
    counts: tuple[float | None, ...] = (None, None, None)
    if labels is not None:
        counts = tuple(count / state.batch for count in labels.counts())
    active, inactive, unstable = counts
    if known is None:
        extremes: tuple[float | None, ...] = (None, None, None)
    else:
        extremes = float(known.lower.min()), float(known.upper.max()), float((known.upper - known.lower).mean())
    lower, upper, gap = extremes
    return Layer(
        node.name, node.op.name, str(node.type), node.type.size,
        lower, upper, gap, None if known is None else known.source, active, inactive, unstable, estimate,
    )  # fmt: skip


HEADINGS = ("value", "operator", "width", "lower", "upper", "mean gap", "active", "inactive", "unstable", "bounds from")


def layer_table(rows: list[Layer], title: str = "") -> str:
    """The layers as a table for people."""
    cells = [
        (
            f"%{row.value}", row.operator, str(row.width), number(row.lower), number(row.upper), number(row.gap),
            _count(row.active), _count(row.inactive), _count(row.unstable), _source(row),
        )
        for row in rows
    ]  # fmt: skip
    return table(HEADINGS, cells, HEADINGS[2:9], title).render()


def _count(count: float | None) -> str:
    return "" if count is None else f"{count:.1f}".removesuffix(".0")


def _source(row: Layer) -> str:
    return f"{row.source}, an estimate" if row.estimate else row.source or "-"


def timing_table(timings: Sequence[Timing]) -> str:
    """What each pass took and found out, as a table for people."""
    rows = [
        (
            timing.step,
            f"{timing.seconds:.3f}",
            f"{timing.memory / 2**20:.1f}",
            ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in timing.statistics.items()),
        )
        for timing in timings
    ]
    return table(("pass", "seconds", "MiB", "statistics"), rows, ("seconds", "MiB")).render()
