"""Rule tables: which rule an analysis has for which operator, by operator class with its families as fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import OPERATORS, Constant, Elementwise, Input, Operand, Operator

Rule = TypeVar("Rule")
Condition = Callable[[type[Operator]], bool]

GIVEN = (Input, Operand, Constant)
"""Values that no rule computes: they come from the region, the caller or the graph."""


def increasing(operator: type[Operator]) -> bool:
    """An elementwise operator that is monotonically increasing."""
    return issubclass(operator, Elementwise) and operator.monotone == "increasing"


@dataclass(frozen=True)
class _Entry(Generic[Rule]):
    rule: Rule
    condition: Condition | None


class RuleTable(Generic[Rule]):
    """The rules of one analysis.

    A rule is found along the class hierarchy of an operator, so that one for a family (`LinearOp`) serves every
    operator that has none of its own. `base` is a table whose rules count where this one has none for the very same
    class.
    """

    def __init__(self, analysis: str, base: RuleTable[Rule] | None = None) -> None:
        self.analysis = analysis
        self._base = base
        self._rules: dict[type, _Entry[Rule]] = {}
        self._refusals: dict[type, str] = {}
        self._plans: WeakKeyDictionary[Graph, tuple[int, list[tuple[Node, Rule | None]]]] = WeakKeyDictionary()

    def rule(self, *operators: type, when: Condition | None = None) -> Callable[[Rule], Rule]:
        """Decorator: the rule for these operators or families; with `when` only for the operators that it holds for."""

        def add(rule: Rule) -> Rule:
            for operator in operators:
                self._claim(operator)
                self._rules[operator] = _Entry(rule, when)
            return rule

        return add

    def refuse(self, reason: str, *operators: type) -> None:
        """States why there is no rule for these operators, and what would work instead."""
        for operator in operators:
            self._claim(operator)
            self._refusals[operator] = reason

    def _claim(self, operator: type) -> None:
        if operator in self._rules or operator in self._refusals:
            raise ValueError(f"{self.analysis} has a rule for {operator.__name__} already")

    def _own(self, cls: type, operator: type[Operator]) -> _Entry[Rule] | None:
        entry = self._rules.get(cls)
        if entry is not None and (entry.condition is None or entry.condition(operator)):
            return entry
        return None

    def find(self, operator: type[Operator]) -> Rule | None:
        """The rule for an operator class; None where there is none."""
        for cls in operator.__mro__:
            table: RuleTable[Rule] | None = self
            while table is not None:
                if cls in table._refusals:
                    return None
                entry = table._own(cls, operator)
                if entry is not None:
                    return entry.rule
                table = table._base
        return None

    def refusal(self, operator: type[Operator]) -> str | None:
        """Why an operator is refused; None where it has a rule."""
        if issubclass(operator, GIVEN) or self.find(operator) is not None:
            return None
        for cls in operator.__mro__:
            table: RuleTable[Rule] | None = self
            while table is not None:
                if cls in table._refusals:
                    return table._refusals[cls]
                table = table._base
        return f"no rule of {self.analysis} fits; decompose it into operators that have one"

    def resolve(self, graph: Graph) -> list[tuple[Node, Rule | None]]:
        """The rule for each node of a graph, in order (None for values that are given). Kept as long as the graph is.

        Raises UnsupportedError that lists every node without a rule, with its place in the source model and the reason.
        """
        size, plan = self._plans.get(graph, (0, []))
        if size != self._size():
            size, plan = self._plans[graph] = self._size(), self._plan(graph)
        return plan

    def _size(self) -> int:
        """How much has been registered: a plan made before the latest rule is made again."""
        return len(self._rules) + len(self._refusals) + (0 if self._base is None else self._base._size())

    def _plan(self, graph: Graph) -> list[tuple[Node, Rule | None]]:
        rules = {cls: self.find(cls) for cls in {type(node.op) for node in graph} if not issubclass(cls, GIVEN)}
        missing = [node for node in graph if rules.get(type(node.op), self) is None]
        if missing:
            items = [f"{node}: {self.refusal(type(node.op))}" for node in missing]
            hint = f"these have rules: {', '.join(self.supported())}"
            raise UnsupportedError(
                f"{self.analysis} has no rule for {len(missing)} of the values", items=items,
                where=f"graph {graph.name!r}", hint=hint,
            )  # fmt: skip
        return [(node, rules.get(type(node.op))) for node in graph]

    def supported(self) -> Iterator[str]:
        """The words of the operators that have a rule."""
        return (name for name, operator in OPERATORS.items() if self.find(operator) is not None)
