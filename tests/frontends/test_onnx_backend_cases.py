"""ONNX's own test cases, one node (or one function, expanded) each: what is imported computes the expected results.

Inputs that an operator needs as constants (weights, shapes, axes, limits, indices) become initialisers first. Every
case either passes or is refused with a reason; the table of refusals is printed.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from irverify.errors import IRVerifyError
from irverify.frontends.onnx import read_onnx

LISTED = {
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "Cos", "Div", "Dropout", "Equal", "Exp", "Expand", "Flatten", "Gather", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "Identity", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min",
    "Mul", "Neg", "Pad", "Pow", "Range", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid",
    "Sin", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze", "Upsample",
    "Where",
}  # fmt: skip
"""The operators that have to be understood."""
CONSTANTS = {
    "BatchNormalization": (1, 2, 3, 4), "Clip": (1, 2), "ConstantOfShape": (0,), "Conv": (1, 2),
    "ConvTranspose": (1, 2), "Dropout": (1, 2), "Expand": (1,), "Gather": (1,), "Pad": (1, 2, 3), "Pow": (1,),
    "PRelu": (1,), "Range": (0, 1, 2), "ReduceL1": (1,), "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,),
    "ReduceSum": (1,), "ReduceSumSquare": (1,), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4),
    "Split": (1,), "Squeeze": (1,), "Tile": (1,), "Unsqueeze": (1,), "Upsample": (1,), "Where": (0,),
}  # fmt: skip
"""Operator -> operands that have to be constants."""
FLOATS = (numpy.float16, numpy.float32, numpy.float64)


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelProto
    inputs: list[Any]
    expected: list[Any]

    @property
    def listed(self) -> bool:
        return all(node.op_type in LISTED for node in self.model.graph.node)


def array(stored: Any) -> Any:
    return numpy.asarray(numpy_helper.to_array(stored) if isinstance(stored, TensorProto) else stored)


def is_float(entry: Any) -> bool:
    return bool(entry.type.tensor_type.elem_type == TensorProto.FLOAT)


def cases() -> Iterator[Case]:
    """All cases of kind node with tensors as inputs and float32 outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        loaded = load_model_tests(kind="node")
    for test in loaded:
        if test.model is None or not test.data_sets:
            continue
        tensors = all(entry.type.HasField("tensor_type") for entry in test.model.graph.input)
        if tensors and all(map(is_float, test.model.graph.output)):
            inputs, expected = test.data_sets[0]
            yield Case(test.name, test.model, [array(i) for i in inputs], [array(e) for e in expected])


def with_constants(case: Case) -> tuple[ModelProto, list[torch.Tensor]]:
    """The model with everything that has to be a constant stored in it, and the inputs that are left."""
    model = ModelProto()
    model.CopyFrom(case.model)
    constants = {
        node.input[place]
        for node in model.graph.node
        for place in CONSTANTS.get(node.op_type, ())
        if place < len(node.input)
    }
    inputs = []
    for entry, given in zip(list(model.graph.input), case.inputs, strict=True):
        if entry.name in constants or given.dtype not in FLOATS:
            model.graph.initializer.append(numpy_helper.from_array(given, entry.name))
            model.graph.input.remove(entry)
        else:
            inputs.append(torch.from_numpy(given.copy()))
    return model, inputs


def deviation(got: torch.Tensor, expected: Any) -> str | None:
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)}, expected {expected.shape}"
    # ONNX's own relative tolerance: some expected results are written with four digits.
    close = numpy.allclose(got.numpy(), expected, rtol=1e-3, atol=1e-6, equal_nan=True)
    return None if close else f"off by {numpy.abs(got.numpy() - expected).max():.3g}"


def outcome(case: Case) -> str | None:
    """None where the case passes, the reason where it is refused; fails where the result is another one."""
    model, inputs = with_constants(case)
    try:
        graph = read_onnx(model, check=False)  # a wrong result shall fail here, not be refused
        results = graph.evaluate(*inputs)
    except IRVerifyError as error:
        return f"{type(error).__name__}: {error}"
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(case.expected)
    reasons = [deviation(got, expected) for got, expected in zip(results, case.expected, strict=True)]
    assert reasons == [None] * len(reasons), f"{case.name}: {reasons}"
    return None


@pytest.mark.filterwarnings("ignore")
def test_every_case_passes_or_is_refused() -> None:
    listed: list[str] = []
    refused: dict[str, list[str]] = defaultdict(list)
    others = [0, 0]
    for case in cases():
        reason = outcome(case)
        others[reason is not None] += not case.listed
        if not case.listed:
            continue
        listed.append(case.name)
        if reason is not None:
            refused[reason.replace("\n", " ")].append(case.name)
    count = sum(map(len, refused.values()))
    print(f"\n{len(listed)} cases of listed operators: {len(listed) - count} pass, {count} refused")
    print(f"others: {others[0]} pass, {others[1]} refused")
    for reason, names in sorted(refused.items(), key=lambda entry: -len(entry[1])):
        print(f"{len(names):3}  {reason}\n       {', '.join(names)}")
    assert len(listed) >= 300
    assert len(listed) - count >= 295
