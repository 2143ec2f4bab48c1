"""Lowering operator by operator: the forms that opsets 8 to 26 give them, and what each becomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from irverify.errors import GraphError, UnsupportedError
from irverify.frontends.onnx import read_onnx
from irverify.ir.graph import convert
from tests.frontends.onnx_models import assert_same, model, node, values, weights

BOTH = ("batch", 2)
"""Extents of axis 0: a batch axis, or part of the one example."""


def ints(*numbers: int) -> Any:
    return numpy.array(numbers, numpy.int64)


def floats(*numbers: float) -> Any:
    return numpy.array(numbers, numpy.float32)


def scalar(number: float) -> Any:
    return numpy.array(number, numpy.float32)


def check(nodes: NodeProto | Sequence[NodeProto], extents: Sequence[int], opset: int = 18, **constants: Any) -> str:
    """Compares with onnxruntime, with a batch axis and without; the operators of the graph with a batch axis."""
    nodes = [nodes] if isinstance(nodes, NodeProto) else nodes
    listing = ""
    for first in reversed(BOTH):
        proto = model(nodes, [first, *extents], constants, opset=opset)
        graph = read_onnx(proto)
        assert_same(graph, proto, values(2, *extents))
        listing = " ".join(entry.op.name for entry in graph if entry.op.name != "input")
    return listing


# The same operator as older and newer opsets write it: (opset, node, constants) for an operand [.., 2, 3].
FORMS: dict[str, list[tuple[Sequence[int], NodeProto, dict[str, Any]]]] = {
    "clip": [
        ((8, 10), node("Clip", ["x"], min=-0.5, max=0.5), {}),
        ((8, 10), node("Clip", ["x"], min=0.0), {}),
        ((11, 26), node("Clip", ["x", "a", "b"]), {"a": scalar(-0.5), "b": scalar(0.5)}),
        ((11, 18), node("Clip", ["x", "", "b"]), {"b": scalar(0.25)}),
        ((12, 13), node("Clip", ["x"]), {}),
        ((13,), node("Clip", ["x", "a", "b"]), {"a": scalar(0.5), "b": scalar(-0.5)}),
    ],
    "slice": [
        ((8, 9), node("Slice", ["x"], axes=[2], starts=[-2], ends=[9]), {}),
        ((8,), node("Slice", ["x"], starts=[0, 1], ends=[2**31 - 1, 2]), {}),
        ((10, 26), node("Slice", ["x", "a", "b", "a", "c"]), {"a": ints(-1), "b": ints(-9), "c": ints(-2)}),
        ((11, 13), node("Slice", ["x", "a", "b", "c"]), {"a": ints(1), "b": ints(2**62), "c": ints(2)}),
    ],
    "pad": [
        ((8, 10), node("Pad", ["x"], pads=[0, 1, 0, 0, 0, 2], value=1.5), {}),
        ((11, 17), node("Pad", ["x", "a", "b"]), {"a": ints(0, 1, 0, 0, -1, 2), "b": scalar(-2.0)}),
        ((18, 26), node("Pad", ["x", "a", "", "c"], mode="edge"), {"a": ints(2, 1), "c": ints(-1)}),
        ((13,), node("Pad", ["x", "a"], mode="reflect"), {"a": ints(0, 0, 2, 0, 1, 1)}),
        ((19,), node("Pad", ["x", "a"], mode="wrap"), {"a": ints(0, 0, 2, 0, 1, 1)}),
    ],
    "squeeze": [
        ((8, 12), node("Squeeze", ["u"], axes=[1]), {}),
        ((13, 26), node("Squeeze", ["u", "a"]), {"a": ints(-3)}),
    ],
    "sum": [
        ((8, 12), node("ReduceSum", ["x"], axes=[1], keepdims=0), {}),
        ((13, 26), node("ReduceSum", ["x", "a"], keepdims=1), {"a": ints(-1, 1)}),
        ((13,), node("ReduceSum", ["x"], noop_with_empty_axes=1), {}),
    ],
    "mean": [
        ((8, 17), node("ReduceMean", ["x"], axes=[-1]), {}),
        ((18, 26), node("ReduceMean", ["x", "a"], keepdims=0), {"a": ints(1)}),
    ],
    "maximum": [
        ((8, 17), node("ReduceMax", ["x"], axes=[1]), {}),
        ((18, 20), node("ReduceMax", ["x", "a"], keepdims=0), {"a": ints(2, 1)}),
        ((18, 20), node("ReduceMin", ["x", "a"]), {"a": ints(1)}),
    ],
    "split": [
        ((8, 12), node("Split", ["x"], "y z", axis=2, split=[1, 2]), {}),
        ((13, 26), node("Split", ["x", "a"], "y z", axis=-1), {"a": ints(2, 1)}),
        ((18, 26), node("Split", ["x"], "y z", axis=2, num_outputs=2), {}),
        ((9,), node("Split", ["x"], "y z", axis=1), {}),
    ],
    "upsample": [
        ((8,), node("Upsample", ["i"], scales=[1.0, 1.0, 2.0, 3.0]), {}),
        ((9,), node("Upsample", ["i", "a"]), {"a": floats(1, 1, 1.5, 2)}),
        ((10,), node("Resize", ["i", "a"]), {"a": floats(1, 1, 2, 0.5)}),
        ((11,), node("Resize", ["i", "r", "a"]), {"r": floats(), "a": floats(1, 1, 2.5, 0.7)}),
        ((13, 18, 26), node("Resize", ["i", "", "a"]), {"a": floats(1, 1, 2.5, 0.7)}),
        ((18,), node("Resize", ["i", "", "", "a"], axes=[3]), {"a": ints(7)}),
    ],
    "dropout": [
        ((8, 10), node("Dropout", ["x"], ratio=0.25), {}),
        ((12, 26), node("Dropout", ["x", "a", "b"]), {"a": scalar(0.25), "b": numpy.array(False)}),
    ],
    "softmax": [
        ((8, 11, 12), node("Softmax", ["x"]), {}),
        ((11,), node("Softmax", ["x"], axis=2), {}),
        ((13, 26), node("Softmax", ["x"]), {}),
        ((13,), node("Softmax", ["x"], axis=1), {}),
    ],
    "reshape": [
        ((8, 26), node("Reshape", ["x", "a"]), {"a": ints(0, 3, -1)}),
    ],
    "flatten": [((8, 26), node("Flatten", ["x"], axis=1), {}), ((13,), node("Flatten", ["x"], axis=-2), {})],
    "cast": [((8, 26), node("Cast", ["x"], to=TensorProto.FLOAT), {})],
}  # fmt: skip
CASES = [
    pytest.param(opset, entry, constants, id=f"{name}{number}-{opset}")
    for name, forms in FORMS.items()
    for number, (opsets, entry, constants) in enumerate(forms)
    for opset in opsets
]


@pytest.mark.parametrize(("opset", "entry", "constants"), CASES)
def test_forms(opset: int, entry: NodeProto, constants: dict[str, Any]) -> None:
    before = {
        "u": [node("Reshape", ["x", "s"], "u")],  # [.., 1, 2, 3]
        "i": [node("Reshape", ["x", "s"], "i")],
    }.get(entry.input[0], [])
    if before:
        constants = {**constants, "s": ints(0, 1, 2, 3)}
    check([*before, entry], [2, 3], opset, **constants)


@pytest.mark.parametrize(
    ("opset", "entry", "constants"),
    [
        (14, node("Reshape", ["x", "a"], allowzero=1), {"a": ints(2, 6)}),
        (13, node("Resize", ["x", "", "", "a"]), {"a": ints(2, 5, 7)}),
        (19, node("Resize", ["x", "", "", "a"]), {"a": ints(4, 5, 7)}),
    ],
)
def test_forms_that_fix_axis_0(opset: int, entry: NodeProto, constants: dict[str, Any]) -> None:
    proto = model([entry], [2, 2, 3], constants, opset=opset)
    assert_same(read_onnx(proto), proto, values(2, 2, 3))


@pytest.mark.parametrize("opset", [8, 9, 14, 15, 26])
def test_batch_normalization(opset: int) -> None:
    constants = {"s": weights(3), "b": weights(3), "m": weights(3), "v": abs(weights(3)) + 0.1}
    entry = node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=1e-3)
    assert check(entry, [3, 4], opset, **constants).endswith("batch_norm")
    assert check(entry, [3], opset, **constants) == "batch_norm"


def test_modes_of_training_are_refused() -> None:
    constants = {"s": weights(3), "r": scalar(0.5), "t": numpy.array(True)}
    norm = node("BatchNormalization", ["x", "s", "s", "s", "s"], "y a b", training_mode=1)
    for entry in (norm, node("Dropout", ["x", "r", "t"])):
        with pytest.raises(UnsupportedError, match="training mode"):
            read_onnx(model([entry], ["batch", 3, 4], constants))


@pytest.mark.parametrize("op", ["Relu", "Abs", "Sigmoid", "Tanh", "Exp", "Sin", "Cos", "Neg"])
def test_unary(op: str) -> None:
    assert check(node(op, ["x"]), [3]) == op.lower()


def test_unary_with_parameters() -> None:
    assert check(node("LeakyRelu", ["x"]), [3]) == "leaky_relu"
    assert check(node("LeakyRelu", ["x"], alpha=-0.5), [3]) == "neg relu scale_shift relu add"
    assert check(node("HardSigmoid", ["x"], alpha=0.3), [3]) == "scale_shift clip"
    assert check(node("PRelu", ["x", "a"]), [3, 2], a=weights(3, 1)).endswith("add")
    assert check(node("PRelu", ["x", "a"]), [3, 2], a=floats(0.25)) == "leaky_relu"
    positive = node("Exp", ["x"], "p")
    assert check([positive, node("Sqrt", ["p"])], [3]) == "exp pow"
    assert check([positive, node("Reciprocal", ["p"])], [3]) == "exp pow"


@pytest.mark.parametrize(
    ("op", "shape", "listing"),
    [
        ("Add", (), "scale_shift"),
        ("Add", (3,), "scale_shift"),
        ("Sub", (2, 1), "scale_shift"),
        ("Mul", (1, 2, 3), "scale_shift"),
        ("Div", (1,), "scale_shift"),
        ("Max", (2, 3), "constant maximum"),
        ("Min", (3,), "constant minimum"),
    ],
)
def test_arithmetic_with_constants(op: str, shape: tuple[int, ...], listing: str) -> None:
    assert check(node(op, ["x", "c"]), [2, 3], c=weights(*shape)) == listing
    check(node(op, ["c", "x"]), [2, 3], c=weights(*shape))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_constants_that_enlarge_the_value(op: str) -> None:
    assert "expand" in check(node(op, ["x", "c"]), [2, 1], c=weights(2, 4))
    assert "expand" in check(node(op, ["c", "x"]), [1, 3], c=weights(2, 1))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_arithmetic_of_values(op: str) -> None:
    nodes = [node("Softmax", ["x"], "p"), node("ReduceSum", ["x", "a"], "s"), node(op, ["s", "p"])]
    assert "expand" in check(nodes, [2, 3], a=ints(-1))


def test_squares_and_quotients() -> None:
    assert check(node("Mul", ["x", "x"]), [3]) == "pow"
    assert check([node("Exp", ["x"], "p"), node("Div", ["c", "p"])], [3], c=scalar(1.0)) == "exp pow"
    assert check(node("Max", ["x", "c"]), [3], c=scalar(0.0)) == "relu"
    assert check(node("Max", ["x", "c"]), [3], c=floats(0.5, 0.5, 0.5)) == "clip"
    assert check(node("Min", ["c", "x", "d"]), [3], c=scalar(0.5), d=scalar(-0.5)) == "clip clip"
    assert check([node("Abs", ["x"], "a"), node("Sum", ["x", "c", "a"])], [3], c=weights(3)) == "abs add scale_shift"
    assert check([node("Abs", ["x"], "a"), node("Mean", ["x", "a", "a"])], [3]) == "abs add add scale_shift"
    with pytest.raises(UnsupportedError, match="holds a zero"):
        read_onnx(model([node("Div", ["x", "c"])], ["batch", 3], {"c": floats(1, 0, 1)}))


def test_powers() -> None:
    assert check(node("Pow", ["x", "c"]), [3], c=scalar(3.0)) == "pow"
    assert check(node("Pow", ["x", "c"]), [3], c=numpy.array([2, 2, 2])) == "pow"
    assert check(node("Pow", ["x", "c"]), [3], c=scalar(1.0)) == ""
    assert check(node("Pow", ["x", "c"]), [2, 3], c=floats(2, 3, 2)).count("pow") == 2
    assert check(node("Pow", ["c", "x"]), [3], c=scalar(2.0)) == "scale_shift exp"
    with pytest.raises(UnsupportedError, match="greater than 0"):
        read_onnx(model([node("Pow", ["c", "x"])], ["batch", 3], {"c": scalar(-2.0)}))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("extents", "shape"),
    [
        ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((3, 4), (4, 2)), ((3, 4), (1, 4, 2)), ((2, 3, 4), (2, 4, 5)),
        ((2, 3, 4), (1, 1, 4, 5)),
    ],
)  # fmt: skip
def test_products_with_constants(left: bool, extents: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if not left:
        check(node("MatMul", ["x", "c"]), extents, c=weights(*shape))
    elif len(extents) > 1:
        turned = (*shape[:-2], *shape[:-3:-1]) if len(shape) > 1 else shape
        transposed = node("Transpose", ["x"], "t", perm=[*range(len(extents) - 1), len(extents), len(extents) - 1])
        check([transposed, node("MatMul", ["c", "t"])], extents, c=weights(*turned))


@pytest.mark.parametrize(("first", "second"), [((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((4,), (2, 4, 3)), ((4,), (4,))])
def test_products_of_vectors_and_matrices_without_batch(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    for values_both in (True, False):
        inputs = {"x": first, "z": second} if values_both else {"z": second}
        constants = {} if values_both else {"x": weights(*first)}
        proto = model([node("MatMul", ["x", "z"])], inputs, constants)
        given_values = [values(*extents, seed=seed) for seed, extents in enumerate(inputs.values())]
        assert_same(read_onnx(proto, batch_axis=None), proto, *given_values)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.7), (2.0, 0.0)])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (2, 1), None])
def test_gemm(trans_b: int, alpha: float, beta: float, shape: tuple[int, ...] | None) -> None:
    constants = {"b": weights(4, 3) if trans_b else weights(3, 4)}
    inputs = ["x", "b"]
    if shape is not None:
        constants["c"] = weights(*shape)
        inputs.append("c")
    entry = node("Gemm", inputs, alpha=alpha, beta=beta, transB=trans_b)
    if shape == (2, 1):  # a different number for each example: only where the examples are part of the whole
        proto = model([entry], [2, 3], constants)
        assert_same(read_onnx(proto), proto, values(2, 3))
    else:
        assert check(entry, [3], **constants) == "linear"


def test_gemm_of_values_and_transposed() -> None:
    nodes = [node("Relu", ["x"], "r"), node("Gemm", ["x", "r", "x"], transB=1, alpha=0.5, beta=2.0)]
    proto = model(nodes, [3, 3])
    assert_same(read_onnx(proto), proto, values(3, 3))
    proto = model([node("Gemm", ["a", "x", "c"], transB=1, transA=1)], [2, 3], {"a": weights(3, 4), "c": weights(4, 1)})
    assert_same(read_onnx(proto), proto, values(2, 3))


def test_float64_has_no_rounding_of_float32() -> None:
    """Constants that are folded follow a conversion: 1 / 255 and 0.1 W are rounded in float64, not in float32."""
    nodes = [node("Div", ["x", "d"], "n"), node("Gemm", ["n", "w"], alpha=0.1)]
    graph = read_onnx(model(nodes, ["batch", 3], {"d": scalar(255.0), "w": weights(3, 2)}))
    x = values(4, 3, dtype=torch.float64)
    exact = x / 255.0 @ torch.from_numpy(weights(3, 2)).double() * float(numpy.float32(0.1))
    torch.testing.assert_close(convert(graph, torch.float64).evaluate(x), exact, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("entry", "constants"),
    [
        (node("Gather", ["x", "c"], axis=-1), {"c": ints(2, 0, -1)}),
        (node("Gather", ["x", "c"], axis=1), {"c": numpy.array(1)}),
        (node("Gather", ["x", "c"], axis=2), {"c": numpy.array([[0, 1], [1, 2]])}),
        (node("Concat", ["x", "x"], axis=-1), {}),
        (node("Transpose", ["x"], perm=[0, 2, 1]), {}),
        (node("Tile", ["x", "c"]), {"c": ints(1, 2, 3)}),
        (node("Expand", ["x", "c"]), {"c": ints(2, 3)}),
        (node("ReduceL1", ["x", "c"]), {"c": ints(1)}),
        (node("ReduceSumSquare", ["x", "c"], keepdims=0), {"c": ints(-1)}),
    ],
)
def test_selection(entry: NodeProto, constants: dict[str, Any]) -> None:
    check(entry, [2, 3], **constants)


def test_indices_are_checked() -> None:
    with pytest.raises(UnsupportedError, match=r"indices in \[-3, 3\), got 0 to 3"):
        read_onnx(model([node("Gather", ["x", "c"], axis=1)], ["batch", 3], {"c": ints(0, 3)}))
    with pytest.raises(UnsupportedError, match="the indices must be a constant"):
        nodes = [node("Cast", ["x"], "i", to=TensorProto.INT64), node("Gather", ["x", "i"], axis=1)]
        read_onnx(model(nodes, ["batch", 3]))


def test_comparisons_and_casts() -> None:
    masks = {"m": numpy.array([True, False, True]), "c": weights(3)}
    assert check(node("Where", ["m", "x", "c"]), [3], **masks) == "scale_shift"
    assert check([node("Abs", ["x"], "a"), node("Where", ["m", "x", "a"])], [3], **masks).endswith("add")
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        nodes = [node(op, ["x", "c"], "b"), node("Not", ["b"], "n"), node("Cast", ["n"], to=TensorProto.FLOAT)]
        check(nodes, [3], c=values(2, 3)[0].numpy())  # equal in the first example
        nodes = [node(op, ["c", "x"], "b"), node("Where", ["b", "x", "d"])]
        check(nodes, [3], c=values(2, 3)[0].numpy(), d=weights(3))
    logic = [
        node("Greater", ["x", "c"], "g"),
        node("Less", ["x", "d"], "l"),
        node("And", ["g", "l"], "a"),
        node("Or", ["g", "m"], "o"),
        node("Where", ["a", "x", "c"], "p"),
        node("Where", ["o", "p", "d"]),
    ]
    check(logic, [3], c=floats(-1, 0, 1), d=floats(0, 1, 2), m=masks["m"])
    kinds = [
        node("Cast", ["x"], "i", to=TensorProto.INT64),
        node("Cast", ["i"], "b", to=TensorProto.BOOL),
        node("Cast", ["b"], "f", to=TensorProto.FLOAT),
        node("Cast", ["i"], "g", to=TensorProto.FLOAT),
        node("Add", ["f", "g"]),
    ]
    check(kinds, [5])


def test_names_without_operators() -> None:
    """Identity and dropout are other names for their operands, an output may be the input itself."""
    nodes = [node("Identity", ["x"], "i"), node("Dropout", ["i"], "d"), node("Identity", ["d"])]
    assert check(nodes, [3]) == ""
    proto = model(nodes[1:], [2, 3], {"i": weights(3)})
    assert_same(read_onnx(proto), proto, values(2, 3))  # a constant as output


def test_casts_between_float_types() -> None:
    nodes = [node("Cast", ["x"], "d", to=TensorProto.DOUBLE), node("Add", ["d", "c"], "e"), node("Cast", ["e"], to=1)]
    assert check(nodes, [3], c=weights(3, dtype=numpy.float64)) == "cast scale_shift cast"


def test_shape_arithmetic_folds_away() -> None:
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "two"], "n", axis=0),
        node("Range", ["zero", "n", "one"], "r"),
        node("Cast", ["r"], "f", to=TensorProto.FLOAT),
        node("Div", ["f", "half"], "q"),
        node("ConstantOfShape", ["shape"], "k", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        node("Mul", ["q", "k"], "m"),
        node("Sigmoid", ["m"], "g"),  # no table of constants has it: evaluated as a graph of its own
        node("Expand", ["g", "both"], "e"),
        node("Add", ["x", "e"]),
    ]
    constants = {
        "two": numpy.array(2), "zero": numpy.array(0), "one": numpy.array(1), "half": scalar(0.5), "shape": ints(3),
        "both": ints(2, 3),
    }  # fmt: skip
    assert check(nodes, [2, 3], **constants) == "scale_shift"


def test_constants_given_by_attributes() -> None:
    nodes = [
        node("Constant", [], "a", value_floats=[1.0, 2.0, 3.0]),
        node("Constant", [], "b", value_float=0.5),
        node("Constant", [], "i", value_ints=[0, 3]),
        node("Constant", [], "j", value_int=0),
        node("Add", ["x", "a"], "s"),
        node("Mul", ["s", "b"], "m"),
        node("Reshape", ["m", "i"], "r"),
        node("Gather", ["r", "j"], axis=1),
    ]
    check(nodes, [3])


def test_whole_numbers_divide_towards_zero() -> None:
    nodes = [node("Div", ["a", "b"], "q"), node("Cast", ["q"], "f", to=TensorProto.FLOAT), node("Add", ["x", "f"])]
    check(nodes, [4], a=ints(7, -7, 7, -7), b=ints(2, 2, -2, -2))
    with pytest.raises(UnsupportedError, match="divided by zero"):
        read_onnx(model(nodes, ["batch", 2], {"a": ints(7, 7), "b": ints(0, 1)}))


def test_masks_of_infinities_are_refused() -> None:
    with pytest.raises(GraphError, match="expected finite numbers in 'c'"):
        read_onnx(model([node("Add", ["x", "c"])], ["batch", 3], {"c": floats(0, -numpy.inf, 0)}))


@settings(max_examples=150)
@given(
    extent=st.integers(1, 6),
    size=st.integers(1, 9),
    by_scale=st.booleans(),
    coordinates=st.sampled_from(
        ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric", "align_corners"]
    ),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
)
def test_nearest_resizing(extent: int, size: int, by_scale: bool, coordinates: str, rounding: str) -> None:
    """Every mode, by exact quarters of scales and by sizes."""
    modes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    if by_scale:
        scale = max(round(4 * size / extent), 1) / 4
        if int(extent * scale) == 0:
            return
        entry, constants = node("Resize", ["x", "", "c"], **modes), {"c": floats(1, 1, scale)}
    else:
        entry, constants = node("Resize", ["x", "", "", "c"], **modes), {"c": ints(1, 2, size)}
    proto = model([entry], [1, 2, extent], constants, opset=19)
    try:
        graph = read_onnx(proto)
    except UnsupportedError as error:
        assert "onnxruntime then copies" in str(error)
        return
    assert_same(graph, proto, values(1, 2, extent))
