"""Models and files that the command line names. What can be said without torch is said before torch is imported."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from irverify.errors import FileError, UsageError

if TYPE_CHECKING:
    from irverify.ir.graph import Graph

MODEL_SUFFIXES = (".onnx", ".onnx.gz", ".safetensors")
PYTHON_MODEL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def check_model(text: str) -> None:
    """Raises where `text` cannot name a model: wrong kind, or no such file."""
    if PYTHON_MODEL.fullmatch(text) and not Path(text).exists():
        return
    if not text.lower().endswith(MODEL_SUFFIXES):
        raise UsageError(f"expected a model ({', '.join(MODEL_SUFFIXES)} or module:callable), got {text!r}")
    check_file(text)


def check_file(text: str) -> None:
    """Raises where `text` does not name a file that is there."""
    path = Path(text)
    if not path.exists():
        raise FileError("no such file", where=text)
    if not path.is_file():
        raise FileError("expected a file, got a folder or a device", where=text)


def load_model(text: str) -> Graph:
    """The graph of the model that `text` names."""
    check_model(text)
    from irverify.frontends.compile import compile as compile_source

    with contextlib.redirect_stdout(sys.stderr):  # what a Python model prints is no result of ours
        return compile_source(text)
