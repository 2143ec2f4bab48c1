"""What rewrites share: a walk that replaces nodes one by one, repeated until nothing changes, without dead values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from irverify.errors import GraphError
from irverify.ir.graph import Graph, GraphBuilder, Node, without_dead_values
from irverify.ir.ops import Operator
from irverify.ir.types import TensorType

MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Site:
    """One node on its way into the new graph: its operator, the new names of its inputs, what is known around it."""

    node: Node
    inputs: tuple[str, ...]
    _builder: GraphBuilder
    _uses: dict[str, int]

    @property
    def op(self) -> Operator:
        return self.node.op

    def maker(self, index: int = 0) -> Node:
        """The new node that makes an input."""
        return self._builder.node(self.inputs[index])

    def type(self, name: str) -> TensorType:
        return self._builder.type(name)

    def node_of(self, name: str) -> Node:
        return self._builder.node(name)

    def sole_use(self, name: str) -> bool:
        """This node is the only reader of a value, which is no output: absorbing it does no work twice."""
        return self._uses[name] == 1


@dataclass(frozen=True)
class Replacement:
    """The operator and inputs that compute a node's value instead; `source` names the nodes it stands for."""

    op: Operator
    inputs: tuple[str, ...]
    source: str | None = None


Rule = Callable[[Site], "Replacement | str | None"]
"""What becomes of a node: another operator, an existing value of the same meaning by its new name, None: it stays."""


def rewritten(graph: Graph, rule: Rule) -> Graph:
    """`graph` with `rule` applied to every node until it changes nothing, and without dead values.

    A value that stays keeps its name, and a replacement has the name of what it replaces. Returns `graph` itself
    where there is nothing to do.
    """
    current = without_dead_values(graph)
    for _ in range(MAX_ROUNDS):
        changed = _round(current, rule)
        if changed is None:
            return current
        current = without_dead_values(changed)
    raise GraphError(f"expected a rewrite that comes to an end, gave up after {MAX_ROUNDS} rounds")


def _round(graph: Graph, rule: Rule) -> Graph | None:
    """One walk; None where the rule left every node as it is."""
    builder = GraphBuilder(graph.name)
    renamed: dict[str, str] = {}
    uses = {node.name: len(graph.users(node.name)) + graph.outputs.count(node.name) for node in graph}
    changed = False
    for node in graph:
        inputs = tuple(renamed[operand] for operand in node.inputs)
        result = rule(Site(node, inputs, builder, uses))
        if isinstance(result, str):
            uses[result] += uses[node.name] - 1  # its readers read `result` now, and it reads nothing
            renamed[node.name] = result
        elif result is None:
            renamed[node.name] = builder.add(node.op, *inputs, name=node.name, source=node.source)
        else:
            source = result.source or node.source
            renamed[node.name] = builder.add(result.op, *result.inputs, name=node.name, source=source)
        changed = changed or result is not None
    if not changed:
        return None
    return builder.graph([renamed[output] for output in graph.outputs], graph.origin)


def joined_source(*nodes: Node) -> str | None:
    """The places in the source model that a fused node stands for."""
    return " + ".join(dict.fromkeys(node.source for node in nodes if node.source)) or None
