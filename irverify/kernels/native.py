"""The compiled code, and the addresses that it takes."""

from __future__ import annotations

import os
from types import ModuleType
from typing import overload

import torch  # before the compiled code, so that both share one library of threads
from torch import Tensor
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling

VERSION = 32
"""That of the functions of kernels.c which are called here."""
OFF = "IRVERIFY_KERNELS"
"""The environment variable that turns compiled code off: 0."""
THREADED = 2**16
"""From so many elements on work is shared among threads."""

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def _load() -> ModuleType | None:
    if os.environ.get(OFF) == "0":
        return None
    try:
        from irverify.kernels import _kernels
    except ImportError:  # there was no C compiler
        return None
    return _kernels if _kernels.VERSION == VERSION else None


native = _load()


def available() -> bool:
    """Whether there is compiled code."""
    return native is not None


def head(like: Tensor) -> tuple[int, int]:
    """What each compiled function takes first: the size of an element, and on how many threads to work."""
    return like.element_size(), torch.get_num_threads() if like.numel() >= THREADED else 1


def addresses(first: Tensor, *others: Tensor | None) -> list[int] | None:
    """Where tensors begin, 0 for None; None where compiled code cannot read them."""
    dtype = first.dtype
    if native is None or watched() or (dtype != torch.float32 and dtype != torch.float64):
        return None
    found = []
    try:
        for tensor in (first, *others):
            if tensor is None:
                found.append(0)
                continue
            if type(tensor) not in _PLAIN or not tensor.is_cpu or tensor.dtype != dtype or tensor.is_neg():
                return None
            found.append(tensor.data_ptr())
            if not found[-1] and tensor.numel():  # zeros without memory
                return None
    except RuntimeError:  # a function transform's tensor has no memory
        return None
    return found


def alike(first: Tensor, *others: Tensor) -> list[int] | None:
    """Addresses of tensors that have all their elements in one order, one after the other."""
    found, stride = addresses(first, *others), first.stride()
    if found is None:
        return None
    for other in others:  # asked at every step: a generator would take twice as long
        if other.stride() != stride or other.shape != first.shape:
            return None
    dense = first.is_contiguous() or (first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return found if dense else None


def watched() -> bool:
    """Whether somebody follows PyTorch's operations, to whom what compiled code does would be lost: compilers, tracers
    (a program of theirs would return memory that nobody has written), and forward derivatives."""
    return (
        is_compiling()
        or _get_tracing_state() is not None
        or _len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


@overload
def indices(index: Tensor) -> Tensor: ...
@overload
def indices(index: None) -> None: ...
def indices(index: Tensor | None) -> Tensor | None:
    """The indices as compiled code reads them: 64 bits each, one after the other."""
    if index is None or (index.dtype == torch.int64 and index.is_contiguous()):
        return index
    return index.to(torch.int64).contiguous()


def within(index: Tensor, size: int) -> bool:
    """Whether all of some indices, of which there are any, are of that many elements."""
    least, most = index.aminmax()
    return bool(least >= 0) and bool(most < size)
