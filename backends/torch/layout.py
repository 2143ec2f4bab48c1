"""How values with channels and two spatial axes stand in memory where rows go over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops.memory import channels_last, reshaped


@dataclass(frozen=True)
class Layout:
    """Values of a shape as rows of numbers: channels last on a CPU, where convolutions are faster that way."""

    shape: tuple[int, ...]
    last: bool

    @staticmethod
    def of(shape: tuple[int, ...], like: Tensor) -> Layout:
        return Layout(tuple(shape), len(shape) == 3 and like.device.type == "cpu")

    def flat(self, values: Tensor) -> Tensor:
        """`[count, *shape]` as `[count, size]`."""
        if not self.shape:
            return values.unsqueeze(1)
        return (values.permute(0, 2, 3, 1) if self.last else values).flatten(1)

    def shaped(self, flat: Tensor) -> Tensor:
        """What `flat` was made of; a view."""
        if not self.last:
            return flat.reshape(-1, *self.shape)
        channels, height, width = self.shape
        return flat.reshape(-1, height, width, channels).permute(0, 3, 1, 2)

    def columns(self, matrix: Tensor) -> Tensor:
        """`[rows, size]` over flattened values with its columns as `flat` has them."""
        return self.flat(matrix.reshape(-1, *self.shape)) if self.last else matrix

    def spread(self, bias: Tensor) -> Tensor:
        """A number for each channel as a flat value, `[size]`."""
        return self.flat(bias.reshape(1, -1, *(1,) * (len(self.shape) - 1)).expand(1, *self.shape)).squeeze(0)

    def by_channel(self, flat: Tensor) -> Tensor:
        """The sum of a flat value over each channel: the gradient of `spread`."""
        return self.shaped(flat.unsqueeze(0)).flatten(2).sum(2).squeeze(0) if len(self.shape) > 1 else flat


def columns(weight: Tensor, shape: tuple[int, ...], batch: Tensor | None = None) -> Tensor:
    """The weight `[out, size]` of a layer that reads flattened values, its columns in the order of their layout; as it
    is where `flat` copies the values of a `batch`."""
    return Layout.of(shape, weight).columns(weight) if batch is None or _many(batch, weight) else weight


def flat(values: Tensor, weight: Tensor) -> Tensor:
    """Values `[batch, *shape]` as `[batch, size]`, in the order that `columns` has given the weight: a view of what has
    the channels last, or a copy where that is less work."""
    if _many(values, weight):
        return Layout.of(tuple(values.shape[1:]), values).flat(values)
    return reshaped(values, (weight.shape[1],))


def trained(x: Tensor) -> Tensor:
    """x with the channels last where gradients may be asked for: a step that computes them is faster so, no other."""
    return channels_last(x) if torch.is_grad_enabled() else x


def _many(values: Tensor, weight: Tensor) -> bool:
    """Whether the values stand as in `trained`, and two of all examples, such as centre and radius, are as large as the
    weight `[out, size]`."""
    return torch.is_grad_enabled() and 2 * values.shape[0] >= weight.shape[0]
