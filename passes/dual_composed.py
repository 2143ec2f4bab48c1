"""Rows with one activation between them and an input: nu is linear in its slopes, and two layers make one product.

For rows R `[each, n]` at the activation, the same for all groups, and what follows it, B `[n, m]`, an element u of nu
at the input is

    nu_u = sum_j D_j R_j B_ju

for each row. B is zero but for few j where it is a convolution: elements u with the same such j make a block, whose
product with the slopes D `[groups, n]` needs neither the other j nor a row for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irverify.ir.first_order import first_order
from irverify.ir.graph import Node
from irverify.ir.ops import Operand
from irverify.ir.params import value
from irverify.passes.dual_gaps import Rows, weighed
from irverify.passes.dual_network import ROWS, DualNetwork

GROUPS = 2**10
"""How many groups are multiplied at a time, so that a block's product stays in the caches."""
Blocks = tuple[tuple[Tensor, Tensor], ...]
"""Pairs of elements u of an input and the elements j of the activation that they depend on."""


@dataclass(frozen=True)
class Composed:
    """A dual network with a single activation, which everything passes."""

    layer: str
    input: str
    before: tuple[Node, ...]
    after: tuple[Node, ...]
    nu: str
    """What is at the activation."""
    folded: str
    """The same times its slopes."""
    reached: str
    """What is at the input."""
    blocks: Blocks

    def gap(self, rows: Tensor, operands: Mapping[str, Tensor], radius: Tensor) -> Tensor:
        """`sum_i radius_i^T |nu_i|` `[groups, each]` for rows `[1, each, *shape]`; `radius` `[groups, *shape]` is that
        of the input."""
        slope = operands[f"{self.layer}.slope"].flatten(1)
        blocks = tuple((columns.to(slope.device), places.to(slope.device)) for columns, places in self.blocks)
        behind = _passed(self.before, {ROWS: Rows(rows)})[self.nu].tensor
        rest = _rest(self.after, self.folded, self.reached, behind)
        found: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
            slope, behind[0].flatten(1), rest, radius.flatten(1), blocks
        )
        return found + weighed(behind, operands[f"{self.layer}.radius"])


def composed(network: DualNetwork) -> Composed | None:
    """The network as products with the slopes of its only activation; None where it has no, or more than that."""
    if len(network.layers) != 1 or len(network.reached) != 1:
        return None
    ((folded, layer),), ((input_, reached),) = network.layers.items(), network.reached.items()
    behind = {folded}
    before, after = list[Node](), list[Node]()
    nu = ""
    for node in network.path:
        if node.name == folded:
            nu = node.inputs[0]
        elif behind.isdisjoint(node.inputs):
            before.append(node)
        elif behind.issuperset(node.inputs):
            after.append(node)
            behind.add(node.name)
        else:
            return None
    if reached not in behind or any(isinstance(node.op, Operand) and node.name != ROWS for node in before):
        return None
    like = torch.zeros(1, 1, *network.graph[nu].type.shape, dtype=torch.float64)
    support = _rest(tuple(map(_probed, after)), folded, reached, like) != 0
    return Composed(layer, input_, tuple(before), tuple(after), nu, folded, reached, _blocks(support))


def _passed(nodes: tuple[Node, ...], found: dict[str, Rows]) -> dict[str, Rows]:
    for node in nodes:
        if node.name not in found:
            found[node.name] = found[node.inputs[0]].through(node, found)
    return found


def _rest(after: tuple[Node, ...], folded: str, reached: str, like: Tensor) -> Tensor:
    """What follows the activation, as a matrix `[n, m]`."""
    shape = like.shape[2:]
    unit = torch.eye(shape.numel(), dtype=like.dtype, device=like.device).reshape(1, -1, *shape)
    return _passed(after, {folded: Rows(unit)})[reached].tensor[0].flatten(1)


def _probed(node: Node) -> Node:
    """With random numbers for its parameters, so that its zeros are those of its structure."""
    generator = torch.Generator().manual_seed(0)
    changes = {
        name: torch.rand(found.shape, generator=generator, dtype=torch.float64) + 0.5
        if found.is_floating_point()
        else found.cpu()
        for name, found in ((name, value(param)) for name, param in node.op.parameters().items())
    }
    return Node(node.name, node.op.replace(**changes), node.inputs, node.type, node.source)


def _blocks(support: Tensor) -> Blocks:
    """The columns of a matrix by where they are not zero; those that are zero left out."""
    patterns, which = support.unique(dim=1, return_inverse=True)
    pairs = ((pattern.nonzero()[:, 0], (which == index).nonzero()[:, 0]) for index, pattern in enumerate(patterns.mT))
    return tuple((columns, places) for places, columns in pairs if places.shape[0] > 0)


class _Products(torch.autograd.Function):
    """`sum_u radius_u |sum_j D_j R_j B_ju|`, `[groups, each]`, block by block; gradients make the products again."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, rows: Tensor, rest: Tensor, radius: Tensor, blocks: Blocks) -> Tensor:
        ctx.save_for_backward(slope, rows, rest, radius)
        ctx.blocks = blocks
        gap = slope.new_zeros(slope.shape[0], rows.shape[0])
        for columns, places in blocks:
            kernel = _kernel(rows, rest, columns, places)
            parts = zip(slope.split(GROUPS), radius.split(GROUPS), gap.split(GROUPS), strict=True)
            for own, weights, found in parts:
                nu = (own.index_select(1, places) @ kernel).unflatten(1, (-1, len(rows)))
                found += nu.abs_().mul_(weights.index_select(1, columns).unsqueeze(2)).sum(1)
        return gap

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, rows, rest, radius = ctx.saved_tensors
        of_slope, of_rows, of_rest = torch.zeros_like(slope), torch.zeros_like(rows), torch.zeros_like(rest)
        of_radius = torch.zeros_like(radius) if ctx.needs_input_grad[3] else None
        for columns, places in ctx.blocks:
            kernel = _kernel(rows, rest, columns, places)
            of_kernel = torch.zeros_like(kernel)
            for start in range(0, slope.shape[0], GROUPS):
                part = slice(start, start + GROUPS)
                own = slope[part].index_select(1, places)
                nu = (own @ kernel).unflatten(1, (-1, len(rows)))
                if of_radius is not None:
                    of_radius[part].index_add_(1, columns, torch.bmm(nu.abs(), gradient[part].unsqueeze(2))[..., 0])
                signs = nu.sign_().mul_(radius[part].index_select(1, columns).unsqueeze(2))
                signs = signs.mul_(gradient[part].unsqueeze(1)).flatten(1)
                of_kernel.addmm_(own.mT, signs)
                of_slope[part].index_add_(1, places, signs @ kernel.mT)
            each = of_kernel.reshape(len(places), len(columns), len(rows))
            picked = rest[places][:, columns]
            of_rows.index_add_(1, places, torch.einsum("jue,ju->ej", each, picked))
            of_rest[places.unsqueeze(1), columns] += torch.einsum("jue,ej->ju", each, rows[:, places])
        return of_slope, of_rows, of_rest, of_radius, None


def _kernel(rows: Tensor, rest: Tensor, columns: Tensor, places: Tensor) -> Tensor:
    """`R_j B_ju` of a block, `[j, u * each]`."""
    picked = rest[places][:, columns]
    return (picked.unsqueeze(2) * rows[:, places].mT.unsqueeze(1)).flatten(1)
