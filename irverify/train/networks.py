"""The papers' networks by name, as plain modules, for any input shape and number of classes.

The layer lists give the published numbers of hidden units and parameters; tests count them. Every layer but the last is
followed by a ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from irverify.errors import UsageError

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """A square convolution: `filters`, `size`, `stride`, and zeros around the image."""

    filters: int
    size: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Chain:
    """Convolutions, then fully connected layers of these widths, then a last one with a unit for each class."""

    convolutions: tuple[Conv, ...]
    widths: tuple[int, ...]


_LARGE = (Conv(32, 3, 1, 1), Conv(32, 4, 2, 1), Conv(64, 3, 1, 1), Conv(64, 4, 2, 1))
CHAINS: dict[str, Chain] = {
    # Papers 1, 2 and 5 (sec. 4; table 1: 4804 hidden units and 166406 parameters on MNIST).
    "wk-small": Chain((Conv(16, 4, 2, 1), Conv(32, 4, 2, 1)), (100,)),
    # Paper 5, sec. 4 (table 1: 1974762 parameters on MNIST; its 28064 hidden units there must read 48064).
    "wk-large": Chain(_LARGE, (512, 512)),
    # Paper 4, table 1. The counts on CIFAR-10 fit with no padding for the first two and with padding for the third.
    "ibp-small": Chain((Conv(16, 4, 2), Conv(32, 4, 1)), (100,)),
    "ibp-medium": Chain((Conv(32, 3, 1), Conv(32, 4, 2), Conv(64, 3, 1), Conv(64, 4, 2)), (512, 512)),
    "ibp-large": Chain(
        (Conv(64, 3, 1, 1), Conv(64, 3, 1, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1), Conv(128, 3, 1, 1)), (512,)
    ),
    # Paper 3, table 1 says "wide, 5 layer" and no more; the widths are a choice made here.
    "ibp-wide": Chain((Conv(64, 4, 2), Conv(128, 4, 1), Conv(128, 4, 2)), (512,)),
    # Paper 2, sec. 5.
    "mlp-2x100": Chain((), (100, 100)),
    # For the embedded digits of 8x8 pixels: wk-small on a smaller scale (464 hidden units).
    "digits-small": Chain((Conv(16, 3, 2, 1), Conv(32, 3, 2, 1)), (80,)),
}


class Residual(nn.Module):
    """The sum of two branches: `inner(x) + skip(x)`."""

    def __init__(self, inner: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.inner, self.skip = inner, skip

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.inner(x) + self.skip(x)
        return total


class Normalise(nn.Module):
    """(x - mean) / std for each channel: raw inputs to what the layers behind it were made for. Part of the network, so
    that radii stay in raw units. `mean` and `std` are buffers of shape `[c, 1, ...]`, without the batch axis."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], axes: int) -> None:
        super().__init__()
        shape = (len(mean), *(1,) * (axes - 1))
        self.register_buffer("mean", torch.tensor(mean).reshape(shape))
        self.register_buffer("std", torch.tensor(std).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _chain(chain: Chain, shape: Shape, classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    shape = _image(shape) if chain.convolutions else shape
    for conv in chain.convolutions:
        layers += [nn.Conv2d(shape[0], conv.filters, conv.size, conv.stride, conv.padding), nn.ReLU()]
        shape = (conv.filters, *((side + 2 * conv.padding - conv.size) // conv.stride + 1 for side in shape[1:]))
        if min(shape) < 1:
            raise UsageError("the images are too small for the convolutions of this network")
    layers.append(nn.Flatten())
    units = math.prod(shape)
    for width in chain.widths:
        layers += [nn.Linear(units, width), nn.ReLU()]
        units = width
    return [*layers, nn.Linear(units, classes)]


def _wk_resnet(shape: Shape, classes: int) -> list[nn.Module]:
    """Paper 5, sec. 4: four residual blocks of 16, 16, 32 and 64 filters, then 1000 units. The layers are those of the
    code published with the paper; table 1 counts 107496 hidden units and 4214850 parameters of it on CIFAR-10."""
    channels, height, width = _image(shape)
    if height % 4 or width % 4:
        raise UsageError(f"expected images whose sides are multiples of 4, got {height} x {width}")
    blocks = [*_block(16, 16, 1), *_block(16, 16, 1), *_block(16, 32, 2), *_block(32, 64, 2)]
    units = 64 * (height // 4) * (width // 4)
    head = [nn.Flatten(), nn.Linear(units, 1000), nn.ReLU(), nn.Linear(1000, classes)]
    return [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), *blocks, *head]


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    first = nn.Conv2d(inputs, outputs, stride + 2, stride, padding=1)
    second = nn.Conv2d(outputs, outputs, 3, padding=1)
    skip = nn.Conv2d(inputs, outputs, stride, stride)
    return [Residual(nn.Sequential(first, nn.ReLU(), second), skip), nn.ReLU()]


def _digits_resnet(shape: Shape, classes: int) -> list[nn.Module]:
    """A small residual network with batch norms, of the size of the one that ships with irverify."""
    channels, height, width = _image(shape)
    inner1 = nn.Sequential(_unit(8, 8, 3, 1), nn.ReLU(), _unit(8, 8, 3, 1))
    inner2 = nn.Sequential(_unit(8, 16, 3, 2), nn.ReLU(), _unit(16, 16, 3, 1))
    blocks = [
        Residual(inner1, nn.Identity()), nn.ReLU(), Residual(inner2, _unit(8, 16, 1, 2)), nn.ReLU()
    ]  # fmt: skip
    units = 16 * math.prod(-(-side // 4) for side in (height, width))
    return [_unit(channels, 8, 3, 2), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(units, classes)]


def _unit(inputs: int, outputs: int, size: int, stride: int) -> nn.Module:
    """A convolution and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


RESIDUAL: dict[str, Callable[[Shape, int], list[nn.Module]]] = {
    "wk-resnet": _wk_resnet,
    "digits-resnet": _digits_resnet,
}
NETWORKS = (*CHAINS, *RESIDUAL)
"""The names that `network` knows."""


def network(
    name: str,
    shape: Shape,
    classes: int,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> nn.Sequential:
    """A network of this name, initialised as PyTorch does by its global generator: `[batch, *shape]` to
    `[batch, classes]`.

    `normalisation` is a mean and a standard deviation for each channel, applied first. UsageError for a name that is
    none of `NETWORKS`, and for inputs that do not go into the network.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: expected one of {', '.join(NETWORKS)}")
    if not shape or min(shape) < 1 or classes < 2:
        raise UsageError(f"expected inputs and at least two classes, got shape {list(shape)} and {classes}", where=name)
    try:
        layers = RESIDUAL[name](shape, classes) if name in RESIDUAL else _chain(CHAINS[name], shape, classes)
    except UsageError as error:
        raise UsageError(error.message, where=f"{name} for inputs {list(shape)}", hint=error.hint) from error
    if normalisation is not None:
        mean, std = normalisation
        if not (len(mean) == len(std) == shape[0]):
            raise UsageError(
                f"expected a mean and a standard deviation for each of {shape[0]} channels, got {len(mean)} and "
                f"{len(std)}",
                where=name,
            )
        layers.insert(0, Normalise(mean, std, len(shape)))
    return nn.Sequential(*layers)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise UsageError("expected images [c, h, w]", hint="mlp-2x100 takes inputs of any shape")
    return shape[0], shape[1], shape[2]
