"""Parameters of operators: live tensors, or values derived lazily from live tensors.

A graph lowered from a module holds the module's own parameters, so that whatever is computed from the graph follows
every optimiser step. A rewrite that folds two parameters into one (a batch norm into a convolution, say) must keep that
promise: it stores a `Derived`, which recomputes its value whenever one of its sources has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from irverify.autocast import without_autocast


class Derived:
    """A parameter computed from others: `function(*sources)`.

    Without gradients the value is kept until the elements of a source change; with gradients it is computed afresh,
    since a kept value would belong to an autograd graph that a backward pass has freed.
    """

    def __init__(self, function: Callable[..., Tensor], *sources: Param) -> None:
        self.function = function
        self.sources = sources
        self._kept: _Kept | None = None
        self._seen: object = None
        """Within which `reading_once` the kept value was compared last."""

    def value(self) -> Tensor:
        reading, mode = _READING.get(), torch.is_grad_enabled()
        seen = None if reading is None else reading.seen[mode]
        if seen is not None and self._seen is seen and self._kept is not None:
            return self._kept.result
        tensors = [value(source) for source in self.sources]
        if mode and any(tensor.requires_grad for tensor in tensors):
            return self._computed(tensors)
        if self._kept is None or not all(map(_same, self.sources, tensors, self._kept.sources)):
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be met where there are gradients
                self._kept = _Kept([*map(_copied, self.sources, tensors)], self._computed(tensors))
        result, self._seen = self._kept.result, seen
        return result

    def _computed(self, tensors: list[Tensor]) -> Tensor:
        if not torch.is_autocast_enabled(tensors[0].device.type):
            return self.function(*tensors)
        with without_autocast():  # what is kept would stay narrow
            return self.function(*tensors)

    def __repr__(self) -> str:
        return f"Derived({getattr(self.function, '__name__', 'function')}, {len(self.sources)} sources)"


@dataclass(frozen=True, eq=False)
class _Kept:
    """A value and what it was computed from: copies of live tensors, and what derived ones keep.

    Elements are compared, not versions: writing through `parameter.data` leaves no trace in a version.
    """

    sources: Sequence[Tensor | _Kept]
    result: Tensor


Param: TypeAlias = Tensor | Derived
Computed = TypeVar("Computed")


class _Reading:
    """One `reading_once`: what stands for it, without and with gradients enabled, and what was computed within it."""

    def __init__(self) -> None:
        self.seen = object(), object()
        self.found: dict[tuple[object, bool], Any] = {}


_READING: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Within it no source changes, so that a derived parameter is compared with its sources the first time only."""
    if _READING.get() is not None:
        yield
        return
    token = _READING.set(_Reading())
    try:
        yield
    finally:
        _READING.reset(token)


def once(key: tuple[object, ...], function: Callable[[], Computed]) -> Computed:
    """What a function of such things gives: within `reading_once` it is computed the first time only."""
    reading = _READING.get()
    if reading is None:
        return function()
    whole = (key, torch.is_grad_enabled())
    if whole not in reading.found:
        reading.found[whole] = function()
    found: Computed = reading.found[whole]
    return found


def value(parameter: Param) -> Tensor:
    """The tensor a parameter stands for now."""
    return parameter if isinstance(parameter, Tensor) else parameter.value()


def leaves(parameter: Param) -> Iterator[Tensor]:
    """The live tensors that a parameter is, or is derived from."""
    if isinstance(parameter, Tensor):
        yield parameter
    else:
        for source in parameter.sources:
            yield from leaves(source)


def is_param(candidate: object) -> bool:
    return isinstance(candidate, Tensor | Derived)


def _copied(source: Param, tensor: Tensor) -> Tensor | _Kept:
    """What says later whether the tensor that a source gave is the same."""
    kept = source._kept if isinstance(source, Derived) else None
    return kept if kept is not None and kept.result is tensor else tensor.clone()


def _same(source: Param, tensor: Tensor, kept: Tensor | _Kept) -> bool:
    """Whether a source gives what it gave: the value that it still keeps, or equal elements, type and device."""
    if isinstance(kept, _Kept):
        return isinstance(source, Derived) and source._kept is kept and kept.result is tensor
    return tensor.dtype == kept.dtype and tensor.device == kept.device and torch.equal(tensor, kept)
