"""What is differentiable: bound graphs, training losses, regularisers and schedules."""

from __future__ import annotations

from irverify.backends.torch import losses, regularizers, schedules
from irverify.backends.torch.bound_graph import Bounded, BoundGraph

__all__ = ["BoundGraph", "Bounded", "losses", "regularizers", "schedules"]
