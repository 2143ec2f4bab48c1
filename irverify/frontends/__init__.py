"""Everything that comes in: PyTorch modules, ONNX files, VNN-LIB properties."""

from __future__ import annotations

from irverify.frontends.compile import compile
from irverify.frontends.vnnlib import parse_query as from_vnnlib

__all__ = ["compile", "from_vnnlib"]
