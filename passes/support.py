"""The table operator x analysis, generated from the rule tables: what is supported, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from irverify.ir.ops import OPERATORS, Operator
from irverify.passes.dual_layers import DUAL
from irverify.passes.ibp import IBP
from irverify.passes.improved_interval import IMPROVED
from irverify.passes.interval import INTERVAL
from irverify.passes.planes import FORWARD
from irverify.passes.relaxations import RELAXATIONS
from irverify.passes.rules import GIVEN, RuleTable
from irverify.passes.singleprop import SINGLEPROP

TABLES: tuple[RuleTable[Any], ...] = (INTERVAL, IBP, IMPROVED, FORWARD, RELAXATIONS, DUAL, SINGLEPROP)
"""The rule tables of all analyses that have one."""


def support(
    operators: Mapping[str, type[Operator]] = OPERATORS, tables: Sequence[RuleTable[Any]] = TABLES
) -> dict[str, dict[str, str]]:
    """Word of the operator -> name of the analysis -> `given`, `rule`, or the reason of the refusal."""
    return {word: {table.analysis: _cell(table, operator) for table in tables} for word, operator in operators.items()}


def _cell(table: RuleTable[Any], operator: type[Operator]) -> str:
    if issubclass(operator, GIVEN):
        return "given"
    refusal = table.refusal(operator)
    return "rule" if refusal is None else refusal


def support_table() -> str:
    """The table as Markdown, with the refusals as footnotes."""
    rows, notes = support(), list[str]()
    names = [table.analysis for table in TABLES]
    lines = [f"| operator | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for word, cells in rows.items():
        marks = [_mark(cells[name], notes) for name in names]
        lines.append(f"| {word} | {' | '.join(marks)} |")
    footnotes = [f"[{number}] {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join([*lines, *([""] if footnotes else []), *footnotes, ""])


def _mark(cell: str, notes: list[str]) -> str:
    if cell in ("rule", "given"):
        return {"rule": "yes", "given": "given"}[cell]
    if cell not in notes:
        notes.append(cell)
    return f"no [{notes.index(cell) + 1}]"
