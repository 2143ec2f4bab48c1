"""The network that ships with irverify is what its metadata says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from irverify.data import DIGITS_EPS, DIGITS_NETWORK, digits


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(DIGITS_NETWORK).metadata_props}


def test_accuracy_on_the_test_digits(metadata: dict[str, str]) -> None:
    data = digits("test")
    session = onnxruntime.InferenceSession(DIGITS_NETWORK, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": data.images})
    accuracy = 100 * float(np.mean(np.argmax(logits, 1) == data.labels))
    assert accuracy >= 95
    assert accuracy == pytest.approx(float(metadata["accuracy"]), abs=0.3)  # one image, for other arithmetic


def test_metadata_has_the_recipe(metadata: dict[str, str]) -> None:
    assert {"made by", "seed", "epochs", "training eps", "kappa", "torch"} <= metadata.keys()
    assert f"accuracy under attack, eps {DIGITS_EPS}" in metadata


def test_structure() -> None:
    """Residual, with batch norms left for the compiler to fold, and a symbolic batch axis."""
    graph = onnx.load(DIGITS_NETWORK).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators == {"Conv": 6, "BatchNormalization": 6, "Relu": 5, "Add": 2, "Flatten": 1, "Gemm": 1}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
