"""Running the command line in this process, as if it had one of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from irverify.cli.process import execute


@dataclass(frozen=True)
class Ran:
    """What one command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Irverify = Callable[..., Ran]


@pytest.fixture
def irverify(capsys: pytest.CaptureFixture[str]) -> Irverify:
    """`irverify("passes", "--json")`."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = execute([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models and queries.

    `relu.onnx` computes y = (relu(x1 + x2 - 1), relu(x1 - x2)) for x [batch, 2]; in [0, 1] on the box [0, 1]^2.
    """
    folder = tmp_path_factory.mktemp("models")
    weight, bias = [[1.0, 1.0], [1.0, -1.0]], [-1.0, 0.0]
    onnx.save(model_of(weight, bias), folder / "relu.onnx")
    onnx.save(model_of([[1.0, 1.0], [float("nan"), -1.0]], bias), folder / "nan.onnx")
    onnx.save(model_of(weight, bias, "Erf"), folder / "erf.onnx")
    (folder / "truncated.onnx").write_bytes((folder / "relu.onnx").read_bytes()[:100])
    (folder / "unsat.vnnlib").write_text(query("(assert (>= Y_0 1.5))"))
    (folder / "sat.vnnlib").write_text(query("(assert (>= Y_0 0.5))"))
    (folder / "crossed.vnnlib").write_text(query("(assert (>= Y_0 0.5))").replace("<= X_1 1.0", "<= X_1 -1.0"))
    (folder / "three.vnnlib").write_text(
        query("(declare-const X_2 Real) (assert (>= X_2 0)) (assert (<= X_2 1)) (assert (>= Y_0 1.5))")
    )
    return folder


def model_of(weight: list[list[float]], bias: list[float], activation: str = "Relu") -> onnx.ModelProto:
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "W", "b"], ["z"], transB=1, name="layer"),
        onnx.helper.make_node(activation, ["z"], ["y"], name="activation"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [
            onnx.numpy_helper.from_array(np.array(weight, dtype=np.float32), "W"),
            onnx.numpy_helper.from_array(np.array(bias, dtype=np.float32), "b"),
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def query(assertion: str) -> str:
    """A VNN-LIB 1.0 query over the box [0, 1]^2."""
    names = [*(f"X_{i}" for i in range(2)), *(f"Y_{i}" for i in range(2))]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (>= X_{i} 0.0))\n(assert (<= X_{i} 1.0))" for i in range(2)]
    return "\n".join([*lines, assertion, ""])
