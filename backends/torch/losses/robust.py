"""Training on bounds: interval bound propagation (paper 4), and its mixture with backward bounds (CROWN-IBP)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from irverify.backends.torch.bound_graph import Bounded, BoundGraph
from irverify.backends.torch.boxes import Clip
from irverify.backends.torch.models import is_number
from irverify.errors import PropertyError, UsageError
from irverify.ir.graph import Graph


def ibp(
    model: BoundGraph | Graph, x: Tensor, y: Tensor, eps: float | Tensor, kappa: float = 0.5, clip: Clip = None,
    track: bool = True,
) -> Tensor:  # fmt: skip
    """The loss of paper 4, eq. 12, a mean over the batch:

        L = kappa l(z, y) + (1 - kappa) l(worst, y)

    with the cross-entropy l, the clean logits z, and the worst-case logits of eq. 10 within l-infinity distance `eps`
    (kept inside `clip`), the last layer elided into the margins (eq. 9). A bound graph of any method is used with its
    own margins; a graph is bounded by ibp. Running statistics of batch normalisations take the batch unless `track` is
    False. Raises UsageError unless 0 <= kappa <= 1.
    """
    _fraction("kappa", kappa)
    bounded = _bounded(model, "ibp")(x, eps, _given(y), clip, kappa > 0, track)
    return mixed(bounded, bounded.margins, y, kappa)


def crown_ibp(
    model: BoundGraph | Graph, x: Tensor, y: Tensor, eps: float | Tensor, kappa: float = 0.0, beta: float = 1.0,
    clip: Clip = None, track: bool = True,
) -> Tensor:  # fmt: skip
    """The loss of CROWN-IBP (Zhang et al. 2019, "Towards stable and efficient training of verifiably robust neural
    networks", eq. 11; paper 2, sec. 5), a mean over the batch:

        L = kappa l(z, y) + (1 - kappa) l(-m, y)        m = beta m_crown-ibp + (1 - beta) m_ibp

    with lower bounds m of the margins: backward rows through interval bounds, and intervals. beta goes from 1 to 0
    during training. With beta 0 the backward rows are left out where `model` is a graph. `track` as in `ibp`. Raises
    UsageError unless beta and kappa are in [0, 1], and for a bound graph of another method.
    """
    _fraction("kappa", kappa)
    _fraction("beta", beta)
    bounds = _bounded(model, "crown-ibp" if beta > 0 else "ibp")
    bounded = bounds(x, eps, _given(y), clip, kappa > 0, track)
    if beta == 0:
        return mixed(bounded, bounded.margins if bounded.interval is None else bounded.interval, y, kappa)
    if bounded.backward is None or bounded.interval is None:
        hint = 'BoundGraph(module, example, "crown-ibp") of a network without jumps'
        raise UsageError("expected a bound graph with interval and backward margins, got one without", hint=hint)
    return mixed(bounded, beta * bounded.backward + (1 - beta) * bounded.interval, y, kappa)


def mixed(bounded: Bounded, margins: Tensor, y: Tensor, kappa: float) -> Tensor:
    """`kappa l(z, y) + (1 - kappa) l(-margins, y)` (paper 4, eq. 12); a term of weight 0 is left out."""
    y = torch.as_tensor(y, device=margins.device).long()  # checked with the bounds
    robust = cross_entropy(-margins, y) if kappa < 1 else None
    if kappa == 0 or bounded.logits is None:
        assert robust is not None
        return robust
    fit = cross_entropy(bounded.logits, y)
    return fit if robust is None else kappa * fit + (1 - kappa) * robust


def _given(y: Tensor) -> Tensor:
    """The labels; without any, bounds would be those of the network's own predictions."""
    if y is None:
        raise PropertyError("expected labels [batch], got None", hint="a loss takes the class of each example")
    return y


def _fraction(name: str, number: float) -> None:
    if not (is_number(number) and 0 <= number <= 1):
        raise UsageError(f"expected {name} in [0, 1], got {number}")


def _bounded(model: BoundGraph | Graph, method: str) -> BoundGraph:
    if isinstance(model, BoundGraph):
        return model
    if not isinstance(model, Graph):
        hint = "iv.compile(module, example) makes a graph"
        raise UsageError(f"expected a graph or a bound graph, got {type(model).__name__}", hint=hint)
    return _of_graph(model, method)


def _of_graph(graph: Graph, method: str) -> BoundGraph:
    """The bound graph of a graph, kept for the next steps, as long as the graph is."""
    kept = _BOUND.setdefault(graph, {})
    if method not in kept:
        same = Graph(graph.nodes, graph.outputs, graph.name, graph.origin)  # the graph itself would keep itself
        kept[method] = BoundGraph(same, method=method)
    return kept[method]


_BOUND: WeakKeyDictionary[Graph, dict[str, BoundGraph]] = WeakKeyDictionary()
"""What `_of_graph` has made, by graph and method."""
