"""How far the relaxed problem is from the network: the indicators d and r of paper 2, sec. 4.

For each class t the relaxed adversary picks an input `x + delta_0*` and, at every unstable ReLU, one of the two lines
(sec. 3.1: `delta_ij* = 0` where the row `c_t^T W_{L:i+1}` is not negative, its largest value where it is). The network
at that input gives the feasible value `p_O'` and the pre-activations x', and the indicators compare these with what the
relaxed problem says. The adversary's choices are held fixed in gradients; algorithm 1 has the sign of `delta_0*` wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.backends.torch.dual_relaxation import DualRelaxation
from irverify.ir.ops import Constant, Elementwise, Input, Operand, Relu, Spec
from irverify.passes.backward import Context, Rows, linear_form
from irverify.passes.relaxations import Relaxation, SpecRows, affine
from irverify.regions.base import rowwise


class Indicators(NamedTuple):
    """Per example and class, `[batch, classes]`; 0 at the label in all three."""

    margins: Tensor
    """`p_C*`, eq. 7: lower bounds of `logit_y - logit_t`."""
    d: Tensor
    """Eq. 8: `p_O' - p_C*`."""
    r: Tensor
    """Eq. 9: the mean distance of the unstable pre-activations x' from where the lines touch the ReLU; 0 where no
    neuron is unstable."""


@without_autocast()
def indicators(problem: DualRelaxation) -> Indicators:
    """p_C*, d and r for every class but the label."""
    adversary = _Adversary(problem)
    values = adversary.network
    chosen = values[problem.output].gather(1, adversary.places.unsqueeze(1))[:, 0]
    return Indicators(*(
        adversary.spread(rows) for rows in (adversary.bound, chosen - adversary.bound, adversary.distance)
    ))  # fmt: skip


@dataclass
class _Adversary:
    """The choices of the relaxed adversary: one row for each example and class other than its label."""

    problem: DualRelaxation

    def __post_init__(self) -> None:
        state = self.problem.state
        count = state.graph[self.problem.output].type.size
        self.wanted = self.problem.others != self.problem.labels.unsqueeze(1)
        self.owner, self.places = self.wanted.nonzero(as_tuple=True)
        self.rows_over: dict[str, Tensor] = {}
        (node,), (region,) = state.graph.inputs, state.given_regions("tightness")
        center = region.center
        unit = center.new_zeros(self.owner.shape[0], count, dtype=state.graph[self.problem.output].type.dtype)
        unit[torch.arange(self.owner.shape[0], device=unit.device), self.places] = 1.0
        rows = Rows(unit, self.owner, state.batch)
        form = linear_form(self._context(), self.problem.output, rows, self.rows_over)
        over = form.coefficients.get(node.name, torch.zeros_like(center).index_select(0, self.owner))
        mine = region.select(self.owner)
        self.bound = form.constant + mine.lower_of(over.unsqueeze(1))[:, 0]
        with torch.no_grad():
            self.point = mine.minimizer(over.detach())

    def _context(self) -> Context:
        """The network between its parallel lines."""
        graph, found = self.problem.state.graph, self.problem.duals.operands
        context = Context(graph, self.problem.duals.regions)
        for node in graph:
            if f"{node.name}.value" in found:
                context.known[node.name] = found[f"{node.name}.value"]
            elif isinstance(node.op, Elementwise):
                slope, middle, radius = (found[f"{node.name}.{part}"] for part in ("slope", "middle", "radius"))
                context.relaxed[node.name] = Relaxation(slope, middle - radius, slope, middle + radius)
            elif isinstance(node.op, Spec):
                context.relaxed[node.name] = SpecRows(found[f"{node.name}.rows"], found[f"{node.name}.offset"])
            elif not isinstance(node.op, Input | Operand | Constant):
                context.relaxed[node.name] = affine(node, graph.operand_types(node))
        return context

    @cached_property
    def network(self) -> dict[str, Tensor]:
        """Every value of the network at the adversary's inputs, `[rows, *shape]`."""
        state = self.problem.state
        operands = {name: tensor.index_select(0, self.owner) for name, tensor in state.operands.items()}
        return state.graph.values({state.graph.inputs[0].name: self.point} | operands)

    @cached_property
    def distance(self) -> Tensor:
        """r of eq. 9, `[rows]`."""
        total, count = torch.zeros_like(self.bound), torch.zeros_like(self.bound)
        for node in self.problem.state.graph:
            (operand,) = node.inputs if isinstance(node.op, Relu) else ("",)
            if operand not in self.problem.ranges:
                continue
            lower, upper = (side.index_select(0, self.owner) for side in self.problem.ranges[operand])
            unstable = (lower < 0) & (upper > 0)
            here = self.network[operand]
            passing = self.rows_over.get(node.name, torch.zeros_like(here))
            ends = torch.minimum((here - lower).abs(), (here - upper).abs())
            apart = torch.where(unstable, torch.where(passing < 0, ends, here.abs()), torch.zeros_like(here))
            total, count = total + rowwise(apart).sum(1), count + rowwise(unstable).sum(1)
        return total / count.clamp(min=1)

    def spread(self, rows: Tensor) -> Tensor:
        """Numbers of all rows as `[batch, classes]`, 0 at the labels."""
        return self.problem.spread(rows.new_zeros(self.wanted.shape).masked_scatter(self.wanted, rows))
