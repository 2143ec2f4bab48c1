"""Bounds and verdicts are computed in the types of the graph, also where the caller has torch's autocast on.

Autocast takes half precision for products and convolutions of single precision, whose errors no margin for rounding
covers. What trains (specialised bound graphs, attacks, SingleProp) follows it; what bounds for a verdict does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

KINDS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switched off for every device, as a context or around a function."""
    enabled = [kind for kind in KINDS if torch.is_autocast_enabled(kind)]
    if not enabled:
        yield
        return
    with ExitStack() as stack:
        for kind in enabled:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
