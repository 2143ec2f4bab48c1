"""The table operator x method, as Markdown: which analysis and which backend takes which operator, and why not."""

from __future__ import annotations

from irverify.backends.milp.encoding import ENCODED
from irverify.ir.ops import OPERATORS
from irverify.passes.rules import GIVEN
from irverify.passes.support import METHODS, TABLES, support

EXACT = "lp, lp-tighten, milp-tighten, exact"
"""The column of the mixed-integer backend: its encodings serve linear programs as well."""
PIECEWISE = "only piecewise linear operators have an exact encoding in a mixed-integer program"


def support_table() -> str:
    """A row for each operator, a column for each rule table with the methods that go by it, refusals as footnotes."""
    notes: list[str] = []
    methods = [
        ", ".join(name for name, table in METHODS.items() if table is wanted) or wanted.analysis for wanted in TABLES
    ]
    lines = [f"| operator | {' | '.join([*methods, EXACT])} |", f"|---|{'---|' * (len(methods) + 1)}"]
    for word, cells in support().items():
        row = [cells[table.analysis] for table in TABLES]
        lines.append(f"| {word} | {' | '.join(_mark(cell, notes) for cell in [*row, _exact(word)])} |")
    footnotes = [f"[{number}] {note}\n" for number, note in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *footnotes])


def _exact(word: str) -> str:
    operator = OPERATORS[word]
    if issubclass(operator, GIVEN):
        return "given"
    return "rule" if issubclass(operator, ENCODED) or word == "spec" else PIECEWISE


def _mark(cell: str, notes: list[str]) -> str:
    if cell in ("rule", "given"):
        return {"rule": "yes", "given": "given"}[cell]
    if cell not in notes:
        notes.append(cell)
    return f"no [{notes.index(cell) + 1}]"
