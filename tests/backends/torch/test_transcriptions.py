"""The values of losses and regularisers against the formulas of the papers, written out for networks of two and three
layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from irverify.backends.torch import losses, regularizers
from irverify.backends.torch.dual_relaxation import dual_relaxation
from irverify.backends.torch.losses import Ascent, Projections
from irverify.backends.torch.losses.singleprop import Lines
from irverify.backends.torch.models import Norm
from irverify.ir.graph import Graph
from irverify.ir.ops import Relu
from irverify.regions import Box
from tests.backends.torch.small_networks import batch, mlp

EPS = 0.3
Layer = tuple[Tensor, Tensor]


def layers(seed: int, *widths: int) -> Iterator[tuple[list[Layer], Tensor, Tensor, Graph]]:
    module, graph = mlp(*widths, seed=seed)
    parameters = [parameter.detach() for parameter in module.parameters()]
    x, y = batch(graph, seed=seed)
    yield list(zip(parameters[::2], parameters[1::2], strict=True)), x, y, graph


def relaxed(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """D (paper 5, eq. 11) and the set of unstable neurons."""
    unstable = (lower < 0) & (upper > 0)
    return torch.where(unstable, upper / (upper - lower), (lower >= 0).double()), unstable


def dual_objective(net: list[Layer], x: Tensor, c: Tensor, lower: Tensor, upper: Tensor, order: float) -> Tensor:
    """Paper 5, eq. 7 with the layers of eq. 9 and 10, for one input and a network of two layers."""
    (w1, b1), (w2, b2) = net
    slope, unstable = relaxed(lower, upper)
    nu3 = -c
    nu2 = slope * (w2.T @ nu3)
    nu1 = w1.T @ nu2
    hidden = sum((lower[j] * nu2[j].clamp(min=0) for j in range(len(lower)) if unstable[j]), torch.zeros(()))
    norm: Tensor = torch.linalg.vector_norm(nu1, ord=order)
    return -nu3 @ b2 - nu2 @ b1 - x @ nu1 - EPS * norm + hidden


def dual_value(net: list[Layer], x: Tensor, y: Tensor, radius: Tensor, order: float) -> Tensor:
    """`mean L(-J, y)`, with pre-activation bounds `W_1 x + b_1 -+ radius`."""
    (w1, b1), (_, b2) = net
    identity = torch.eye(len(b2), dtype=torch.float64)
    margins = []
    for point, label in zip(x, y, strict=True):
        center = w1 @ point + b1
        lower, upper = center - radius, center + radius
        margins.append(torch.stack([
            dual_objective(net, point, identity[label] - identity[j], lower, upper, order) for j in range(len(b2))
        ]))  # fmt: skip
    return cross_entropy(-torch.stack(margins), y)


@pytest.mark.parametrize("seed", range(3))
def test_dual(seed: int) -> None:
    for net, x, y, graph in layers(seed, 4, 6, 3):
        box = dual_value(net, x, y, EPS * net[0][0].abs().sum(1), 1)
        torch.testing.assert_close(losses.dual(graph, x, y, EPS), box)
        ball = dual_value(net, x, y, EPS * torch.linalg.vector_norm(net[0][0], dim=1), 2)
        torch.testing.assert_close(losses.dual(graph, x, y, EPS, norm="2"), ball)


def median(columns: Tensor) -> Tensor:
    """The median of magnitudes over the first axis."""
    ordered = columns.abs().sort(dim=0).values
    return (ordered[(len(columns) - 1) // 2] + ordered[len(columns) // 2]) / 2


def projected_range(net: list[Layer], x: Tensor, drawn: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The second pre-activation of a network, for one input: its norms are those of all columns as one (eq. 12 and 13);
    the first pre-activation is exact."""
    (w1, b1), (w2, b2) = net[:2]
    center, radius = w1 @ x + b1, EPS * w1.abs().sum(1)
    lower, upper = center - radius, center + radius
    slope, unstable = relaxed(lower, upper)
    middle = torch.where(unstable, -slope * lower / 2, torch.zeros_like(lower))
    columns = EPS * drawn[0] @ w1.T @ (w2 * slope).T + drawn[1] @ (w2 * middle).T
    center = w2 @ (slope * center + middle) + b2
    return center - median(columns), center + median(columns)


@pytest.mark.parametrize("columns", [5, 6])
def test_projected_layers(columns: int) -> None:
    """The median over Cauchy columns for l-infinity, the same for all examples, and new at each call."""
    for net, x, y, graph in layers(3, 4, 6, 5, 3):
        mirror, generator = (torch.Generator().manual_seed(9) for _ in range(2))
        for _ in range(2):
            source = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=mirror)))
            drawn = [torch.empty(columns, n, dtype=torch.float64).cauchy_(generator=source) for n in (4, 6)]
            problem = dual_relaxation(graph, x, y, EPS, projections=Projections(columns, generator))
            second = [node.inputs[0] for node in problem.state.graph if isinstance(node.op, Relu)][1]
            found = zip(*problem.ranges[second], strict=True)
            for point, (lower, upper) in zip(x, found, strict=True):
                torch.testing.assert_close((lower, upper), projected_range(net, point, drawn))


@pytest.mark.parametrize("columns", [5, 6])
def test_projected_dual(columns: int) -> None:
    """Paper 5, app. H: the mean square over normal columns for l2, also at the first layer. For l-infinity that one is
    exact."""
    for net, x, y, graph in layers(3, 4, 6, 3):
        mirror, generator = (torch.Generator().manual_seed(9) for _ in range(2))
        for _ in range(2):
            drawn = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=mirror)))
            normal = torch.randn(1, columns, 4, dtype=torch.float64, generator=drawn)[0]
            root = (normal @ net[0][0].T).square().mean(0).sqrt()
            chosen = Projections(columns, generator)
            found = losses.dual(graph, x, y, EPS, projections=chosen, norm="2")
            torch.testing.assert_close(found, dual_value(net, x, y, EPS * root, 2))
        found = losses.dual(graph, x, y, EPS, projections=Projections(columns))
        torch.testing.assert_close(found, losses.dual(graph, x, y, EPS))


def test_dual_bounds_the_loss_at_perturbed_inputs() -> None:
    for _, x, y, graph in layers(4, 4, 6, 5, 3):
        for norm in get_args(Norm):
            bound = losses.dual(graph, x, y, EPS, norm=norm).item()
            attacked = losses.adversarial(graph, x, y, EPS, norm=norm).item()
            assert losses.clean(graph, x, y).item() <= attacked <= bound


@pytest.mark.parametrize("seed", range(3))
def test_tightness(seed: int) -> None:
    """Paper 2, eq. 7 to 10, with `delta_0* = -eps sign(c^T W_2:1)`."""
    for net, x, y, graph in layers(seed, 4, 6, 3):
        (w1, b1), (w2, b2) = net
        total = {"d": 0.0, "r": 0.0}
        for point, label in zip(x, y, strict=True):
            lower = w1 @ point + b1 - EPS * w1.abs().sum(1)
            upper = w1 @ point + b1 + EPS * w1.abs().sum(1)
            slope, unstable = relaxed(lower, upper)
            for t in set(range(3)) - {int(label)}:
                c = torch.eye(3, dtype=torch.float64)[label] - torch.eye(3, dtype=torch.float64)[t]
                behind = c @ w2  # c^T W_2:2
                row = behind * slope @ w1  # c^T W_2:1
                offset = behind @ (slope * b1) + c @ b2
                bound = row @ point + offset - EPS * row.abs().sum()
                for j in range(6):
                    if unstable[j]:
                        bound -= upper[j] * lower[j] / (upper[j] - lower[j]) * behind[j].clamp(max=0)
                hidden = w1 @ (point - EPS * row.sign()) + b1
                total["d"] += float(c @ (w2 @ hidden.clamp(min=0) + b2) - bound) / len(x)
                apart = sum(
                    abs(float(hidden[j])) if behind[j] >= 0
                    else min(abs(float(hidden[j] - lower[j])), abs(float(hidden[j] - upper[j])))
                    for j in range(6) if unstable[j]
                )  # fmt: skip
                total["r"] += apart / max(1, int(unstable.sum())) / len(x)
        found = regularizers.tightness(graph, x, y, EPS)
        assert found.d.item() == pytest.approx(total["d"])
        assert found.r.item() == pytest.approx(total["r"])
        together = losses.tight_terms(graph, x, y, EPS)
        torch.testing.assert_close(together, (losses.dual(graph, x, y, EPS), *found))


def test_without_unstable_neurons_the_indicators_vanish() -> None:
    for _, x, y, graph in layers(0, 4, 6, 3):
        found = regularizers.tightness(graph, x, y, 0.0)
        assert found.r.item() == 0
        assert found.d.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("lines", ["zero", "fast-lin"])
def test_singleprop(lines: Lines) -> None:
    """Paper 3, eq. 5, with v by eq. 7 or 8."""
    for (first, second), x, y, graph in layers(1, 4, 6, 3):
        (w1, b1), (w2, b2) = first, second
        z = x @ w1.T + b1
        v = EPS * w1.abs().sum(1).expand_as(z)
        unstable = (z + v > 0) & (z - v < 0)
        bent = (z + v) / 2 if lines == "zero" else 3 / 4 * v + z / 2 - z**2 / (4 * v)
        gap = torch.where(unstable, bent, torch.where(z > 0, v, torch.zeros_like(v))) @ w2.abs().T
        out = z.clamp(min=0) @ w2.T + b2
        one_hot = torch.eye(3, dtype=torch.float64)[y]
        worst = (out - gap) * one_hot + (out + gap) * (1 - one_hot)
        terms = losses.singleprop_terms(graph, x, y, EPS, lines=lines)
        torch.testing.assert_close(terms.clean, cross_entropy(out, y))
        torch.testing.assert_close(terms.regularizer, cross_entropy(worst, y) - cross_entropy(out, y))
        expected = terms.clean + 0.3 * terms.regularizer
        found = losses.singleprop(graph, x, y, EPS, weight=0.3, lines=lines)
        torch.testing.assert_close(found, expected)


def affine(u: Tensor, low: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Paper 1, eq. 7 and 8, without the bias: upper and lower bounds."""
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    return plus @ u + minus @ low, plus @ low + minus @ u


@pytest.mark.parametrize("bounds", ["interval", "improved-interval"])
def test_rs_loss(bounds: Literal["interval", "improved-interval"]) -> None:
    """Paper 1, sec. 3.3.1, over naive bounds or those of eq. 9, on two layers of ReLUs."""
    for ((w1, b1), (w2, b2), _), x, _y, graph in layers(2, 4, 6, 5, 3):
        total = 0.0
        for point in x:
            upper, lower = (side + b1 for side in affine(point + EPS, point - EPS, w1))
            active = (lower > 0) if bounds == "improved-interval" else torch.zeros_like(lower, dtype=torch.bool)
            rest = affine(upper.clamp(min=0), lower.clamp(min=0), w2 * ~active)
            composed = affine(point + EPS, point - EPS, (w2 * active) @ w1)
            shift = (w2 * active) @ b1 + b2
            above, below = rest[0] + composed[0] + shift, rest[1] + composed[1] + shift
            for u, low in ((upper, lower), (above, below)):
                total -= float(torch.tanh(1 + u * low).sum()) / len(x)
        found = regularizers.rs_loss(graph, x, EPS, bounds=bounds)
        assert found.item() == pytest.approx(total)


def test_l1_counts_weights_alone() -> None:
    for net, _x, _y, graph in layers(2, 4, 6, 3):
        assert regularizers.l1(graph).item() == pytest.approx(sum(float(w.abs().sum()) for w, _ in net))


def forward(net: list[Layer], x: Tensor) -> Tensor:
    (w1, b1), (w2, b2) = net
    return (x @ w1.T + b1).clamp(min=0) @ w2.T + b2


def ascended(net: list[Layer], start: Tensor, x: Tensor, kind: str, y: Tensor) -> Tensor:
    """Two steps of half eps by signs, projected."""
    point = start
    for _ in range(2):
        point = point.detach().requires_grad_(True)
        out = log_softmax(forward(net, point), 1)
        clean = log_softmax(forward(net, x), 1)
        value = (clean.exp() * (clean - out)).sum() if kind == "trades" else -out.gather(1, y.unsqueeze(1)).sum()
        (slope,) = torch.autograd.grad(value, point)
        point = torch.minimum(torch.maximum(point.detach() + EPS / 2 * slope.sign(), x - EPS), x + EPS)
    return point


def test_adversarial() -> None:
    for net, x, y, graph in layers(5, 4, 6, 3):
        start = Box(x - EPS, x + EPS).sample(1, torch.Generator().manual_seed(1))[0]
        attacked = ascended(net, start, x, "adversarial", y)
        ascent = Ascent(2, 0.5, torch.Generator().manual_seed(1))
        found = losses.adversarial(graph, x, y, EPS, ascent=ascent)
        torch.testing.assert_close(found, cross_entropy(forward(net, attacked), y))


def test_trades() -> None:
    for net, x, y, graph in layers(6, 4, 6, 3):
        noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
        attacked = ascended(net, x + 1e-3 * noise, x, "trades", y)
        clean, other = log_softmax(forward(net, x), 1), log_softmax(forward(net, attacked), 1)
        expected = cross_entropy(forward(net, x), y) + 2.0 * (clean.exp() * (clean - other)).sum() / len(x)
        ascent = Ascent(2, 0.5, torch.Generator().manual_seed(1))
        torch.testing.assert_close(losses.trades(graph, x, y, EPS, beta=2.0, ascent=ascent), expected)
