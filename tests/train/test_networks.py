"""The papers' networks: the published counts of hidden units and parameters, and that irverify compiles them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.errors import UsageError
from irverify.train.networks import NETWORKS, network

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def hidden_units(module: nn.Module, shape: tuple[int, ...]) -> int:
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted.append(math.prod(output.shape[1:]))

    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(count)
    module(torch.zeros(1, *shape))
    return sum(counted)


@pytest.mark.parametrize(
    ("name", "shape", "hidden", "parameters"),
    [
        ("wk-small", MNIST, 4804, 166_406),  # paper 5, table 1
        ("wk-small", CIFAR, 6244, 214_918),
        ("wk-large", MNIST, 48_064, 1_974_762),  # as printed but for the hidden units, 28064
        ("wk-large", CIFAR, 62_464, 2_466_858),
        ("wk-resnet", MNIST, 82_536, 3_254_562),
        ("wk-resnet", CIFAR, 107_496, 4_214_850),
        ("ibp-small", CIFAR, 8308, 470_918),  # paper 4, table 1: 8.3K and 471K
        ("ibp-medium", CIFAR, 46_912, 1_188_906),  # 47K and 1.2M
        ("ibp-large", CIFAR, 229_888, 17_190_602),  # 230K and 17M
        ("mlp-2x100", MNIST, 200, 89_610),
        ("digits-small", DIGITS, 464, 15_930),
    ],
)
def test_published_sizes(name: str, shape: tuple[int, ...], hidden: int, parameters: int) -> None:
    module = network(name, shape, 10)
    assert hidden_units(module, shape) == hidden
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


@pytest.mark.parametrize("name", ["wk-small", "wk-resnet", "mlp-2x100", "digits-small", "digits-resnet"])
def test_networks_compile(name: str) -> None:
    module = network(name, DIGITS, 7, ([0.5], [0.25])).eval()
    x = torch.rand(3, *DIGITS)
    graph = iv.compile(module, x)
    torch.testing.assert_close(graph.evaluate(x), module(x))


def test_every_network_takes_mnist() -> None:
    assert all(network(name, MNIST, 4)(torch.zeros(2, *MNIST)).shape == (2, 4) for name in NETWORKS)


def test_normalisation_comes_first() -> None:
    module = network("mlp-2x100", (2, 3, 3), 2, ([0.5, 1.0], [0.25, 0.5]))
    assert module[0](torch.ones(1, 2, 3, 3)).unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("wk-smal", MNIST, "unknown network 'wk-smal': expected one of wk-small"),
        ("wk-small", (784,), r"wk-small for inputs \[784\]: expected images \[c, h, w\] \(mlp-2x100 takes"),
        ("ibp-medium", DIGITS, "too small"),
        ("wk-resnet", (1, 9, 8), "multiples of 4, got 9 x 8"),
    ],
)
def test_what_does_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        network(name, shape, 10)


def test_one_mean_for_each_channel() -> None:
    with pytest.raises(UsageError, match="for each of 3 channels, got 1 and 1"):
        network("wk-small", CIFAR, 10, ([0.5], [0.5]))
