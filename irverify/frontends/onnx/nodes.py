"""A node of the model as the lowering rules read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from irverify.errors import GraphError
from irverify.frontends.onnx.files import MAIN_DOMAIN
from irverify.frontends.onnx.values import Array, Refused

FLOAT_TYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class OnnxNode:
    """One node: operator, names of its operands (empty: left out) and results, attributes."""

    proto: NodeProto

    @property
    def op(self) -> str:
        """The operator, with its domain where that is not ONNX's own."""
        domain = self.proto.domain
        return self.proto.op_type if domain in MAIN_DOMAIN else f"{domain}.{self.proto.op_type}"

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.proto.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.proto.output)

    @cached_property
    def attributes(self) -> dict[str, AttributeProto]:
        return {attribute.name: attribute for attribute in self.proto.attribute}

    def __str__(self) -> str:
        if self.proto.name:
            return f'onnx node "{self.proto.name}"'
        return f'onnx node {self.op} -> "{next(iter(self.outputs), "")}"'

    def has(self, name: str) -> bool:
        return name in self.attributes

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute as a Python value; lists as lists, strings decoded, tensors as arrays."""
        if name not in self.attributes:
            return default
        value = helper.get_attribute_value(self.attributes[name])
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, TensorProto):
            return to_array(value, f"attribute {name} of {self}")
        return list(value) if self.attributes[name].type in _LISTS else value

    def number(self, name: str, default: float) -> float:
        """A float attribute. Its default is a float32 as well: 0.01 means the float32 nearest to it."""
        return float(self.get(name, float(numpy.float32(default))))


_LISTS = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS, AttributeProto.TENSORS)


def to_array(tensor: TensorProto, what: str) -> Array:
    """The elements of a stored tensor. Raises GraphError where they are NaN or do not fit the shape."""
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # the library raises what comes: ValueError, TypeError, struct.error
        raise GraphError(f"expected a tensor that can be read in {what}: {error}") from error
    if array.dtype == object:
        raise Refused(f"the strings in {what} are not supported")
    if array.dtype.kind == "f" and numpy.isnan(array).any():
        raise GraphError(f"expected finite numbers in {what}, got {int(numpy.isnan(array).sum())} that are NaN")
    return array


def type_name(elem_type: int) -> str:
    """The element type in numpy's words, such as `float32`. Raises Refused for one that numpy lacks."""
    try:
        name = helper.tensor_dtype_to_np_dtype(elem_type).name
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"element type {elem_type} is not known") from error
    if name == "object":
        raise Refused("strings are not supported")
    return name
