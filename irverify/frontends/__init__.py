"""Everything that comes in: PyTorch modules, ONNX files, VNN-LIB properties."""

from __future__ import annotations

from irverify.frontends.compile import compile

__all__ = ["compile"]
