"""What a training run leaves beside its checkpoint: `model.onnx`, `model.safetensors` and `recipe.toml`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from irverify.errors import FileError, ImportMismatch
from irverify.frontends.compile import compile as compile_source
from irverify.ir.graph import Graph
from irverify.ir.program import save, write_whole

ONNX, PROGRAM, RECIPE = "model.onnx", "model.safetensors", "recipe.toml"
OPSET = 17
TOLERANCE = 1e-4
"""Between the outputs of the module and of the file, relative to the largest of them."""


def export(folder: Path, module: nn.Module, example: Tensor, recipe: str, facts: Mapping[str, str]) -> Graph:
    """Writes the network as ONNX (with `facts` as its metadata) and as a program of irverify, and the TOML text of its
    recipe; returns the graph of the ONNX file.

    The network is written as it is evaluated, and what was written is read and compared with the module. FileError
    where a file cannot be written; ImportMismatch where it computes something else.
    """
    module.eval()
    write_whole(folder / RECIPE, recipe.encode())
    write_whole(folder / ONNX, _onnx(module.cpu(), example.cpu(), facts))
    save(compile_source(module, example.cpu()), folder / PROGRAM)
    graph = compile_source(folder / ONNX)
    with torch.no_grad():
        expected = module(example.cpu())
        found = graph.evaluate(example.cpu())
    scale = max(1.0, float(expected.abs().max()))
    if not (isinstance(found, Tensor) and float((found - expected).abs().max()) <= TOLERANCE * scale):
        raise ImportMismatch("the exported network computes something else than the trained one", where=ONNX)
    return graph


def _onnx(module: nn.Module, example: Tensor, facts: Mapping[str, str]) -> bytes:
    try:
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            file = Path(place) / ONNX
            warnings.simplefilter("ignore")  # the exporter that needs no further package calls itself deprecated
            torch.onnx.export(
                module, (example,), file, dynamo=False, opset_version=OPSET, input_names=["image"],
                output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )  # fmt: skip
            model = onnx.load(file)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=tempfile.gettempdir()) from error
    model.producer_name = "irverify"
    onnx.helper.set_model_props(model, dict(facts))
    content: bytes = model.SerializeToString()
    return content
