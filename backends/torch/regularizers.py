"""Regularisers: ReLU stability, tightness of the dual relaxation, and weight sparsity.

A model is a graph or a bound graph, as for `irverify.backends.torch.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from irverify.autocast import without_autocast
from irverify.backends.torch.composed import layers, pre_activations
from irverify.backends.torch.dual_relaxation import Hidden, Projections, dual_relaxation
from irverify.backends.torch.models import Clip, Model, Norm, ball, graph_of, inputs_of, simplified
from irverify.backends.torch.tightness import indicators
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.ir.ops import Relu
from irverify.passes.propagate import Interval
from irverify.pipeline.facts import Bounds
from irverify.pipeline.manager import fitted, run
from irverify.regions import Region

PASS_OF = {"interval": "ibp", "improved-interval": "improved-interval"}


@without_autocast()
def rs_loss(
    model: Model, x: Tensor, eps: float | Tensor, *,
    bounds: Literal["interval", "improved-interval"] = "improved-interval", norm: Norm = "inf", clip: Clip = None,
) -> Tensor:  # fmt: skip
    """The RS loss of paper 1, sec. 3.3.1: the sum over all ReLUs j of all layers i, a mean over the batch, of

        -tanh(1 + u_ij l_ij)

    with pre-activation bounds by naive or improved interval arithmetic (sec. 3.3.2, app. C; ReLUs that naive intervals
    settle keep these) over the inputs within `eps` of `x` `[batch, *shape]`. It is between -1 and 1 for each ReLU, -1
    where one is stable by a wide margin.
    Differentiable in parameters and bounds. A network without ReLUs has none: 0.
    """
    if bounds not in PASS_OF:
        raise UsageError(f"expected the bounds {' or '.join(map(repr, PASS_OF))}, got {bounds!r}")
    graph = graph_of(model)
    x = inputs_of(graph, x)
    total = x.new_zeros(())
    for found in _read_by_relus(simplified(graph), ball(x, eps, norm, clip), bounds):
        total = total - (1 + found.upper * found.lower).tanh().sum() / x.shape[0]
    return total


def _read_by_relus(graph: Graph, region: Region, bounds: str) -> Sequence[Interval | Bounds]:
    """Bounds of what each ReLU reads."""
    chain = layers(graph) if region.is_box and bounds == "improved-interval" else None
    if chain is not None:
        (fit,) = fitted(graph, region)
        return pre_activations(chain, *fit.box())
    state = run(graph, PASS_OF[bounds], region)
    return [state.bounds_of(node.inputs[0]) for node in graph if isinstance(node.op, Relu)]


class Tightness(NamedTuple):
    """Two measures of how loose the relaxed problem is, each a mean over the batch of the sum over all classes but the
    label."""

    d: Tensor
    """Paper 2, eq. 8: by how much the network is above its bound at the relaxed adversary's input."""
    r: Tensor
    """Paper 2, eq. 9: how far the unstable pre-activations there are from where the relaxation is exact."""


def tightness(
    model: Model, x: Tensor, y: Tensor, eps: float | Tensor, *, hidden: Hidden = "dual",
    projections: Projections | None = None, norm: Norm = "inf", clip: Clip = None,
) -> Tightness:  # fmt: skip
    """`sum_t d_t` and `sum_t r_t` of paper 2, eq. 8 to 10, of the relaxed problem that `losses.dual` solves with the
    same options.

    Where r is 0 the bounds are exact (prop. 1). Differentiable in bounds and parameters, the relaxed adversary's
    choices held fixed. `losses.tight_terms` gives both and the dual loss at once, at the price of one.
    """
    problem = dual_relaxation(model, x, y, eps, hidden=hidden, projections=projections, norm=norm, clip=clip)
    found = indicators(problem)
    return Tightness(found.d.sum(1).mean(), found.r.sum(1).mean())


def l1(model: Model) -> Tensor:
    """The sum of the magnitudes of all weights that are trained: matrices and kernels, not biases or normalisation
    (paper 1, sec. 3.2 and app. A.1)."""
    leaves = [leaf for leaf in graph_of(model).leaves if leaf.requires_grad and leaf.ndim > 1]
    if not leaves:
        raise UsageError("expected a network with weights that are trained, got none", where="regulariser l1")
    total = leaves[0].new_zeros(())
    for leaf in leaves:
        total = total + leaf.abs().sum()
    return total
