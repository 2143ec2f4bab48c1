"""The program file: a whole graph, text and tensors, in one `.safetensors` file. Loading executes nothing from it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save as serialise
from torch import Tensor

from irverify.errors import FileError, IRVerifyError
from irverify.ir.check import check
from irverify.ir.graph import Graph
from irverify.ir.params import value
from irverify.ir.text import named_parameters, parse_graph, print_graph

FORMAT = 1
"""Version of the program file, in its metadata under `irverify.format`; the text stands under `irverify.graph`."""
CASCADE = "irverify.cascade"
"""What metadata have in which several programs are one cascade."""


class SavedProgram:
    """A loaded program as its own source model."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self.description = f"the program {path}"
        self._graph = graph

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs for inputs in the layout of the model that was saved."""
        expected = (*self._graph.inputs, *self._graph.operands)
        converted = [tensor.to(node.type.dtype) for node, tensor in zip(expected, inputs, strict=False)]
        with torch.no_grad():
            outputs = self._graph.evaluate(*converted, *inputs[len(converted) :])
        return outputs if isinstance(outputs, tuple) else (outputs,)


def save(graph: Graph, path: str | Path) -> None:
    """Writes the graph, with the present values of its parameters, derived ones included, to one file.

    The file is complete or it is not there. Raises FileError where it cannot be written.
    """
    tensors = {name: value(parameter).detach().cpu().clone(memory_format=torch.contiguous_format)
               for name, parameter in named_parameters(graph).items()}  # fmt: skip
    metadata = {"irverify.format": str(FORMAT), "irverify.graph": print_graph(graph)}
    write_whole(Path(path), serialise(tensors, metadata))


def load(path: str | Path) -> Graph:
    """The graph of a program file, on the CPU, checked; its `origin` is the program itself.

    Raises FileError for a file that is missing, broken, no program, or of a newer version; GraphError for a program
    whose graph is not well formed.
    """
    path = Path(path)
    metadata, tensors = read_tensors(path)
    if CASCADE in metadata:
        hint = "`irverify certify` evaluates it; the folder of its training run has the networks one by one"
        raise FileError("expected one network, got a cascade of several", where=str(path), hint=hint)
    if "irverify.format" not in metadata or "irverify.graph" not in metadata:
        raise FileError(
            "expected a saved irverify program, got a safetensors file without one",
            where=str(path),
            hint="weights alone are no program: compile the model and save the graph",
        )
    version = metadata["irverify.format"]
    if version != str(FORMAT):
        raise FileError(
            f"expected a program in format {FORMAT}, got format {version!r}",
            where=str(path),
            hint="it was written by another version of irverify: use that one, or compile the model again",
        )
    try:
        graph = parse_graph(metadata["irverify.graph"], tensors)
    except IRVerifyError as error:
        raise FileError(f"the graph in the file cannot be read: {error}", where=str(path)) from error
    check(graph)
    return Graph(graph.nodes, graph.outputs, graph.name, SavedProgram(path, graph))


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. FileError where there is none, or a broken one."""
    if not path.is_file():
        raise FileError("expected a file, got none" if not path.exists() else "expected a file", where=str(path))
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise FileError(f"not a safetensors file, or a broken one: {error}", where=str(path)) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(f"cannot be read: {error}", where=str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file as a whole: into a temporary file next to it, which then takes its name. FileError where that is
    impossible; what was there before is there still."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed and had the same number
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
