"""What stands for one node in a rewritten graph: several nodes, of which only the last has its name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import GraphBuilder, Node
from irverify.ir.ops import Operator

UNSTABLE, OPEN = "unstable", "open"
"""What the elements that stay undecided are called behind the node's name, before and after its operator: one value,
flat, in order."""


@dataclass(frozen=True)
class StandIn:
    """Adds nodes for `node`; no other one gets a name that is `taken`."""

    builder: GraphBuilder
    node: Node
    taken: set[str]

    def add(self, op: Operator, *inputs: str, role: str) -> str:
        """A value that is called after the node and `role`."""
        stem = f"{self.node.name}.{role}"
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}${number}"
        self.taken.add(name)
        return self.builder.add(op, *inputs, name=name, source=self.node.source)

    def finish(self, op: Operator, *inputs: str) -> str:
        """The node's own value."""
        return self.builder.add(op, *inputs, name=self.node.name, source=self.node.source)


def places_among(chosen: Tensor, count: int) -> Tensor:
    """Where each of `count` elements stands among those `chosen`; the place behind them for the others."""
    places = chosen.new_full((count,), len(chosen))
    places[chosen] = torch.arange(len(chosen), device=chosen.device)
    return places
