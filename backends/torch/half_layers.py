"""The affine layers that z_nom and v go through, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from irverify.backends.torch.layout import Layout
from irverify.ir.ops import Conv
from irverify.ir.ops.conv import CONV
from irverify.ir.ops.memory import channels_last

Gradients: TypeAlias = Sequence[Tensor | None]
"""Those in operand, kernel and bias of a layer, None where one is not wanted."""


class Layer(Protocol):
    """An affine map, and how its tensors stand in memory."""

    def operand(self, x: Tensor) -> Tensor:
        """x as the map reads it."""

    def kernel(self, weight: Tensor) -> Tensor:
        """The weight as the map reads it."""

    def ahead(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """`W x + b`."""

    def back(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: list[bool]) -> Gradients:
        """From the gradient of the result."""

    def weight(self, gradient: Tensor) -> Tensor:
        """The gradient in the weight from that in the kernel."""


class Product:
    """A linear layer over flattened values of this shape, in the order of their layout."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._flat = len(shape) == 1

    def operand(self, x: Tensor) -> Tensor:
        return x if self._flat else Layout.of(self._shape, x).flat(x)

    def kernel(self, weight: Tensor) -> Tensor:
        return weight if self._flat else Layout.of(self._shape, weight).columns(weight)

    def ahead(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, kernel, bias)

    def back(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: list[bool]) -> Gradients:
        of_operand, of_kernel, of_bias = wanted
        return (
            self._shaped(gradient @ kernel) if of_operand else None,
            gradient.t() @ x if of_kernel else None,
            gradient.sum(0) if of_bias else None,
        )

    def weight(self, gradient: Tensor) -> Tensor:
        return self._shaped(gradient).flatten(1)

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat if self._flat else Layout.of(self._shape, flat).shaped(flat)


class Convolution:
    """A convolution with as much padding after as before. The operator gives everything but the parameters."""

    def __init__(self, op: Conv) -> None:
        padding = [before for before, _ in op.padding]
        self._convolve = CONV[len(padding)]
        self._steps = op.stride, padding, op.dilation, op.groups
        self._back = op.stride, padding, op.dilation, False, [0] * len(padding), op.groups

    def operand(self, x: Tensor) -> Tensor:
        return channels_last(x)

    def kernel(self, weight: Tensor) -> Tensor:
        return weight

    def ahead(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolve(x, kernel, bias, *self._steps)

    def back(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: list[bool]) -> Gradients:
        function = torch.ops.aten.convolution_backward.default
        found: Gradients = function(gradient, x, kernel, [len(kernel)], *self._back, wanted)
        return found

    def weight(self, gradient: Tensor) -> Tensor:
        return gradient
