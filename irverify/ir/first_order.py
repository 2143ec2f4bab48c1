"""Functions whose gradients are written out and have no gradients themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from irverify.errors import UsageError


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The `backward` of a function that has first derivatives only; UsageError where somebody asks for a graph of them.

    `once_differentiable` alone leaves out what comes through such a function, and says nothing, where second
    derivatives are taken by `torch.autograd.grad(..., inputs)`: the node that would object is on no way to the inputs.
    """
    once = once_differentiable(backward)

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise UsageError(
                "expected first derivatives of bounds, got create_graph=True",
                hint="leave create_graph out; bounds by ibp have second derivatives",
            )
        return once(ctx, *gradients)

    return checked
