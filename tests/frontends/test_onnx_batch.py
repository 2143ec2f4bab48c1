"""How the batch axis is read: declared symbolic, fixed to 1 and treated as one, or absent; never from a size alone."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto

from irverify.errors import UnsupportedError, UsageError
from irverify.frontends.onnx import read_onnx
from irverify.ir.graph import Graph
from irverify.ir.ops import Input
from tests.frontends.onnx_models import assert_same, evaluated, model, node, runtime, values, weights


def axis(graph: Graph) -> int | None:
    (axis,) = {entry.op.batch_axis for entry in graph.inputs if isinstance(entry.op, Input)}
    return axis


def shaped(*extents: int) -> Any:
    return numpy.array(extents, numpy.int64)


@pytest.mark.parametrize("first", ["batch", None, 1])
def test_symbolic_and_fixed_batches(first: str | int | None) -> None:
    proto = model([node("Flatten", ["x"], "f"), node("MatMul", ["f", "w"])], [first, 2, 3], {"w": weights(6, 4)})
    graph = read_onnx(proto)
    assert axis(graph) == 0
    assert graph.inputs[0].type.shape == (2, 3)
    x = values(1 if first == 1 else 5, 2, 3)
    assert_same(graph, proto, x)


def test_a_model_fixed_to_one_example_takes_any_batch() -> None:
    proto = model([node("Reshape", ["x", "s"], "f"), node("Relu", ["f"])], [1, 2, 3], {"s": shaped(1, -1)})
    graph = read_onnx(proto)
    assert axis(graph) == 0
    x = values(4, 2, 3)
    single = torch.cat([runtime(proto, example[None])[0] for example in x])
    torch.testing.assert_close(graph.evaluate(x), single)
    assert graph.origin is not None
    torch.testing.assert_close(graph.origin.run(x)[0], single)


def test_a_declared_batch_of_several() -> None:
    proto = model([node("Reshape", ["x", "s"], "f"), node("Relu", ["f"])], [4, 2, 3], {"s": shaped(4, 6)})
    whole = read_onnx(proto)  # nothing says that 4 is a number of examples
    assert axis(whole) is None
    assert whole.inputs[0].type.shape == (4, 2, 3)
    graph = read_onnx(proto, batch_axis=0)
    assert graph.inputs[0].type.shape == (2, 3)
    assert graph.origin is not None
    x = values(6, 2, 3)
    torch.testing.assert_close(graph.origin.run(x)[0], graph.evaluate(x))


def test_the_whole_tensor_on_demand() -> None:
    proto = model([node("Relu", ["x"])], ["batch", 3])
    graph = read_onnx(proto, batch_axis=None)
    assert axis(graph) is None
    assert graph.inputs[0].type.shape == (1, 3)
    assert_same(graph, proto, values(1, 3))


def test_vectors_have_no_batch_axis() -> None:
    proto = model([node("MatMul", ["x", "w"])], [1], {"w": weights(1, 1)})
    graph = read_onnx(proto)
    assert axis(graph) is None
    assert_same(graph, proto, values(1))


# Each mixes the batch axis with others, or drops it; the last column says whether one example alone can be read.
MIXING: list[tuple[str, list[NodeProto], dict[str, Any]]] = [
    ("reshape", [node("Reshape", ["x", "c"])], {"c": shaped(-1)}),
    ("reshape into halves", [node("Reshape", ["x", "c"])], {"c": shaped(-1, 3)}),
    ("reshape to one row", [node("Reshape", ["x", "c"])], {"c": shaped(1, -1)}),
    ("transpose", [node("Transpose", ["x"], perm=[1, 0, 2])], {}),
    ("flatten", [node("Flatten", ["x"], axis=2)], {}),
    ("squeeze all", [node("Squeeze", ["x"])], {}),
    ("unsqueeze", [node("Unsqueeze", ["x", "c"])], {"c": shaped(0)}),
    ("concat", [node("Concat", ["x", "x"], axis=0)], {}),
    ("concat with a constant", [node("Concat", ["x", "c"], axis=1)], {"c": weights(1, 1, 3)}),
    ("gather", [node("Gather", ["x", "c"], axis=0)], {"c": shaped(0)}),
    ("slice", [node("Slice", ["x", "c", "d"])], {"c": shaped(0), "d": shaped(1)}),
    ("split", [node("Split", ["x"], "y", axis=0, num_outputs=1)], {}),
    ("sum", [node("ReduceSum", ["x", "c"])], {"c": shaped(0)}),
    ("mean of all", [node("ReduceMean", ["x"])], {}),
    ("maximum", [node("ReduceMax", ["x", "c"])], {"c": shaped(-3)}),
    ("softmax", [node("Softmax", ["x"], axis=0)], {}),
    ("pad", [node("Pad", ["x", "c"])], {"c": shaped(1, 0, 0, 0, 0, 0)}),
    ("tile", [node("Tile", ["x", "c"])], {"c": shaped(2, 1, 1)}),
    ("resize", [node("Resize", ["x", "", "c"])], {"c": numpy.array([2, 1, 1], numpy.float32)}),
    ("constant over the batch", [node("Add", ["x", "c"])], {"c": weights(4, 2, 3)}),
    ("constant with more axes", [node("Add", ["x", "c"])], {"c": weights(1, 1, 2, 3)}),
    ("expand in front", [node("Expand", ["x", "c"])], {"c": shaped(2, 1, 2, 3)}),
    ("lower rank", [node("ReduceSum", ["x", "c"], "s", keepdims=0), node("Add", ["x", "s"])], {"c": shaped(1)}),
    ("product from the left", [node("Flatten", ["x"], "f"), node("MatMul", ["c", "f"])], {"c": weights(5, 1)}),
    ("matrices of the batch", [node("MatMul", ["x", "c"])], {"c": weights(2, 1, 3, 2)}),
    ("transposed gemm", [node("Flatten", ["x"], "f"), node("Gemm", ["f", "c"], transA=1)], {"c": weights(1, 2)}),
    ("size as a number", [node("Shape", ["x"], "s"), node("ReduceProd", ["s"], "p", keepdims=1),
                          node("Reshape", ["x", "p"])], {}),
    ("constant output", [node("Shape", ["x"], "s"), node("Cast", ["s"], to=1)], {}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "nodes", "constants"), MIXING, ids=[entry[0] for entry in MIXING])
def test_mixing_is_refused_or_read_as_one_example(what: str, nodes: list[NodeProto], constants: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="axis 0") as caught:
        read_onnx(model(nodes, ["batch", 2, 3], constants), check=False)
    assert "batch_axis=None" in str(caught.value)
    assert any(entry.name in str(caught.value) for entry in nodes) or "output" in str(caught.value)
    fixed = model(nodes, [1, 2, 3], constants)
    graph = read_onnx(fixed)
    if what not in ("reshape to one row", "concat with a constant", "slice"):  # these keep a batch of one
        assert axis(graph) is None
        assert graph.inputs[0].type.shape == (1, 2, 3)
    assert_same(graph, fixed, values(1, 2, 3))


KEEPING: list[tuple[str, list[NodeProto], dict[str, Any]]] = [
    ("zero", [node("Reshape", ["x", "c"])], {"c": shaped(0, -1)}),
    ("inferred", [node("Reshape", ["x", "c"])], {"c": shaped(-1, 6)}),
    ("kept", [node("Reshape", ["x", "c"])], {"c": shaped(0, 0, 3, 1)}),
    ("from the shape", [node("Shape", ["x"], "s"), node("Slice", ["s", "a", "b"], "n"),
                        node("Concat", ["n", "c"], "t", axis=0), node("Reshape", ["x", "t"])],
     {"a": shaped(0), "b": shaped(1), "c": shaped(3, 2)}),
    ("gathered", [node("Shape", ["x"], "s"), node("Gather", ["s", "i"], "n", axis=0),
                  node("Unsqueeze", ["n", "a"], "u"), node("Concat", ["u", "c"], "t", axis=0),
                  node("Reshape", ["x", "t"])],
     {"i": numpy.array(0), "a": shaped(0), "c": shaped(-1)}),
    ("constant of its shape", [node("Shape", ["x"], "s"), node("ConstantOfShape", ["s"], "o"),
                               node("Concat", ["x", "o"], axis=2)], {}),
    ("expanded constant", [node("Shape", ["x"], "s"), node("Expand", ["c", "s"], "e"),
                           node("Concat", ["x", "e"], axis=1)], {"c": weights(2, 1)}),
    ("where of shapes", [node("Shape", ["x"], "s"), node("Equal", ["s", "m"], "q"), node("Where", ["q", "o", "s"], "t"),
                         node("Expand", ["c", "t"], "e"), node("Concat", ["x", "e"], axis=1)],
     {"m": shaped(-1), "o": shaped(1), "c": weights(1, 1, 3)}),
    ("full slice", [node("Slice", ["x", "a", "b", "c"])],
     {"a": shaped(0, 1), "b": shaped(2**40, 9), "c": shaped(0, 2)}),
    ("slice to the batch", [node("Shape", ["x"], "s"), node("Slice", ["s", "a", "b"], "n"),
                            node("Slice", ["x", "a", "n", "a"])], {"a": shaped(0), "b": shaped(1)}),
    ("flatten of one axis", [node("Unsqueeze", ["x", "c"], "u"), node("Flatten", ["u"], axis=2)], {"c": shaped(1)}),
    ("product", [node("Transpose", ["x"], "t", perm=[0, 2, 1]), node("MatMul", ["x", "t"])], {}),
    ("product from the left", [node("MatMul", ["c", "x"])], {"c": weights(5, 2)}),
    ("products", [node("MatMul", ["x", "c"])], {"c": weights(1, 3, 2)}),
    ("pairs", [node("Mul", ["x", "c"])], {"c": weights(1, 2, 1)}),
    ("resize", [node("Resize", ["x", "", "c"])], {"c": numpy.array([1, 2, 3], numpy.float32)}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "nodes", "constants"), KEEPING, ids=[entry[0] for entry in KEEPING])
@pytest.mark.parametrize("first", ["batch", 1])
def test_what_keeps_the_batch_axis(
    what: str, nodes: list[NodeProto], constants: dict[str, Any], first: str | int
) -> None:
    graph = read_onnx(model(nodes, [first, 2, 3], constants))
    assert axis(graph) == 0
    assert_same(graph, model(nodes, ["batch", 2, 3], constants), values(3, 2, 3))


def test_several_inputs() -> None:
    nodes = [node("Add", ["x", "z"], "s"), node("Relu", ["s"])]
    proto = model(nodes, {"x": ["batch", 3], "z": ["batch", 3]})
    assert_same(read_onnx(proto), proto, values(4, 3), values(4, 3, seed=1))
    assert axis(read_onnx(model(nodes, {"x": [1, 3], "z": [1, 3]}))) == 0
    assert axis(read_onnx(model(nodes, {"x": [1, 3], "z": [2, 3]}))) is None
    with pytest.raises(UnsupportedError, match="batch_axis"):
        read_onnx(model(nodes, {"x": ["batch", 3], "z": [1, 3]}))
    with pytest.raises(UnsupportedError, match="one batch extent"):
        read_onnx(model(nodes, {"x": [1, 3], "z": [2, 3]}), batch_axis=0)


def test_inputs_that_say_too_little() -> None:
    with pytest.raises(UnsupportedError, match="fixed extents behind axis 0"):
        read_onnx(model([node("Relu", ["x"])], ["batch", "length"]))
    proto = model([node("Relu", ["x"])], ["batch", 3])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedError, match="declared shape"):
        read_onnx(proto)
    with pytest.raises(UsageError, match="batch_axis"):
        read_onnx(model([node("Relu", ["x"])], ["batch", 3]), batch_axis=1)  # type: ignore[arg-type]


def test_models_without_inputs() -> None:
    proto = model([node("Neg", ["c"])], {}, {"c": weights(2, 3)})
    graph = read_onnx(proto)
    assert evaluated(graph)[0].shape == (2, 3)


SHAPES = [(0, -1), (-1, 6), (1, 6), (0, 3, 2), (0, 2, 3), (1, 2, 3), (-1,), (-1, 2), (2, -1), (6,), (0, 0, -1)]
ARGUMENTS: dict[str, list[tuple[int, ...]]] = {
    "Reshape": SHAPES,
    "Transpose": [(0, 1), (1, 0), (0, 2, 1), (1, 0, 2), (2, 1, 0)],
    "ReduceSum": [(0,), (1,), (-1,), (-2,)],
    "Unsqueeze": [(0,), (1,), (-1,)],
    "Squeeze": [(0,), (1,), (-1,)],
    "Concat": [(0,), (1,), (-1,)],
    "Flatten": [(0,), (1,), (2,)],
    "Softmax": [(0,), (1,), (-1,)],
    "Add": [(1, 3), (2, 1), (6,), (1, 6), (1, 1, 3), (3, 1), (1, 1)],
    "MatMul": [(3, 2), (2, 3), (6, 6), (1, 6, 2)],
    "Gather": [(0,), (1,), (-1,)],
}
STEPS = st.sampled_from(sorted(ARGUMENTS)).flatmap(lambda op: st.tuples(st.just(op), st.sampled_from(ARGUMENTS[op])))


def chain(steps: list[tuple[str, tuple[int, ...]]], first: str | int) -> ModelProto:
    nodes, constants, name = [], {}, "x"
    for number, (op, argument) in enumerate(steps):
        output = "y" if number == len(steps) - 1 else f"v{number}"
        if op in ("Transpose", "Concat", "Flatten", "Softmax"):
            key = "perm" if op == "Transpose" else "axis"
            entry = list(argument) if op == "Transpose" else argument[0]
            inputs = [name, name] if op == "Concat" else [name]
            nodes.append(node(op, inputs, output, **{key: entry}))
        else:
            is_float = op in ("Add", "MatMul")
            constants[f"c{number}"] = weights(*argument) if is_float else shaped(*argument)
            axis = {"axis": argument[0]} if op == "Gather" else {}
            constants[f"c{number}"] = shaped(0, 0) if op == "Gather" else constants[f"c{number}"]
            nodes.append(node(op, [name, f"c{number}"], output, **axis))
        name = output
    return model(nodes, [first, 2, 3], constants)


@settings(max_examples=150)
@given(steps=st.lists(STEPS, min_size=1, max_size=4))
def test_what_is_read_as_batch_is_one(steps: list[tuple[str, tuple[int, ...]]]) -> None:
    """Whatever the chain of operators: if it is read with a batch axis, each example gives what it gives alone."""
    x = values(3, 2, 3)
    for first in ("batch", 1):
        try:
            graph = read_onnx(chain(steps, first))
        except UnsupportedError:
            continue
        if axis(graph) == 0:
            alone = torch.cat([runtime(chain(steps, 1), example[None])[0] for example in x])
            torch.testing.assert_close(graph.evaluate(x), alone, rtol=1e-5, atol=1e-5)
        if first == "batch":
            assert_same(graph, chain(steps, "batch"), x)


def test_a_permutation_of_fewer_axes_is_refused() -> None:
    """It would pass for the identity, which onnxruntime's shape inference takes it for as well."""
    with pytest.raises(UnsupportedError, match="permutation of its 3 axes"):
        read_onnx(chain([("Transpose", (0, 1)), ("Concat", (-1,))], "batch"))
