"""Every ONNX file of the shared data imports and computes what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irverify.frontends.differential import random_inputs
from irverify.frontends.onnx import read_onnx
from tests.external.conftest import SHARED_DATA

FILES = sorted(SHARED_DATA.rglob("*.onnx*")) if SHARED_DATA.is_dir() else []


def test_the_files_are_there(shared_data: Path) -> None:
    assert len(FILES) >= 70, f"expected the networks in {shared_data}"


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_import(path: Path) -> None:
    graph = read_onnx(path)  # compares with onnxruntime
    assert graph.origin is not None
    (inputs, *_) = random_inputs(graph, seed=1)
    outputs = graph.evaluate(*inputs)
    expected = graph.origin.run(*inputs)
    for ours, theirs in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-4)
