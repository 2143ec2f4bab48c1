"""The relaxed problem that dual losses and tightness regularisers are about, solved for the margins of a batch.

All unstable ReLUs stand between parallel lines (paper 2, eq. 2 and 4; paper 5, cor. 2). Pre-activation bounds come from
dual networks layer by layer, from random projections of them, or from intervals; the margins from the dual network of
the specification, with the last layer elided into it. Everything is differentiable in the live parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.backends.torch import steps
from irverify.backends.torch.boxes import checked_labels
from irverify.backends.torch.models import Clip, Model, Norm, ball, graph_of, inputs_of, is_count
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.passes.dual import dual_layers
from irverify.passes.dual_rows import DualBounds
from irverify.passes.projections import DualProj, estimated_layers
from irverify.pipeline.manager import fitted, run
from irverify.pipeline.rows import margin_rows, specified
from irverify.pipeline.spec import spec_operands
from irverify.pipeline.state import State
from irverify.regions import Region

Hidden: TypeAlias = Literal["dual", "interval"]
"""Where pre-activation bounds come from: dual networks, intersected with intervals; or intervals alone."""


@dataclass(frozen=True)
class Projections:
    """Pre-activation bounds are estimated from `columns` random projections, drawn afresh at every call from
    `generator`, a CPU one (None: PyTorch's own) (paper 5, sec. 3.2); those of a first layer over a box are exact."""

    columns: int = 50
    generator: torch.Generator | None = None
    joined: bool = True
    """Whether the columns of the input (of a box) and of all ReLUs are added up, so that each bound rests on `columns`
    numbers whatever the depth: the Cauchy projection of all their vectors as one, whose l1 norm is the sum of theirs.
    Else each has columns and a median of its own, as in algorithm 1, which costs more with every layer."""

    def __post_init__(self) -> None:
        if not is_count(self.columns, least=1):
            raise UsageError(f"expected a whole number of columns >= 1, got {self.columns}")

    def drawn(self) -> DualProj:
        """The estimator, with a seed of its own."""
        return DualProj(k=self.columns, seed=int(torch.randint(2**62, (), generator=self.generator)))


@dataclass(frozen=True, eq=False)
class DualRelaxation:
    """The relaxed problem of a batch: its graph ends in the margins `logit_y - logit_j` for the classes j in `others`
    `[batch, rows]`: all but the label (of a single class, this one).

    `ranges` has lower and upper pre-activation bounds by value (estimates, with projections); `duals` what dual
    networks rest on; `labels` are y.
    """

    state: State
    labels: Tensor
    others: Tensor
    classes: int
    ranges: Mapping[str, tuple[Tensor, Tensor]]
    duals: DualBounds

    @property
    def output(self) -> str:
        return self.state.graph.outputs[0]

    def margins(self) -> Tensor:
        """The optimal values J of the dual networks (paper 5, eq. 7; p_C* in paper 2, eq. 7): lower bounds of the
        margins `[batch, classes]`, 0 at j = y; estimates where the ranges are."""
        asked = torch.ones_like(self.others, dtype=torch.bool)
        with without_autocast():
            return self.spread(self.duals.of(self.output, asked)[0].reshape(asked.shape))

    def spread(self, rows: Tensor) -> Tensor:
        """Numbers of all rows `[batch, rows]` as `[batch, classes]`, 0 at the labels."""
        return rows.new_zeros(rows.shape[0], self.classes).scatter(1, self.others, rows)


def dual_relaxation(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, hidden: Hidden = "dual",
    projections: Projections | None = None, norm: Norm = "inf", clip: Clip = None,
) -> DualRelaxation:  # fmt: skip
    """The relaxed problem for inputs within `eps` of `x` `[batch, *shape]` and labels y `[batch]`."""
    if hidden not in ("dual", "interval") or (hidden == "interval" and projections is not None):
        wanted = "hidden='dual', with projections or without, or hidden='interval' without"
        raise UsageError(f"expected {wanted}; got hidden={hidden!r}, projections={projections}")
    graph = graph_of(model)
    x = inputs_of(graph, x)
    y = checked_labels(y, x, sum(graph[name].type.size for name in graph.outputs))
    with without_autocast():
        return _relaxed(graph, fitted(graph, ball(x, eps, norm, clip)), y, hidden, projections)


def _relaxed(
    graph: Graph, regions: Sequence[Region], y: Tensor, hidden: Hidden, projections: Projections | None
) -> DualRelaxation:
    classes = sum(graph[name].type.size for name in graph.outputs)
    others = y.unsqueeze(1) if classes == 1 else steps.others(y, classes)
    matrix, offset = margin_rows(graph, regions, y)
    rows = matrix.gather(1, others.unsqueeze(2).expand(*others.shape, classes)), offset.gather(1, others)
    extended = specified(graph, others.shape[1])
    state = run(extended, (), regions, operands=dict(zip(spec_operands(extended), rows, strict=True)))
    if projections is not None:
        duals, ranges = estimated_layers(projections.drawn(), state, joined=projections.joined)
    else:
        duals, bounds = dual_layers(state, hidden=hidden == "dual")
        ranges = {name: (found.lower, found.upper) for name, found in bounds.items()}
    return DualRelaxation(state, y, others, classes, ranges, duals)
