"""The value at the centre of a region of the network in which every activation is its middle line `slope z + middle`.

It is the part of a dual network's objective that changes its sign with the rows, for all rows at once: the terms
`nu'^T b` and `middle^T nu'` of all layers and `nu^T x` (paper 5, eq. 7, 9, 10), taken forward (its alg. 1 has them as
S).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Input
from irverify.regions import L1, L2, Region


def middle_of(region: Region) -> Tensor:
    """The centre of a ball, whether it is clipped or not, or of a box."""
    if isinstance(region, L1 | L2):
        return region.x
    if not region.is_box:
        return region.center
    lower, upper = region.box()
    return (upper + lower) / 2


def radius_of(region: Region) -> Tensor:
    """Half the width of a box."""
    lower, upper = region.box()
    return (upper - lower) / 2


def center_of(
    node: Node, regions: Mapping[str, Region], operands: Mapping[str, Tensor], centers: Mapping[str, Tensor]
) -> Tensor:
    """The centre of a value `[batch, *shape]` from those of its operands; `operands` are those of dual networks."""
    known = operands.get(f"{node.name}.value")
    if known is not None:
        return known
    if isinstance(node.op, Input):
        return middle_of(regions[node.name])
    if isinstance(node.op, Elementwise):
        (operand,) = node.inputs
        return operands[f"{node.name}.slope"] * centers[operand] + operands[f"{node.name}.middle"]
    return node.op.evaluate(*(centers[name] for name in node.inputs))


def ancestors(graph: Graph, target: str) -> frozenset[str]:
    """A value and all that it depends on."""
    found = {target}
    for node in reversed(graph.nodes):
        if node.name in found:
            found.update(node.inputs)
    return frozenset(found)
