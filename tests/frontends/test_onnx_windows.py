"""Convolutions and pooling under all combinations of their attributes, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from irverify.errors import UnsupportedError
from irverify.frontends.onnx import read_onnx
from tests.frontends.onnx_models import assert_same, model, node, runtime, values, weights

ELEMENTS = st.integers(1, 3)


@st.composite
def windows(draw: Callable[[Any], Any], padded: bool = True) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Extents of the operand, the kernel, and the attributes of a window over one or two axes."""
    axes = draw(st.integers(1, 2))
    extents = draw(st.tuples(*[st.integers(3, 8)] * axes))
    kernel = draw(st.tuples(*[ELEMENTS] * axes))
    attributes: dict[str, Any] = {}
    for name in ("strides", "dilations"):
        if draw(st.booleans()):
            attributes[name] = list(draw(st.tuples(*[ELEMENTS] * axes)))
    mode = draw(st.sampled_from(["NOTSET", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "pads":
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * axes)]
    elif mode != "NOTSET":
        attributes["auto_pad"] = mode
    return extents, kernel, attributes


def runs(proto: ModelProto, x: torch.Tensor) -> bool:
    """Whether onnxruntime accepts the attributes at all."""
    try:
        return all(tensor.numel() > 0 for tensor in runtime(proto, x))
    except Exception:  # whatever it says against them
        return False


@settings(max_examples=150)
@given(window=windows(), groups=st.integers(1, 2), bias=st.booleans(), first=st.sampled_from(["batch", 1, 2]))
def test_conv(window: Any, groups: int, bias: bool, first: str | int) -> None:
    extents, kernel, attributes = window
    constants = {"w": weights(2 * groups, 2, *kernel), "b": weights(2 * groups)}
    nodes = [node("Conv", ["x", "w", "b"] if bias else ["x", "w"], "y", group=groups, **attributes)]
    proto = model(nodes, [first, 2 * groups, *extents], constants)
    x = values(1 if first == 1 else 2, 2 * groups, *extents)
    assume(runs(proto, x))
    assert_same(read_onnx(proto), proto, x)


@settings(max_examples=150)
@given(
    window=windows(),
    groups=st.integers(1, 2),
    extra=st.integers(0, 1),
    wanted=st.sampled_from([None, -2, -1, 0, 1]),
    first=st.sampled_from(["batch", 2]),
)
def test_conv_transpose(window: Any, groups: int, extra: int, wanted: int | None, first: str | int) -> None:
    extents, kernel, attributes = window
    strides, dilations = (attributes.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    full = [s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(extents, kernel, strides, dilations, strict=True)]
    if wanted is not None:
        attributes = {**attributes, "output_shape": [extent + wanted for extent in full]}
        assume("pads" not in attributes)
    assume(attributes.get("auto_pad") != "VALID" or wanted is None)
    extras = [extra if extra < max(s, d) else 0 for s, d in zip(strides, dilations, strict=True)]
    constants = {"w": weights(2 * groups, 2, *kernel), "b": weights(2 * groups)}
    nodes = [node("ConvTranspose", ["x", "w", "b"], "y", group=groups, output_padding=extras, **attributes)]
    proto = model(nodes, [first, 2 * groups, *extents], constants)
    x = values(2, 2 * groups, *extents)
    assume(runs(proto, x))
    try:
        graph = read_onnx(proto)
    except UnsupportedError as error:
        assert "does not pad as ONNX says" in str(error)
        return
    assert_same(graph, proto, x)


@settings(max_examples=200)
@given(
    window=windows(),
    ceil=st.booleans(),
    counted=st.sampled_from([None, False, True]),
    first=st.sampled_from(["batch", 1, 2]),
    opset=st.sampled_from([10, 11, 12, 19, 22, 26]),
)
def test_pooling(window: Any, ceil: bool, counted: bool | None, first: str | int, opset: int) -> None:
    """Maxima (`counted` is None) and averages; windows that cover nothing or do not fit are refused."""
    extents, kernel, attributes = window
    attributes = {**attributes, "kernel_shape": list(kernel), "ceil_mode": int(ceil)}
    if counted is not None:
        attributes["count_include_pad"] = int(counted)
    op = "MaxPool" if counted is None else "AveragePool"
    proto = model([node(op, ["x"], "y", **attributes)], [first, 3, *extents], opset=opset)
    x = values(1 if first == 1 else 2, 3, *extents)
    assume(runs(proto, x))
    try:
        graph = read_onnx(proto)
    except UnsupportedError as error:
        assert "windows that" in str(error) or "does not pad as ONNX says" in str(error)
        return
    assert_same(graph, proto, x)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("extents", [(4,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("first", ["batch", 2])
def test_global_pooling(op: str, extents: tuple[int, ...], first: str | int) -> None:
    proto = model([node(op, ["x"])], [first, 3, *extents])
    assert_same(read_onnx(proto), proto, values(2, 3, *extents))


@pytest.mark.parametrize("first", ["batch", 1, 2])
def test_three_spatial_axes(first: str | int) -> None:
    nodes = [
        node("Conv", ["x", "w"], "a", pads=[1, 0, 1, 0, 1, 0], strides=[1, 2, 1]),
        node("MaxPool", ["a"], "b", kernel_shape=[2, 1, 2]),
        node("AveragePool", ["b"], "y", kernel_shape=[1, 2, 2], pads=[0, 1, 0, 0, 1, 0], count_include_pad=1),
    ]
    proto = model(nodes, [first, 2, 4, 5, 6], {"w": weights(3, 2, 2, 2, 3)})
    assert_same(read_onnx(proto), proto, values(1 if first == 1 else 2, 2, 4, 5, 6))


def test_indices_of_maxima_are_refused() -> None:
    nodes = [node("MaxPool", ["x"], "y i", kernel_shape=[2, 2])]
    with pytest.raises(UnsupportedError, match="not the indices"):
        read_onnx(model(nodes, ["batch", 1, 4, 4]))


def test_weights_that_depend_on_an_input_are_refused() -> None:
    nodes = [node("Relu", ["x"], "w"), node("Conv", ["x", "w"])]
    with pytest.raises(UnsupportedError, match="the weight must be a constant"):
        read_onnx(model(nodes, [1, 1, 4, 4]))
