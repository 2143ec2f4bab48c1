"""One network for all losses of a training step: by hand on two layers, and against PyTorch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from irverify.backends.torch import losses, regularizers
from irverify.backends.torch.losses import Ascent
from irverify.backends.torch.training_graph import TrainingGraph
from irverify.errors import UnsupportedError, UsageError
from tests.backends.torch.small_networks import Residual, assert_gradient

EPS = 0.2


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.first(x)).relu())
        return result


def two_layers() -> tuple[TwoLayers, Tensor, Tensor]:
    torch.manual_seed(1)
    module = TwoLayers().double()
    with torch.no_grad():
        module.norm.weight.uniform_(-1.5, 1.5)
        module.norm.bias.uniform_(-0.2, 0.2)
    return module, torch.rand(5, 3, dtype=torch.float64), torch.arange(5) % 2


def normalised(module: TwoLayers, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first layer and its normalisation by the batch as one layer, written out."""
    w, b, norm = module.first.weight, module.first.bias, module.norm
    z = x @ w.T + b
    mean = z.sum(0) / 5
    scale = norm.weight / ((z - mean).square().sum(0) / 5 + norm.eps).sqrt()
    return scale.unsqueeze(1) * w, scale * (b - mean) + norm.bias


def by_hand(module: TwoLayers, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Losses of the network after `normalised`."""
    (w1, b1), (w2, b2) = normalised(module, x), (module.last.weight, module.last.bias)
    z = x @ w1.T + b1
    radius = EPS * w1.abs().sum(1)
    lower, upper = z - radius, z + radius
    unstable = (lower < 0) & (upper > 0)
    slope = torch.where(unstable, upper / (upper - lower), (lower >= 0).double())
    row = torch.where(y.bool().unsqueeze(1), w2[1] - w2[0], w2[0] - w2[1])  # c^T W_2 of the margin
    offset = torch.where(y.bool(), b2[1] - b2[0], b2[0] - b2[1])
    through = slope * row  # slope z <= relu(z) <= slope (z - l)
    constants = torch.where(unstable, -slope * lower * row.clamp(max=0), torch.zeros_like(lower))
    dual = (through * b1).sum(1) + (through @ w1 * x).sum(1) - EPS * (through @ w1).abs().sum(1) + constants.sum(1)
    ibp = (row.clamp(min=0) * lower.relu() + row.clamp(max=0) * upper.relu()).sum(1)
    hidden = z.relu()
    return {
        "clean": cross_entropy(hidden @ w2.T + b2, y),
        "dual": nn.functional.softplus(-(dual + offset)).mean(),
        "ibp": nn.functional.softplus(-(ibp + offset)).mean(),
        "rs": -(1 + lower * upper).tanh().sum() / 5,
    }


def found(module: TwoLayers, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    training = TrainingGraph(module, x[:1])
    logits, graph = training.take(x), training.graph
    return {
        "clean": cross_entropy(logits, y),
        "dual": losses.dual(graph, x, y, EPS),
        "ibp": losses.ibp(graph, x, y, EPS, kappa=0.0),
        "rs": regularizers.rs_loss(graph, x, EPS, bounds="interval"),
    }


@pytest.mark.parametrize("name", ["clean", "dual", "ibp", "rs"])
def test_by_hand(name: str) -> None:
    module, x, y = two_layers()
    twin = copy.deepcopy(module)
    value, expected = found(module, x, y)[name], by_hand(twin, x, y)[name]
    torch.testing.assert_close(value, expected)
    parameters = list(zip(module.parameters(), twin.parameters(), strict=True))
    own = torch.autograd.grad(value, [pair[0] for pair in parameters], allow_unused=True, materialize_grads=True)
    other = torch.autograd.grad(expected, [pair[1] for pair in parameters], allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(own, other)


def test_one_update_of_the_running_statistics_for_all_losses() -> None:
    module, x, y = two_layers()
    twin = copy.deepcopy(module)
    for _ in range(2):
        found(module, x, y)
        twin(x)
    for (name, own), other in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


@pytest.mark.parametrize("name", ["singleprop", "adversarial", "trades", "tight"])
def test_statistics_are_part_of_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    module = Residual().double()
    x, y = torch.rand(3, 1, 3, 3, dtype=torch.float64), torch.arange(3)
    training = TrainingGraph(module, x[:1])
    near = Ascent(steps=0, start=x + 0.01)

    def loss() -> Tensor:
        training.take(x)
        graph = training.graph
        if name == "singleprop":
            return losses.singleprop(graph, x, y, 0.02)
        if name == "adversarial":
            return losses.adversarial(graph, x, y, 0.02, ascent=near)
        if name == "trades":
            return losses.trades(graph, x, y, 0.02, ascent=near)
        return losses.tight_terms(graph, x, y, 0.02).dual

    assert_gradient(module, loss)


def test_layers_in_evaluation_keep_their_statistics() -> None:
    module, x, y = two_layers()
    module(x)
    module.norm.eval()
    before = copy.deepcopy(module.state_dict())
    training = TrainingGraph(module, x[:1])
    assert not training.follows_batch
    torch.testing.assert_close(training.take(x), module.eval()(x))
    torch.testing.assert_close(losses.clean(training.graph, x, y), cross_entropy(module(x), y))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_what_cannot_be_trained() -> None:
    module, x, _ = two_layers()
    with pytest.raises(UsageError, match="more than one value"):
        TrainingGraph(module, x[:1]).take(x[:1])
    with pytest.raises(UnsupportedError, match="Dropout"):
        TrainingGraph(nn.Sequential(nn.Dropout(), module), x[:1]).take(x)
