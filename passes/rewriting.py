"""What rewrites share: a walk that replaces nodes one by one, repeated until nothing changes, without dead values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
    graph: Graph
    """The graph that is walked, as it was before this round."""
    renamed: Mapping[str, str]
    """The new names of the values of `graph` that come before this node."""
    _builder: GraphBuilder
    _uses: dict[str, int]
    _taken: set[str]

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

    def readers(self, index: int = 0) -> tuple[Node, ...]:
        """All that read an input of this node, as they were before this round; none where something else reads the
        new value, or it is an output."""
        old, new = self.node.inputs[index], self.inputs[index]
        found = self.graph.users(old)
        return tuple(map(self.graph.__getitem__, found)) if self._uses[new] == len(found) else ()

    def add(self, op: Operator, *inputs: str, role: str) -> str:
        """A further value that a replacement reads. It is called after this node and `role`, and no value of the
        graphs before, and none that is reserved, has that name."""
        stem = f"{self.node.name}.{role}"
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}${number}"
        self._taken.add(name)
        made = self._builder.add(op, *inputs, name=name, source=self.node.source)
        self._uses[made] = 1
        return made


@dataclass(frozen=True)
class Replacement:
    """The operator and inputs that compute a node's value instead; `source` names the nodes it stands for."""

    op: Operator
    inputs: tuple[str, ...]
    source: str | None = None


Rule = Callable[[Site], "Replacement | str | None"]
"""What becomes of a node: another operator, an existing value of the same meaning by its new name, None: it stays."""


def rewritten(graph: Graph, rule: Rule, reserved: Collection[str] = ()) -> Graph:
    """`graph` with `rule` applied to every node until it changes nothing, and without dead values.

    A value that stays keeps its name, and a replacement has the name of what it replaces; further values get names
    that are not `reserved`. Returns `graph` itself where there is nothing to do.
    """
    current = without_dead_values(graph)
    taken = {node.name for node in graph}.union(reserved)
    for _ in range(MAX_ROUNDS):
        changed = _round(current, rule, taken)
        if changed is None:
            return current
        current = without_dead_values(changed)
    raise GraphError(f"expected a rewrite that comes to an end, gave up after {MAX_ROUNDS} rounds")


def _round(graph: Graph, rule: Rule, taken: set[str]) -> Graph | None:
    """One walk; None where the rule left every node as it is."""
    builder = GraphBuilder(graph.name)
    renamed: dict[str, str] = {}
    uses = {node.name: len(graph.users(node.name)) + graph.outputs.count(node.name) for node in graph}
    changed = False
    for node in graph:
        inputs = tuple(renamed[operand] for operand in node.inputs)
        result = rule(Site(node, inputs, graph, renamed, builder, uses, taken))
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
    """The places in the source model that a fused node stands for, each once."""
    places = [place for node in nodes if node.source for place in node.source.split(" + ")]
    return " + ".join(dict.fromkeys(places)) or None
