"""A cascade in one `.safetensors` file: the graphs of its stages as text in the metadata, their tensors as `N/NAME`.
Loading executes nothing from it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from irverify.certify.cascade import Cascade
from irverify.certify.fingerprint import network
from irverify.certify.question import Norm
from irverify.errors import FileError, IRVerifyError
from irverify.ir.check import check
from irverify.ir.graph import Graph
from irverify.ir.params import value
from irverify.ir.program import CASCADE, SavedProgram, read_tensors, write_whole
from irverify.ir.text import named_parameters, parse_graph, print_graph

FORMAT = "1"
CONTENT = f"{CASCADE}.content"
"""Where the metadata have all but the tensors as JSON; the version of the format stands under `CASCADE`."""
NORMS: dict[str, Norm] = {"inf": "inf", "2": "2", "1": "1"}


def save_cascade(cascade: Cascade, path: str | Path) -> None:
    """Writes the cascade, with the present values of its parameters, to one file, as a whole or not at all. FileError
    where it cannot be written."""
    tensors = {
        f"{number}/{name}": value(parameter).detach().cpu().clone(memory_format=torch.contiguous_format)
        for number, graph in enumerate(cascade.stages, start=1)
        for name, parameter in named_parameters(graph).items()
    }
    content = {
        "eps": cascade.eps,
        "norm": cascade.norm,
        "method": cascade.method,
        "about": dict(cascade.about),
        "stages": [{"graph": print_graph(graph), "fingerprint": network(graph)} for graph in cascade.stages],
    }
    write_whole(Path(path), serialise(tensors, {CASCADE: FORMAT, CONTENT: json.dumps(content)}))


def load_cascade(path: str | Path) -> Cascade:
    """The cascade in a file, on the CPU, its graphs checked and compared with their fingerprints.

    FileError for a file that is missing, broken, no cascade, or of a newer version.
    """
    path = Path(path)
    metadata, tensors = read_tensors(path)
    if CASCADE not in metadata:
        raise FileError("expected a cascade, got a safetensors file without one", where=str(path))
    if metadata[CASCADE] != FORMAT:
        hint = "it was written by another version of irverify: use that one"
        raise FileError(f"expected a cascade in format {FORMAT}, got {metadata[CASCADE]}", where=str(path), hint=hint)
    try:
        content = json.loads(metadata[CONTENT])
        stages = tuple(
            _stage(path, number, stage["graph"], stage["fingerprint"], tensors)
            for number, stage in enumerate(content["stages"], start=1)
        )
        return Cascade(stages, float(content["eps"]), NORMS[content["norm"]], content["method"], content["about"])
    except IRVerifyError as error:
        raise FileError(f"the cascade in the file cannot be read: {error}", where=str(path)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"not a cascade, or a broken one: {error}", where=str(path)) from error


def _stage(path: Path, number: int, text: str, fingerprint: str, tensors: dict[str, Tensor]) -> Graph:
    prefix = f"{number}/"
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    graph = parse_graph(text, own)
    check(graph)
    if network(graph) != fingerprint:
        raise FileError("it is another network than the one that was saved", where=f"stage {number}")
    return Graph(graph.nodes, graph.outputs, graph.name, SavedProgram(path, graph))
