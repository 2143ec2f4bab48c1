"""What autograd takes down."""

from __future__ import annotations

import torch
from torch import Tensor


def recorded(*tensors: Tensor | None) -> bool:
    """Whether what is done with any of these is recorded for its gradient; those of function transforms do not tell."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # asked at every step: a generator would take twice as long
            if tensor is not None and tensor.requires_grad:
                return True
    return False
