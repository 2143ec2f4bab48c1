"""Gradients of bounds by radius, input and parameters through every nonlinearity, where boxes are points too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import BoundGraph, losses
from irverify.passes.curves import SIGMOID, TANH, Curve, touching_point

DOUBLE = torch.float64
CUBE = Curve(lambda x: -(x**3), lambda x: -3 * x**2, lambda x: -6 * x)


class Between(nn.Module):
    """A function of two linear maps of the input, and a linear map of it."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.function(self.first(x), self.second(x)))
        return logits


def chain(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 4), activation, nn.Linear(4, 3))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: chain(nn.ReLU()),
    "leaky": lambda: chain(nn.LeakyReLU(0.1)),
    "clip": lambda: chain(nn.Hardtanh()),
    "sigmoid": lambda: chain(nn.Sigmoid()),
    "tanh": lambda: chain(nn.Tanh()),
    "silu": lambda: chain(nn.SiLU()),
    "exp": lambda: Between(lambda a, b: a.exp()),
    "cube": lambda: Between(lambda a, b: a**3),
    "square": lambda: Between(lambda a, b: a * a),
    "product": lambda: Between(lambda a, b: a * b),
    "quotient": lambda: Between(lambda a, b: a / (2 + b.sigmoid())),
    "softmax": lambda: Between(lambda a, b: a.softmax(-1)),
    "maximum": lambda: Between(torch.maximum),
    "matrices": lambda: Between(lambda a, b: (a.reshape(-1, 2, 2) @ b.reshape(-1, 2, 2)).flatten(1)),
    "pool": lambda: nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ),
}
RADII = {
    "none": torch.zeros(2, 1, dtype=DOUBLE),
    "of one example": torch.tensor([[0.0], [0.2]], dtype=DOUBLE),
    "of some coordinates": torch.tensor([[0.2, 0.0, 0.1], [0.0, 0.0, 0.3]], dtype=DOUBLE),
    "tiny": torch.full((2, 1), 1e-12, dtype=DOUBLE),
}
X = torch.tensor([[0.3, -0.5, 0.8], [0.0, 0.0, 0.0]], dtype=DOUBLE)
LABELS = torch.tensor([0, 2])
SMOOTH = ("sigmoid", "tanh", "silu", "cube", "quotient")
"""Those whose bounds have no kink where a box is a point in some coordinates."""
ESTIMATED = ("relu", "leaky", "clip", "sigmoid", "tanh")


@cache
def made(name: str) -> tuple[nn.Module, iv.Graph]:
    torch.manual_seed(0)
    module = MODULES[name]().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.8)
    return module, iv.compile(module, X[:1])


def assert_finite(found: Tensor, leaves: list[Tensor]) -> None:
    gradients = torch.autograd.grad(found, leaves, allow_unused=True, materialize_grads=True)
    assert all(bool(part.isfinite().all()) for part in gradients)
    assert 0 < max(float(part.abs().max()) for part in gradients) < 1e4


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "forward"])
@pytest.mark.parametrize("name", MODULES)
def test_all_are_finite(name: str, method: str) -> None:
    module, graph = made(name)
    bounded = BoundGraph(graph, method=method)
    for radius in RADII.values():
        x, eps = X.clone().requires_grad_(), radius.clone().requires_grad_()
        assert_finite(bounded(x, eps, LABELS).margins.sum(), [x, eps, *module.parameters()])


@pytest.mark.parametrize("name", ESTIMATED)
def test_estimates_are_finite(name: str) -> None:
    module, graph = made(name)
    for radius in RADII.values():
        x, eps = X.clone().requires_grad_(), radius.clone().requires_grad_()
        assert_finite(losses.singleprop(graph, x, LABELS, eps), [x, eps, *module.parameters()])


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
@pytest.mark.parametrize("name", SMOOTH)
def test_against_differences(name: str, method: str) -> None:
    """Where the box is a point in some coordinates, to the side on which there are boxes."""
    (module, graph), eps = made(name), torch.tensor([[0.2, 0.0, 0.1], [0.15, 0.0, 0.3]], dtype=DOUBLE)
    x = X + torch.tensor([[0.0], [0.1]], dtype=DOUBLE)
    bounded = BoundGraph(graph, method=method)

    def bound(x: Tensor, eps: Tensor) -> Tensor:
        total: Tensor = bounded(x.requires_grad_(), eps, LABELS).margins.sum()
        return total

    parameters = tuple(module.parameters())
    leaves = (x.clone().requires_grad_(), eps.clone().requires_grad_(), *parameters)
    now = bound(*leaves[:2])
    found = torch.autograd.grad(now, leaves, allow_unused=True, materialize_grads=True)
    step, generator = 1e-4, torch.Generator().manual_seed(1)
    moves = [torch.rand(leaf.shape, generator=generator, dtype=DOUBLE) for leaf in leaves]

    for place, (gradient, move) in enumerate(zip(found, moves, strict=True)):
        with torch.no_grad():
            changed = [leaf + step * move if place == at else leaf for at, leaf in enumerate(leaves)]
            if place > 1:
                parameters[place - 2].copy_(changed[place])
        after = bound(changed[0].detach().clone(), changed[1].detach())
        with torch.no_grad():
            if place > 1:
                parameters[place - 2].sub_(step * move)
        expected = float(after.detach() - now.detach()) / step
        slope = float((gradient * move).sum())
        assert slope == pytest.approx(expected, rel=0.01, abs=0.01)  # bisection leaves 1e-7 of a touching point


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("x", [-0.5, 0.0, 0.7])
def test_of_one_sigmoid_by_hand(x: float, method: str) -> None:
    """Logits s(x_1) and s(x_2), x_2 a point: the margin of the first is at least s(x_1 - eps) - s(x_2)."""
    module = nn.Sigmoid()
    point, eps = torch.tensor([[x, 0.2]], dtype=DOUBLE).requires_grad_(), torch.tensor([[0.3, 0.0]], dtype=DOUBLE)
    eps.requires_grad_()
    bound = BoundGraph(module, torch.zeros(1, 2, dtype=DOUBLE), method)(point, eps, torch.tensor([0])).margins[0, 1]
    found = torch.autograd.grad(bound, [point, eps])
    low, other = torch.tensor(x - 0.3, dtype=DOUBLE).sigmoid(), torch.tensor(0.2, dtype=DOUBLE).sigmoid()
    assert bound.item() == pytest.approx(float(low - other))
    assert found[0].flatten().tolist() == pytest.approx([float(low * (1 - low)), float(-other * (1 - other))])
    assert found[1][0, 0].item() == pytest.approx(float(-low * (1 - low)))


@pytest.mark.parametrize(
    ("lower", "upper", "point", "by_lower", "by_upper"),
    [(-1.0, 2.0, 0.5, -0.5, 0.0), (-1.0, 0.3, 0.3, 0.0, 1.0), (0.2, 2.0, 0.2, 1.0, 0.0), (-2.0, -1.0, -1.0, 0.0, 1.0)],
)
def test_touching_point_of_a_cube(lower: float, upper: float, point: float, by_lower: float, by_upper: float) -> None:
    """The tangent that meets -x^3 at l < 0 touches it at -l / 2."""
    ends = torch.tensor([[lower], [upper]], dtype=DOUBLE).requires_grad_()
    found = touching_point(CUBE, *ends)
    (gradient,) = torch.autograd.grad(found.sum(), [ends])
    assert found.item() == pytest.approx(point, abs=1e-6)
    assert gradient.flatten().tolist() == pytest.approx([by_lower, by_upper], abs=1e-5)


@pytest.mark.parametrize("curve", [SIGMOID, TANH], ids=["sigmoid", "tanh"])
def test_touching_points_against_differences(curve: Curve) -> None:
    lower = torch.linspace(-4, 3, 15, dtype=DOUBLE) + 0.01
    ends = torch.stack([lower, lower + 5]).requires_grad_()
    (found,) = torch.autograd.grad(touching_point(curve, *ends).sum(), [ends])
    for gradient, side in zip(found, torch.eye(2, dtype=DOUBLE), strict=True):
        move = 1e-4 * side.unsqueeze(1)
        after, before = (touching_point(curve, *ends.detach() + sign * move) for sign in (1, -1))
        torch.testing.assert_close(gradient, (after - before) / 2e-4, rtol=0, atol=0.01)


def test_rounding_does_not_choose_between_planes() -> None:
    """Both planes above x sigmoid(x) vary as much for x > 0; which is taken must not jump from one box to the next."""
    graph = iv.compile(nn.Sequential(nn.SiLU(), nn.Linear(8, 2)).double(), torch.zeros(1, 8, dtype=DOUBLE))
    center = torch.linspace(0.6, 2.0, 8, dtype=DOUBLE).repeat(50, 1)
    center = center + 1e-9 * torch.rand(center.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = iv.margins(graph, iv.Linf(center, 0.5), 0, "crown")
    assert float((found - found[0]).detach().abs().max()) < 1e-7
