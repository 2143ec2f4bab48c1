"""Bounds and stability, value by value: what a pipeline knows about each layer."""

from __future__ import annotations

from dataclasses import dataclass

from irverify.ir.ops import Constant, Operand
from irverify.pipeline.state import State
from irverify.report.tables import number, table


@dataclass(frozen=True)
class Layer:
    """One value of a graph over a batch of regions.

    `lower`, `upper`: the extremes of its bounds over elements and batch; `gap`: the mean of upper - lower; `active`,
    `inactive`, `unstable`: counts over elements and batch where the value is a piecewise linear activation.
    """

    value: str
    operator: str
    type: str
    width: int
    lower: float | None = None
    upper: float | None = None
    gap: float | None = None
    source: str | None = None
    active: int | None = None
    inactive: int | None = None
    unstable: int | None = None


def layers(state: State) -> list[Layer]:
    """The values of the graph in order, but for constants and runtime operands."""
    return [_layer(state, node.name) for node in state.graph if not isinstance(node.op, Constant | Operand)]


def _layer(state: State, name: str) -> Layer:
    node = state.graph[name]
    bounds = state.bounds.get(name)
    labels = state.stability.get(name)
    active, inactive, unstable = (None, None, None) if labels is None else labels.counts()
    if bounds is None:
        extremes: tuple[float | None, ...] = (None, None, None)
    else:
        extremes = float(bounds.lower.min()), float(bounds.upper.max()), float(bounds.width.mean())
    lower, upper, gap = extremes
    return Layer(
        name, node.op.name, str(node.type), node.type.size,
        lower, upper, gap, None if bounds is None else bounds.source, active, inactive, unstable,
    )  # fmt: skip


HEADINGS = ("value", "operator", "width", "lower", "upper", "mean gap", "active", "inactive", "unstable", "bounds from")


def layer_table(rows: list[Layer], title: str = "") -> str:
    """The layers as a table for people."""
    cells = [
        (
            f"%{row.value}", row.operator, str(row.width), number(row.lower), number(row.upper), number(row.gap),
            _count(row.active), _count(row.inactive), _count(row.unstable), row.source or "-",
        )
        for row in rows
    ]  # fmt: skip
    return table(HEADINGS, cells, HEADINGS[2:9], title).render()


def _count(count: int | None) -> str:
    return "" if count is None else str(count)
