"""Neurons that say nothing of their own, between two layers: `layer -> elementwise operators -> reader`.

A unit is a row of a `linear` or an output channel of a `conv`, and pooling may stand between. Units with the same
weights and bias (and group) are merged, and their readers' weights added; a unit without weights is a constant and goes
into the reader's bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import AveragePool, Conv, Elementwise, Gather, Linear, MaxPool, Operator, Reshape, Spec
from irverify.ir.ops.conv import Pairs
from irverify.ir.params import Derived, Param, value
from irverify.passes.columns import Reader, reader_of
from irverify.passes.rewriting import Replacement, Site, joined_source


@dataclass(frozen=True)
class _Chain:
    """`layer`, what acts on its units one by one, in order, and how many columns of the reader a unit has."""

    layer: Node
    between: tuple[Node, ...]
    span: int

    @property
    def weight(self) -> Param:
        assert isinstance(self.layer.op, Linear | Conv)
        return self.layer.op.weight

    @property
    def bias(self) -> Param | None:
        assert isinstance(self.layer.op, Linear | Conv)
        return self.layer.op.bias


def merge_units(site: Site) -> Replacement | None:
    """The rule, at the reader."""
    found = reader_of(site)
    chain = None if found is None else _chain(site)
    if found is None or chain is None:
        return None
    op, weight, _ = found
    constant, kept, goes_to = _sorted(chain, op)
    if len(kept) == len(value(chain.weight)):
        return None
    name = _smaller(site, chain, kept)
    merged = Derived(partial(_merged, chain.span, len(kept)), weight, goes_to)
    bias = _folded(chain, op, weight, constant)
    inputs = (name, *site.inputs[1:])
    return Replacement(op.replace(weight=merged, bias=bias), inputs, joined_source(chain.layer, site.node))


def _chain(site: Site) -> _Chain | None:
    """The chain in front of the reader, each link read by nothing else; None where there is none."""
    between: list[Node] = []
    name, span = site.inputs[0], 1
    while site.sole_use(name):
        node = site.node_of(name)
        if isinstance(node.op, Elementwise | MaxPool | AveragePool):
            between.insert(0, node)
        elif isinstance(node.op, Reshape) and node.type.rank == 1 and span == 1:
            shape = site.type(node.inputs[0]).shape
            if len(shape) < 2:
                return None
            span = math.prod(shape[1:])
            between.insert(0, node)
        else:
            return _Chain(node, tuple(between), span) if _fits(site, node, between) else None
        name = node.inputs[0]
    return None


def _fits(site: Site, layer: Node, between: list[Node]) -> bool:
    """Whether the units of a layer are what the reader tells apart."""
    flattened = any(isinstance(node.op, Reshape) for node in between)
    if isinstance(layer.op, Conv):
        return flattened != isinstance(site.op, Conv)
    pooled = any(isinstance(node.op, MaxPool | AveragePool) for node in between)
    return isinstance(layer.op, Linear) and isinstance(site.op, Linear | Spec) and not flattened and not pooled


def _sorted(chain: _Chain, reader: Reader) -> tuple[Tensor, Tensor, Tensor]:
    """The constant units that the reader's bias can take; those that stay; and for each unit which of these it is
    (-1: none)."""
    matrix = value(chain.weight).detach().flatten(1)
    bias = matrix.new_zeros(len(matrix)) if chain.bias is None else value(chain.bias).detach()
    constant = (matrix == 0).all(1)
    if isinstance(reader, Conv) and _pads(reader.padding):
        # What is padded is 0, and not the constant.
        constant = constant & (_after(_operators(chain), bias) == 0)
    if any(isinstance(node.op, AveragePool) and _pads(node.op.counted) for node in chain.between):
        constant = torch.zeros_like(constant)
    constant = constant & bool((~constant).any())
    _, group = torch.unique(_signatures(chain, matrix, bias), dim=0, return_inverse=True)
    places = torch.arange(len(matrix), device=matrix.device)
    first = places.new_full((len(matrix),), len(matrix)).scatter_reduce(0, group, places, "amin")[group]
    kept = places[(first == places) & ~constant]
    number = places.new_full((len(matrix),), -1)
    number[kept] = torch.arange(len(kept), device=matrix.device)
    return places[constant], kept, torch.where(constant, -1, number[first])


def _pads(padding: Pairs) -> bool:
    return any(amount > 0 for pair in padding for amount in pair)


def _signatures(chain: _Chain, matrix: Tensor, bias: Tensor) -> Tensor:
    """Rows that are alike where units are."""
    groups = chain.layer.op.groups if isinstance(chain.layer.op, Conv) else 1
    group = torch.arange(len(matrix), device=matrix.device) // (len(matrix) // groups)
    return torch.cat([matrix, bias[:, None], group[:, None].to(matrix.dtype)], 1)


def _smaller(site: Site, chain: _Chain, kept: Tensor) -> str:
    """The chain for the units that stay."""
    layer = chain.layer.op
    assert isinstance(layer, Linear | Conv)
    op: Operator
    if isinstance(layer, Conv) and layer.groups > 1:
        name = site.add(Gather(kept, 0), chain.layer.name, role="units")  # the groups are another rule's matter
    else:
        bias = None if layer.bias is None else Derived(_rows, layer.bias, kept)
        op = layer.replace(weight=Derived(_rows, layer.weight, kept), bias=bias)
        name = site.add(op, *chain.layer.inputs, role="units")
    for node in chain.between:
        op = Reshape((len(kept) * chain.span,)) if isinstance(node.op, Reshape) else node.op
        name = site.add(op, name, role="units")
    return name


def _folded(chain: _Chain, reader: Reader, weight: Param, constant: Tensor) -> Param | None:
    """The reader's bias with what the constant units add to it."""
    if not len(constant):
        return reader.bias
    zeros = Derived(_zeros, chain.weight) if chain.bias is None else chain.bias
    sources = [weight, constant, zeros, *([] if reader.bias is None else [reader.bias])]
    return Derived(partial(_constants, _operators(chain)), *sources)


def _operators(chain: _Chain) -> tuple[Elementwise, ...]:
    return tuple(node.op for node in chain.between if isinstance(node.op, Elementwise))


def _after(operators: tuple[Elementwise, ...], units: Tensor) -> Tensor:
    for op in operators:
        units = op.evaluate(units)
    return units


def _constants(
    operators: tuple[Elementwise, ...],
    weight: Tensor,
    constant: Tensor,
    units: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    blocks = weight.reshape(weight.shape[0], len(units), -1).sum(2)
    added = blocks[:, constant] @ _after(operators, units[constant])
    return added if bias is None else bias + added


def _merged(span: int, count: int, weight: Tensor, goes_to: Tensor) -> Tensor:
    """The reader's columns, added up for each unit that stays."""
    blocks = weight.reshape(weight.shape[0], len(goes_to), span, *weight.shape[2:])
    staying = goes_to >= 0
    zeros = weight.new_zeros((weight.shape[0], count, span, *weight.shape[2:]))
    summed = zeros.index_add(1, goes_to[staying], blocks[:, staying])
    return summed.reshape(weight.shape[0], count * span, *weight.shape[2:])


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    return tensor.index_select(0, indices)


def _zeros(weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[0])
