"""What is opened and what is refused: broken files, versions, external data, weights that are no numbers."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from irverify.errors import FileError, GraphError, ImportMismatch, ShapeError, UnsupportedError, UsageError
from irverify.frontends.onnx import read_onnx, supported_operators
from irverify.frontends.onnx.rules import RULES
from irverify.ir.ops import Tanh
from tests.frontends.onnx_models import assert_same, model, node, runtime, values, weights


def dense(**changes: Any) -> ModelProto:
    nodes = [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "y")]
    return model(nodes, ["batch", 3], {"w": weights(3, 2)}, **changes)


def test_a_file_and_its_compressed_form(tmp_path: Path) -> None:
    proto = dense()
    plain, packed = tmp_path / "m.onnx", tmp_path / "m.onnx.gz"
    plain.write_bytes(proto.SerializeToString())
    packed.write_bytes(gzip.compress(proto.SerializeToString()))
    for path in (plain, packed, str(packed)):
        graph = read_onnx(path)
        assert [node.op.name for node in graph] == ["input", "linear", "relu"]
        assert [str(node) for node in graph][2] == '%y = relu (from onnx node "Relu_y")'
        assert_same(graph, proto, values(4, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is no model", "ONNX model"),
        (dense().SerializeToString()[:-9], "ONNX model"),
        (gzip.compress(dense().SerializeToString())[:-12], "broken"),
        (b"\x1f\x8bnot gzip at all", "broken"),
        (b"\x08\x08", "ONNX model"),  # parses, as an ir_version and nothing else
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    content = dense().SerializeToString()
    path = tmp_path / "short.onnx"
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises((FileError, UnsupportedError, GraphError)):
            read_onnx(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        read_onnx(tmp_path / "absent.onnx")
    with pytest.raises(FileError, match="readable"):
        read_onnx(tmp_path)


@pytest.mark.parametrize("opset", [7, 27])
def test_opsets_that_are_not_understood(opset: int) -> None:
    with pytest.raises(UnsupportedError, match=f"opset 8 to 26, got {opset}"):
        read_onnx(dense(opset=opset))


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf, -numpy.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    proto = dense()
    array = weights(3, 2)
    array[1, 1] = bad
    proto.graph.initializer[0].raw_data = array.tobytes()
    with pytest.raises(GraphError, match=r"expected finite numbers in .*'w', got 1"):
        read_onnx(proto)


def test_unsupported_operators_are_all_listed() -> None:
    nodes = [
        node("Relu", ["x"], "a"),
        node("Elu", ["a"], "b"),
        node("Softplus", ["b"], "c"),
        node("Gather", ["c", "x"], "d"),
        node("Erf", ["a"], "y"),
        node("Acos", ["x"], "unused"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model(nodes, [None, 3], outputs=["y", "d"]))
    items = caught.value.items
    assert len(items) == 3
    assert all(any(f'"{name}"' in item for item in items) for name in ("Elu_b", "Softplus_c", "Erf_y"))
    assert "Acos" not in str(caught.value)
    assert "supports --onnx-operators" in str(caught.value)


def test_refusals_behind_supported_operators_are_all_listed() -> None:
    nodes = [
        node("Conv", ["x", "x"], "a"),
        node("Resize", ["x", "", "s"], "b", mode="linear"),
        node("Add", ["a", "b"], "y"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model(nodes, [2, 3, 4, 4], {"s": numpy.array([1, 1, 2, 2], numpy.float32)}))
    assert len(caught.value.items) == 2


def test_foreign_domains_and_functions() -> None:
    proto = dense()
    proto.graph.node[1].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedError, match=r"com\.example\.Relu"):
        read_onnx(proto)
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("com.example", "Relu", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    proto.functions.append(function)
    assert_same(read_onnx(proto), proto, values(4, 3))


def external(folder: Path, location: str, **entries: str) -> Path:
    """A model in `folder/models` whose weights lie in `location`."""
    proto = dense()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    models = folder / "models"
    models.mkdir()
    (folder / "outside.bin").write_bytes(data)
    (models / "inside.bin").write_bytes(b"1234" + data)
    (models / "deeper").mkdir()
    (models / "deeper" / "w.bin").write_bytes(data)
    path = models / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_inside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path, "inside.bin", offset="4", length="24")
    graph = read_onnx(path)
    x = values(4, 3)
    torch.testing.assert_close(graph.evaluate(x), (x @ torch.from_numpy(weights(3, 2))).relu())
    (tmp_path / "models" / "inside.bin").unlink()  # the graph and its origin hold all they need
    assert graph.origin is not None
    torch.testing.assert_close(graph.origin.run(x)[0], graph.evaluate(x))


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    assert len(read_onnx(external(tmp_path, "deeper/w.bin"))) == 3


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../outside.bin", {}),
        ("deeper/../../outside.bin", {}),
        ("deeper/../deeper/w.bin", {}),
        ("absent.bin", {}),
        ("", {}),
        ("deeper", {}),
        ("inside.bin", {"offset": "8", "length": "24"}),
        ("inside.bin", {"offset": "-4"}),
        ("inside.bin", {"offset": "four"}),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, location: str, entries: dict[str, str]) -> None:
    with pytest.raises(FileError, match="'w'"):
        read_onnx(external(tmp_path, location, **entries))


def test_external_data_by_absolute_path_or_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = external(tmp_path / "a", str(tmp_path / "a" / "outside.bin"))
    with pytest.raises(FileError, match="inside the model's folder"):
        read_onnx(path)
    (tmp_path / "b").mkdir()
    path = external(tmp_path / "b", "link.bin")
    os.symlink(tmp_path / "b" / "outside.bin", path.parent / "link.bin")
    with pytest.raises(FileError, match="inside the model's folder"):
        read_onnx(path)


def test_external_data_of_wrong_size(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="'w'"):
        read_onnx(external(tmp_path, "inside.bin", offset="0", length="20"))


def test_external_data_of_a_model_without_a_folder(tmp_path: Path) -> None:
    proto = ModelProto.FromString(external(tmp_path, "inside.bin").read_bytes())
    with pytest.raises(FileError, match="inside the model"):
        read_onnx(proto)


def test_initialisers_listed_as_inputs() -> None:
    proto = dense()
    proto.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]))
    graph = read_onnx(proto)
    assert [entry.name for entry in graph.inputs] == ["x"]
    torch.testing.assert_close(graph.evaluate(values(4, 3)), runtime(dense(), values(4, 3))[0])


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.FLOAT, torch.float32), (TensorProto.DOUBLE, torch.float64), (TensorProto.FLOAT16, torch.float16)],
)
def test_element_types(element: int, dtype: torch.dtype) -> None:
    array = weights(3, 2, dtype=str(dtype).removeprefix("torch."))
    nodes = [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "y")]
    graph = read_onnx(model(nodes, ["batch", 3], {"w": array}, element=element))
    assert {node.type.dtype for node in graph} == {dtype}
    assert graph.origin is not None
    assert graph.origin.run(values(2, 3))[0].dtype == dtype  # whatever the inputs are


def test_inputs_that_are_no_floats() -> None:
    with pytest.raises(UnsupportedError, match="'x': expected a floating-point type, got int64"):
        read_onnx(model([node("Abs", ["x"])], [None, 3], element=TensorProto.INT64))


def test_broken_graphs() -> None:
    with pytest.raises(GraphError, match="'h', which nothing before computes"):
        read_onnx(model([node("Relu", ["h"])], [None, 3]))
    with pytest.raises(GraphError, match="computed once, got 'y' again"):
        read_onnx(model([node("Relu", ["x"]), node("Abs", ["x"])], [None, 3]))
    with pytest.raises(UnsupportedError, match="MatMul_y"):
        read_onnx(model([node("MatMul", ["x", "w"])], [None, 3], {"w": weights(4, 2)}))
    with pytest.raises(UnsupportedError, match="Concat_y"):
        read_onnx(model([node("Concat", [], "y", axis=1)], [None, 3]))


def test_shared_weights_stay_shared() -> None:
    nodes = [node("Add", ["x", "c"], "a"), node("Mul", ["a", "c"], "y")]
    graph = read_onnx(model(nodes, [None, 3], {"c": weights(3)}))
    assert graph["a"].op.parameters()["shift"] is graph["y"].op.parameters()["scale"]


def test_a_difference_names_the_first_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Sigmoid", lambda call: call.emit(Tanh(), call.value(0)))
    nodes = [node("Relu", ["x"], "a"), node("Sigmoid", ["a"], "b"), node("Neg", ["b"], "y")]
    proto = model(nodes, [None, 3])
    with pytest.raises(ImportMismatch, match=r'%b = tanh \(from onnx node "Sigmoid_b"\): a deviation'):
        read_onnx(proto)
    assert read_onnx(proto, check=False).outputs == ("y",)


def test_origin() -> None:
    graph = read_onnx(dense())
    assert graph.origin is not None
    assert graph.origin.description == "onnxruntime on ModelProto"
    with pytest.raises(ShapeError, match="expected 1 inputs, got 2"):
        graph.origin.run(values(1, 3), values(1, 3))
    with pytest.raises(UnsupportedError, match="cannot be run"):
        graph.origin.run(values(1, 4))
    copy = pickle.loads(pickle.dumps(graph.origin))
    torch.testing.assert_close(copy.run(values(1, 3))[0], graph.evaluate(values(1, 3)))


def test_models_that_onnxruntime_cannot_load() -> None:
    proto = dense()
    proto.ir_version = 1000
    with pytest.raises(UnsupportedError, match=r"onnxruntime .* cannot load the model"):
        read_onnx(proto)
    torch.testing.assert_close(
        read_onnx(proto, check=False).evaluate(values(2, 3)), read_onnx(dense()).evaluate(values(2, 3))
    )


def test_element_types_that_onnxruntime_lacks() -> None:
    """It has no convolutions of float64: ONNX's reference evaluator stands in."""
    weight = weights(2, 1, 3, 3, dtype=numpy.float64)
    nodes = [node("Conv", ["x", "w"], "h", strides=[2, 2]), node("Relu", ["h"], "y")]
    graph = read_onnx(model(nodes, ["batch", 1, 5, 5], {"w": weight}, element=TensorProto.DOUBLE))
    assert graph.origin is not None
    x = values(3, 1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(graph.origin.run(x)[0], graph.evaluate(x))
    assert graph.origin.description == "ONNX's reference evaluator on ModelProto"


def test_hidden_values_as_outputs() -> None:
    graph = read_onnx(dense(), hidden=["h"])
    assert graph.outputs == ("y", "h")
    assert graph.origin is not None
    x = values(2, 3)
    for ours, theirs in zip(graph.evaluate(x), graph.origin.run(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(UsageError, match="'z'"):
        read_onnx(dense(), hidden=["z"])


def test_supported_operators_are_bare_names() -> None:
    names = supported_operators()
    assert {"Relu", "Constant", "Shape", "ConstantOfShape", "Range", "Cast", "Expand"} <= set(names)
    assert list(names) == sorted(set(names))
    assert all(name.isalnum() for name in names)
