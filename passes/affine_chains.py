"""A few results of a chain of affine maps as one dense map of what they really read.

The head of a chain is a gather of elements of a flat value, or a `linear` of one or of such elements. Its rows are
pulled back through the maps in front of it, as far as that leaves the fewest multiplications and additions (entries of
a dense matrix, taps of a convolution), and what the rows do not read is left out. Where several gathers read a value,
all that needs them is pulled back together, or nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import (
    AveragePool,
    Concat,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Expand,
    Gather,
    Linear,
    LinearOp,
    Neg,
    Operator,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    ScaleShift,
    Slice,
    Transpose,
)
from irverify.ir.params import Derived, Param, value
from irverify.ir.types import TensorType
from irverify.passes.rewriting import Replacement, Site, joined_source

LINKS = (
    Linear, Conv, ConvTranspose, ConstMatMul, ScaleShift, AveragePool, Reshape, Transpose, Expand, Slice, Gather, Pad,
    ReduceSum, ReduceMean, Neg,
)  # fmt: skip
ENTRIES = 2**25
"""Rows are not pulled back where that would take more entries than this at once."""


def multiplications(node: Node, operand: TensorType) -> int:
    """Multiplications and additions of one affine operator for one example; moving elements costs none."""
    op = node.op
    if isinstance(op, Linear):
        return node.type.size * int(value(op.weight).shape[1])
    if isinstance(op, Conv):
        return node.type.size * value(op.weight)[0].numel()
    if isinstance(op, ConvTranspose):
        return operand.size * value(op.weight)[0].numel()
    if isinstance(op, ConstMatMul):
        return node.type.size * int(value(op.weight).shape[-2 if not op.left else -1])
    if isinstance(op, AveragePool):
        return node.type.size * math.prod(op.kernel)
    return 0


@dataclass(frozen=True)
class _Head:
    """What of a chain's result somebody needs: its rows are those of `after`, one after the other, on top of the
    elements that a gather takes; with none, these elements themselves."""

    gather: Node | None
    after: tuple[Node, ...]
    later: bool = False
    """`after` read the elements as part of a concatenation, and must be split first."""

    @property
    def rows(self) -> int:
        nodes = self.after or (() if self.gather is None else (self.gather,))
        return sum(node.type.size for node in nodes)


@dataclass(frozen=True)
class _Plan:
    """Heads that are pulled back through `maps`, which stand in order; all of them, or none."""

    heads: tuple[_Head, ...]
    maps: tuple[Node, ...]


def pull_back(site: Site) -> Replacement | None:
    """The rule, at the head of a chain."""
    graph, node = site.graph, site.node
    if isinstance(node.op, Gather) and _flat(graph, node):
        plan = _plan_of_gathers(graph, node.inputs[0])
        own = plan is not None and any(head.gather is node and not head.after for head in plan.heads)
        return _dense(site, plan.maps) if plan is not None and own else None
    if not isinstance(node.op, Linear) or not _flat(graph, node):
        return None
    maker = graph[node.inputs[0]]
    if isinstance(maker.op, Gather):
        plan = _plan_of_gathers(graph, maker.inputs[0])
        chosen = [] if plan is None else [head for head in plan.heads if head.gather is maker]
        if plan is not None and any(node in head.after and not head.later for head in chosen):
            return _dense(site, (*plan.maps, maker))
        return None
    plan = _planned(graph, maker.name, (_Head(None, (node,)),)) if only_read_by(graph, maker.name, node) else None
    return None if plan is None else _dense(site, plan.maps)


def waits_for_a_split(graph: Graph, part: Node) -> bool:
    """A gather of elements that the readers of a concatenation would be pulled back through, were they split."""
    if not isinstance(part.op, Gather) or not _flat(graph, part):
        return False
    plan = _plan_of_gathers(graph, part.inputs[0])
    return plan is not None and any(head.gather is part and head.later for head in plan.heads)


def only_read_by(graph: Graph, name: str, reader: Node) -> bool:
    return graph.users(name) == (reader.name,) and name not in graph.outputs


def _flat(graph: Graph, node: Node) -> bool:
    return node.type.rank == 1 and graph[node.inputs[0]].type.rank == 1


_PLANS: WeakKeyDictionary[Graph, dict[str, _Plan | None]] = WeakKeyDictionary()
"""The plans for values of a graph: several nodes ask for each, once in every round of a rewrite."""


def _plan_of_gathers(graph: Graph, name: str) -> _Plan | None:
    plans = _PLANS.setdefault(graph, {})
    if name not in plans:
        plans[name] = _made_plan(graph, name)
    return plans[name]


def _made_plan(graph: Graph, name: str) -> _Plan | None:
    """The plan for a flat value that only gathers read; None where there is none."""
    readers = [graph[reader] for reader in dict.fromkeys(graph.users(name))]
    if name in graph.outputs or not all(isinstance(reader.op, Gather) for reader in readers):
        return None
    return _planned(graph, name, tuple(_head(graph, reader) for reader in readers))


def _head(graph: Graph, gather: Node) -> _Head:
    readers = _linears(graph, gather.name)
    later = False
    users = graph.users(gather.name)
    if not readers and len(users) == 1 and gather.name not in graph.outputs:
        (concat,) = map(graph.__getitem__, users)
        later = isinstance(concat.op, Concat) and concat.inputs.count(gather.name) == 1
        readers = _linears(graph, concat.name) if later else ()
    fewer = readers and sum(reader.type.size for reader in readers) < gather.type.size
    return _Head(gather, readers, later) if fewer else _Head(gather, ())


def _linears(graph: Graph, name: str) -> tuple[Node, ...]:
    """The readers of a value, where all are `linear`s of a flat value."""
    readers = tuple(graph[reader] for reader in dict.fromkeys(graph.users(name)))
    fits = all(isinstance(reader.op, Linear) and reader.type.rank == 1 for reader in readers)
    return readers if fits and name not in graph.outputs else ()


def _planned(graph: Graph, name: str, heads: tuple[_Head, ...]) -> _Plan | None:
    """How far to pull heads of a value back: where that leaves the fewest multiplications, and no more than now."""
    best, gain, cost = None, -1, 0
    own = sum(head.rows * (head.gather or graph[name]).type.size for head in heads if head.after)
    for maps in _chains(graph, name):
        base = graph[maps[0].inputs[0]].type
        cost += multiplications(maps[0], base)
        widest = max(base.size, *(node.type.size for node in maps))
        if cost == 0 or any(head.rows * widest > ENTRIES for head in heads):
            continue
        tops = [head.after if head.gather is None else (head.gather,) for head in heads]
        counts = [int(_reads(graph, top, maps).sum()) for top in tops]
        dense = sum(head.rows * count for head, count in zip(heads, counts, strict=True))
        if own + cost - dense > gain and all(counts):
            gain, best = own + cost - dense, _Plan(heads, maps)
    return best


def _chains(graph: Graph, name: str) -> list[tuple[Node, ...]]:
    """The chains that end at a value, from the shortest to the longest, each with its maps in order; but for the value
    itself, nothing else reads what is on them."""
    found: list[tuple[Node, ...]] = []
    maps: tuple[Node, ...] = ()
    node = graph[name]
    while isinstance(node.op, LINKS) and (not maps or only_read_by(graph, node.name, maps[0])):
        maps = (node, *maps)
        found.append(maps)
        node = graph[node.inputs[0]]
    return found


def _reads(graph: Graph, tops: tuple[Node, ...], maps: tuple[Node, ...]) -> Tensor:
    """Which elements of the base of a chain the results of what stands on it have a way to, flat."""
    nodes = (*maps, *tops)
    ops = [_magnitudes(node.op) for node in nodes]
    types = [graph[node.inputs[0]].type for node in nodes]
    device = next(value(parameter).device for node in nodes for parameter in node.op.parameters().values())
    gradient = torch.ones((1, nodes[-1].type.size), dtype=torch.float64, device=device)
    with torch.no_grad():
        for op, type_ in zip(reversed(ops), reversed(types), strict=True):
            gradient = (op.adjoint(gradient, (type_,))[0] != 0).double()
    return gradient.flatten() != 0


def _magnitudes(op: Operator) -> LinearOp:
    """The operator with ones for its weights, and zeros where they are zero."""
    assert isinstance(op, LinearOp)
    changed = {
        name: (value(parameter).detach() != 0).double()
        for name, parameter in op.parameters().items()
        if name in ("weight", "scale")
    }
    return op.replace(**changed)


def _dense(site: Site, maps: tuple[Node, ...]) -> Replacement | None:
    """The node at the head of a chain, as one `linear` of what it reads of the base."""
    graph, nodes = site.graph, (*maps, site.node)
    ops = tuple(node.op for node in nodes)
    types = tuple(graph[node.inputs[0]].type for node in nodes)
    reads = _reads(graph, (site.node,), maps).nonzero().flatten()
    if not len(reads):
        return None
    parameters: list[Param] = [parameter for op in ops for parameter in op.parameters().values()]
    if not any(value(parameter).is_floating_point() for parameter in parameters):
        parameters.append(torch.zeros((), dtype=types[0].dtype, device=reads.device))  # for its element type alone
    name, size = site.renamed[maps[0].inputs[0]], types[0].size
    if types[0].rank != 1:
        name = site.add(Reshape((size,)), name, role="flat")
    if len(reads) < size:
        name = site.add(Gather(reads, 0), name, role="reads")
    weight = Derived(partial(_rows, ops, types, site.node.type.size), reads, *parameters)
    shifts = any(field in ("bias", "shift") for op in ops for field in op.parameters())
    bias: Param | None = Derived(partial(_constant, ops, types), *parameters) if shifts else None
    return Replacement(Linear(weight, bias), (name,), joined_source(*nodes))


def _rebuilt(ops: tuple[Operator, ...], parameters: tuple[Tensor, ...]) -> list[LinearOp]:
    given = iter(parameters)
    result = [op.replace(**{name: next(given) for name in op.parameters()}) for op in ops]
    return [op for op in result if isinstance(op, LinearOp)]


def _number(parameters: tuple[Tensor, ...]) -> torch.dtype:
    """The element type of the weights, which a conversion of the graph changes."""
    return next(tensor.dtype for tensor in parameters if tensor.is_floating_point())


def _rows(
    ops: tuple[Operator, ...], types: tuple[TensorType, ...], count: int, reads: Tensor, *parameters: Tensor
) -> Tensor:
    """The rows of the composed map, by the adjoint of one-hot rows, `[results, reads]`."""
    gradient = torch.eye(count, dtype=_number(parameters), device=reads.device)
    for op, type_ in zip(reversed(_rebuilt(ops, parameters)), reversed(types), strict=True):
        gradient = op.adjoint(gradient, (type_,))[0]
    return gradient.flatten(1).index_select(1, reads)


def _constant(ops: tuple[Operator, ...], types: tuple[TensorType, ...], *parameters: Tensor) -> Tensor:
    """The composed map at zero, `[results]`."""
    result = torch.zeros((1, *types[0].shape), dtype=_number(parameters), device=parameters[0].device)
    for op in _rebuilt(ops, parameters):
        result = op.evaluate(result)
    return result[0]
