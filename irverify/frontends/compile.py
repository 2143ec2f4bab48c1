"""`compile`: a graph from whatever a model comes as: a module, a function, a file, a place in a Python module."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from irverify.autocast import without_autocast
from irverify.errors import FileError, UsageError
from irverify.ir.graph import Graph

Example: TypeAlias = "Tensor | Sequence[Tensor] | None"
Source: TypeAlias = "nn.Module | Graph | Callable[..., Any] | str | os.PathLike[str]"
SPEC = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<path>[A-Za-z_][\w.]*)")
KINDS = ".onnx, .onnx.gz, .safetensors (a saved program), or module:callable for a Python model"


@without_autocast()
def compile(
    source: Source, example: Example = None, *, batch_axis: Literal["auto", 0] | None = "auto", check: bool = True
) -> Graph:
    """The graph of a model, checked, with the model itself as its `origin`.

    `source` is a PyTorch module or a function of tensors; a path to an ONNX file (`.onnx`, `.onnx.gz`) or a saved
    program (`.safetensors`); or `module:callable`, a Python function that returns a module, `(module, example)` or a
    graph. Modules and functions need `example`: one input, or a tuple of them, with or without batch axis; files do
    without. `batch_axis`: see `read_module` and `read_onnx`; a saved program keeps its own. With `check` the graph is
    compared with its source on random inputs.

    Raises UsageError for a source that is none of these; FileError, UnsupportedError, GraphError, ImportMismatch as the
    frontends do.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        spec = SPEC.fullmatch(os.fspath(source))
        if spec is not None and not path.exists():
            source, example = _imported(spec["module"], spec["path"], example)
        else:
            return _read_file(path, batch_axis, check)
    if isinstance(source, Graph):
        return source
    if isinstance(source, nn.Module):
        return _read_module(source, example, batch_axis, check)
    if callable(source):
        return _read_module(_as_module(source), example, batch_axis, check)
    raise UsageError(f"expected a module, a function or a path ({KINDS}), got {type(source).__name__}")


def _read_file(path: Path, batch_axis: Literal["auto", 0] | None, check: bool) -> Graph:
    name = path.name.lower()
    if name.endswith((".onnx", ".onnx.gz")):
        from irverify.frontends.onnx import read_onnx  # heavy, and not needed for the others

        return read_onnx(path, batch_axis, check=check)
    if name.endswith(".safetensors"):
        from irverify.ir.program import load

        return load(path)
    found = "a file of another kind" if path.exists() else "no such file"
    raise FileError(f"expected a model ({KINDS}), got {found}", where=str(path))


def _read_module(
    module: nn.Module, example: Example, batch_axis: Literal["auto", 0] | None, check: bool
) -> Graph:
    if example is None:
        raise UsageError(
            "expected an example input beside the module, got none",
            where=type(module).__name__,
            hint="compile(module, example); a module:callable may return (module, example)",
        )
    from irverify.frontends.torch import read_module  # brings torch.export, which files do not need

    return read_module(module, example, batch_axis, check)


def _as_module(function: Callable[..., Any]) -> nn.Module:
    """A function as the forward of a module that is named after it."""
    name = getattr(function, "__name__", type(function).__name__)
    kind = type(name, (nn.Module,), {"forward": lambda _, *inputs: function(*inputs)})
    module: nn.Module = kind().eval()
    return module


def _imported(module: str, path: str, example: Example) -> tuple[nn.Module | Graph, Example]:
    """The model that a callable in a Python module returns, with its example where it gives one."""
    place = f"{module}:{path}"
    with _current_folder_importable():
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"cannot import {module}: {error}", where=place) from error
        except Exception as error:
            # The user's own code ran, and failed in whatever way.
            raise UsageError(f"{module} fails when imported: {_words(error)}", where=place) from error
        for name in path.split("."):
            if not hasattr(found, name):
                raise UsageError(f"expected {name!r} in {module}, found none", where=place)
            found = getattr(found, name)
        if not callable(found):
            raise UsageError(f"expected a callable that returns a module, got {type(found).__name__}", where=place)
        if isinstance(found, nn.Module):
            return found, example
        try:
            result = found()
        except Exception as error:
            raise UsageError(f"{path}() fails: {_words(error)}", where=place) from error
    if isinstance(result, tuple) and len(result) == 2:
        model, given = result
        return _checked_model(model, place), given if example is None else example
    return _checked_model(result, place), example


def _checked_model(model: object, place: str) -> nn.Module | Graph:
    if not isinstance(model, nn.Module | Graph):
        raise UsageError(f"expected a module, (module, example) or a graph, got {type(model).__name__}", where=place)
    return model


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As `python -m` does it: modules are looked for in the current folder first."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
