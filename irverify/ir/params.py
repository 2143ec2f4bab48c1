"""Parameters of operators: live tensors, or values derived lazily from live tensors.

A graph lowered from a module holds the module's own parameters, so that whatever is computed from the graph follows every
optimiser step. A rewrite that folds two parameters into one (a batch norm into a convolution, say) must keep that promise:
it stores a `Derived`, which recomputes its value whenever one of its sources has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor


class Derived:
    """A parameter computed from others: `function(*sources)`.

    Without gradients the value is cached until a source changes (its identity or in-place version); with gradients it is
    computed afresh, since a cached value would belong to an autograd graph that a backward pass has freed.
    """

    def __init__(self, function: Callable[..., Tensor], *sources: Param) -> None:
        self.function = function
        self.sources = sources
        self._cache: tuple[tuple[tuple[Tensor, int], ...], Tensor] | None = None

    def value(self) -> Tensor:
        tensors = [value(source) for source in self.sources]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return self.function(*tensors)
        if any(tensor.is_inference() for tensor in tensors):  # these carry no version
            return self.function(*tensors)
        if self._cache is not None:
            known, result = self._cache
            if all(
                tensor is seen and tensor._version == version
                for tensor, (seen, version) in zip(tensors, known, strict=True)
            ):
                return result
        with torch.no_grad():
            result = self.function(*tensors)
        self._cache = tuple((tensor, tensor._version) for tensor in tensors), result
        return result

    def __repr__(self) -> str:
        return f"Derived({getattr(self.function, '__name__', 'function')}, {len(self.sources)} sources)"


Param: TypeAlias = Tensor | Derived


def value(parameter: Param) -> Tensor:
    """The tensor a parameter stands for now."""
    return parameter if isinstance(parameter, Tensor) else parameter.value()


def is_param(candidate: object) -> bool:
    return isinstance(candidate, Tensor | Derived)
