"""The backward engine: lower bounds of linear functions of a value, propagated to the inputs. Written once, over
families.

For rows `a` over a value v the engine finds `a . v(x) >= sum_i A_i . x_i + c` for every x of the region by walking
the graph backwards (paper 2, sec. 3; Zhang et al. 2018, eq. 6 to 10; Xu et al. 2020 for general DAGs): through a
linear operator by its adjoint, through a nonlinear one by its relaxation. Contributions of several users of a value
add up. The region gives the minimum of what remains at the inputs.

Rows are flat: row r belongs to example `owner[r]` of the batch, so that every example asks only for what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.ir.ops import Input
from irverify.passes.lines import Relaxation
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Relaxed, sums
from irverify.regions import Region


@dataclass(frozen=True)
class Rows:
    """Linear functions of one value: `coefficients` `[rows, *shape]`; `owner` `[rows]`, the example of each, in
    `batch`."""

    coefficients: Tensor
    owner: Tensor
    batch: int

    def gathered(self, tensor: Tensor) -> Tensor:
        """`tensor` `[batch, ...]` for each row, `[rows, ...]`, or `[1, ...]` where there is one example."""
        return tensor if self.batch == 1 else tensor.index_select(0, self.owner)


@dataclass(frozen=True)
class Shortcut:
    """A value as an elementwise function of one far before it: the lines around it, and an interval of that operand for
    deciding about elements on the way."""

    operand: str
    lines: Relaxation
    interval: Interval


@dataclass
class Context:
    """What rows are propagated through: the graph; each node between linear bounds, by name; the values that are known
    exactly `[batch, *shape]`; the regions of the inputs; shortcuts, which rows may take."""

    graph: Graph
    regions: Mapping[str, Region]
    relaxed: dict[str, Relaxed] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)
    shortcuts: dict[str, Shortcut] = field(default_factory=dict)


def identity_rows(value: Tensor, owner: Tensor, elements: Tensor) -> Rows:
    """The rows `v_j` for each pair (example `owner`, element j of the flat value), and then `-v_j` for each; `value`
    `[batch, *shape]` gives shape and type."""
    pairs = owner.shape[0]
    flat = value.new_zeros(2 * pairs, value[0].numel())
    index = torch.arange(pairs, device=value.device)
    flat[index, elements] = 1.0
    flat[index + pairs, elements] = -1.0
    return Rows(flat.reshape(2 * pairs, *value.shape[1:]), torch.cat([owner, owner]), value.shape[0])


class LinearForm(NamedTuple):
    """`a . v(x) >= sum_i coefficients_i . x_i + constant` for each row `a` and every x of its region: `[rows, *shape]`
    for each input that the rows reach, by name, and `[rows]`."""

    coefficients: dict[str, Tensor]
    constant: Tensor


def linear_form(context: Context, target: str, rows: Rows, passed_by: dict[str, Tensor] | None = None) -> LinearForm:
    """Rows over value `target` propagated to the inputs; into `passed_by`, where it is given, goes what they have
    become over each value on their way, `[rows, *shape]`."""
    pending: dict[str, Tensor] = {target: rows.coefficients}
    inputs: dict[str, Tensor] = {}
    total = rows.coefficients.new_zeros(rows.coefficients.shape[0])
    for node in reversed(context.graph.nodes):
        coefficients = pending.pop(node.name, None)
        if coefficients is None:
            continue
        if passed_by is not None:
            passed_by[node.name] = coefficients
        if isinstance(node.op, Input):
            inputs[node.name] = coefficients
            continue
        if node.name in context.known:
            total = total + sums(coefficients * rows.gathered(context.known[node.name]))
            continue
        passed, constant = context.relaxed[node.name].through(coefficients, rows.gathered)
        total = total + constant
        for operand, part in zip(node.inputs, passed, strict=False):  # a specification passes nothing to its rows
            pending[operand] = part if operand not in pending else pending[operand] + part
    return LinearForm(inputs, total)


def lower_bounds(context: Context, target: str, rows: Rows) -> Tensor:
    """Lower bounds over the regions of `rows` over value `target`, `[rows]`."""
    form = linear_form(context, target, rows)
    total = form.constant
    for name, coefficients in form.coefficients.items():
        total = total + _minimum(context.regions[name], coefficients, rows)
    return total


def _minimum(region: Region, coefficients: Tensor, rows: Rows) -> Tensor:
    """The minimum of each row over the region of its own example, `[rows]`."""
    if region.batch == 1:
        return region.lower_of(coefficients[None])[0]
    if not region.is_box:
        return region.select(rows.owner).lower_of(coefficients[:, None])[:, 0]
    lower, upper = (rows.gathered(side) for side in region.box())
    return sums(coefficients.clamp(min=0) * lower + coefficients.clamp(max=0) * upper)
