"""The linear bounds themselves: coefficients over the inputs, not only their minimum over the region.

For each row r of a value v they read `v_r(x) >= sum_i A_ri . x_i + c_r` for every x of the region (paper 2, sec. 3;
Zhang et al. 2018, eq. 10). They come from one backward pass over the intermediate bounds that an analysis has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.errors import PropertyError
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Input
from irverify.passes.backward import Context, Rows, linear_form
from irverify.passes.crown import Crown, LinearBounds
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.passes.relaxations import relaxed
from irverify.pipeline.base import parse_passes
from irverify.pipeline.manager import Given, fitted
from irverify.pipeline.rows import margin_rows, rows_run
from irverify.pipeline.spec import SpecRows
from irverify.pipeline.state import State


@dataclass(frozen=True, eq=False)
class Coefficients:
    """`v_r(x) >= sum_i inputs[i]_r . x_i + constant_r` for every x of the region and each row r of a value v, up to
    rounding: `inputs` by the name of the network input `[batch, rows, *shape]`, `constant` `[batch, rows]`."""

    inputs: Mapping[str, Tensor]
    constant: Tensor


def coefficients(
    graph: Graph, region: Given, rows: Tensor | Sequence[int] | int | SpecRows, method: str = "crown"
) -> Coefficients:
    """Linear lower bounds, over the inputs, of the margins `logit_y - logit_j` of labels as in `iv.margins`, or of rows
    `C y + d`, a pair of `[batch, rows, out]` and `[batch, rows]`.

    The intermediate bounds are those of `method`; the lines are its own for the methods that take fixed ones (crown,
    crown-zero, fast-lin, crown-ibp), those of crown for every other. Margins by crown may be better: it tries more.
    """
    regions = fitted(graph, region)
    if isinstance(rows, tuple):
        columns = sum(graph[name].type.size for name in graph.outputs)
        if rows[0].ndim != 3 or rows[0].shape[2] != columns or rows[0].shape[:2] != rows[1].shape:
            got = f"{list(rows[0].shape)} and {list(rows[1].shape)}"
            raise PropertyError(f"expected rows C [batch, rows, {columns}] and d [batch, rows], got {got}")
    else:
        rows = margin_rows(graph, regions, rows)
    state = rows_run(graph, regions, rows, method)
    return coefficients_of(state, state.graph.outputs[0], method)


@without_autocast()
def coefficients_of(state: State, value: str, method: str) -> Coefficients:
    """Linear lower bounds of every element of a value, from the bounds that are known; see `coefficients`."""
    lines = next((step for step in reversed(parse_passes(method)) if isinstance(step, LinearBounds)), Crown())
    lines.rules.resolve(state.graph)
    names = [node.name for node in state.graph.inputs]
    regions = state.given_regions("coefficients")
    lowering = _Lowering(lines, Context(state.graph, dict(zip(names, regions, strict=True))), state.leans)
    interval_facts(state, IBP, "coefficients", lowering.refine)
    batch, count = state.batch, state.graph[value].type.size
    identity = torch.eye(count, dtype=state.graph[value].type.dtype, device=regions[0].center.device)
    owner = torch.arange(batch, device=identity.device).repeat_interleave(count)
    rows = Rows(identity.repeat(batch, 1).reshape(batch * count, *state.graph[value].type.shape), owner, batch)
    form = linear_form(lowering.context, value, rows)
    inputs = {
        node.name: form.coefficients[node.name].reshape(batch, count, *node.type.shape)
        if node.name in form.coefficients
        else identity.new_zeros(batch, count, *node.type.shape)
        for node in state.graph.inputs
    }
    return Coefficients(inputs, form.constant.reshape(batch, count))


@dataclass
class _Lowering:
    """Puts every node between the lines that known bounds of its operands give."""

    lines: LinearBounds
    context: Context
    leans: Mapping[str, Tensor]

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        if isinstance(node.op, Input):
            return interval
        if interval.exact:
            self.context.known[node.name] = interval.lower
            return interval
        rule = self.lines.rules.find(type(node.op))
        assert rule is not None  # checked for the whole graph before the walk
        operands = [results[name] for name in node.inputs]
        self.context.relaxed[node.name] = relaxed(rule, node, operands, self.lines.choice, self.leans)
        return interval
