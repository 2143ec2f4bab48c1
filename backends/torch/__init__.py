"""What is differentiable: bound graphs, training losses, regularisers and schedules."""

from __future__ import annotations

from irverify.backends.torch import losses, regularizers, schedules

__all__ = ["losses", "regularizers", "schedules"]
