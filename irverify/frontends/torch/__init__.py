"""PyTorch modules as graphs, through `torch.export`."""

from __future__ import annotations

from irverify.frontends.torch.module import ModuleOrigin, read_module

__all__ = ["ModuleOrigin", "read_module"]
