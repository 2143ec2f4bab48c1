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
METHODS: dict[str, RuleTable[Any]] = {
    "interval": INTERVAL,
    "ibp": IBP,
    "improved-interval": IMPROVED,
    "forward": FORWARD,
    "crown": RELAXATIONS,
    "crown-zero": RELAXATIONS,
    "crown-ibp": RELAXATIONS,
    "fast-lin": RELAXATIONS,
    "alpha": RELAXATIONS,
    "gap": RELAXATIONS,
    "dual": DUAL,
    "dual-proj": DUAL,
    "singleprop-zero": SINGLEPROP,
    "singleprop-fastlin": SINGLEPROP,
}
"""The table that says which operators a pass takes. Stability has none: it labels what is piecewise linear."""


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
