"""The text form of a graph: printed and parsed back exactly.

    graph "net" {
      %x: f32[1,8,8] = input()
      %conv1: f32[8,8,8] = conv(%x) {weight=@conv1.weight, padding=((1, 1), (1, 1))} ; onnx node "Conv_0"
      %r: f32[8,8,8] = relu(%conv1)
      return %r
    }

One value a line: name, type, operator, inputs, attributes, and after `;` what it was in the source model. Attributes
that have their default value are left out. Tensors are named references `@node.field` into a mapping; small ones can be
written in place: `tensor([[1, 2], [3, 4]])` has the element type of the first input, `tensor([0, 2], i64)` its own.
Types may be left out, except those of inputs and operands; where they stand, they are checked. `#` starts a comment.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from irverify.errors import IRVerifyError, ParseError
from irverify.ir.graph import Graph, GraphBuilder, Node
from irverify.ir.literals import (
    TokenReader,
    at,
    declared_types,
    has_type,
    print_literal,
    print_tensor,
    read_literal,
    read_string,
    read_tensor,
    type_words,
)
from irverify.ir.ops import OPERATORS, Input, Operand, Operator
from irverify.ir.params import Param, is_param, value
from irverify.ir.types import TensorType

_UNPRINTABLE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ESCAPE = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")


def tensor_names(graph: Graph) -> dict[int, str]:
    """`id` of every parameter -> the name it is printed under, `node.field` of its first user."""
    names: dict[int, str] = {}
    for name, parameter in graph.parameters().items():
        names.setdefault(id(parameter), name)
    return names


def named_parameters(graph: Graph) -> dict[str, Param]:
    """The parameters under the names that the text refers to: one that several nodes share has the first one's name."""
    names = tensor_names(graph)
    return {name: parameter for name, parameter in graph.parameters().items() if names[id(parameter)] == name}


def print_graph(graph: Graph, inline: int = 0) -> str:
    """The graph as text; tensors of up to `inline` elements are written in place, others as references."""
    names, dtype = tensor_names(graph), _default_dtype(graph.nodes)

    def printed(attribute: Any) -> str:
        if not is_param(attribute):
            return print_literal(attribute)
        tensor = value(attribute) if inline else None
        if tensor is not None and 0 < tensor.numel() <= inline:
            return print_tensor(tensor, dtype)
        return f"@{names[id(attribute)]}"

    lines = [f"graph {json.dumps(graph.name)} {{"]
    for node in graph.nodes:
        attributes = [f"{field}={printed(attribute)}" for field, attribute in _shown(node.op).items()]
        line = f"  %{node.name}: {node.type} = {node.op.name}({_references(node.inputs)})"
        line += f" {{{', '.join(attributes)}}}" if attributes else ""
        line += f" ; {_escape(node.source)}" if node.source is not None else ""
        lines.append(line)
    return "\n".join([*lines, f"  return {_references(graph.outputs)}", "}", ""])


def parse_graph(text: str, tensors: Mapping[str, Param] | None = None) -> Graph:
    """Reads what `print_graph` writes; `tensors` holds what references `@name` stand for.

    Raises ParseError with the line and what was expected.
    """
    return _GraphReader(text, tensors or {}).graph()


def _shown(op: Operator) -> dict[str, Any]:
    """The attributes that are printed: all but the defaults, and the type of an input, which stands behind its name."""
    shown = {}
    for field in dataclasses.fields(op):  # type: ignore[arg-type]
        attribute = getattr(op, field.name)
        is_default = field.default is not dataclasses.MISSING and repr(attribute) == repr(field.default)
        if not is_default and not isinstance(attribute, TensorType):
            shown[field.name] = attribute
    return shown


def _references(names: Iterable[str]) -> str:
    return ", ".join(f"%{name}" for name in names)


def _escape(source: str) -> str:
    return _UNPRINTABLE.sub(lambda m: r"\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", source)


def _unescape(source: str) -> str:
    return _ESCAPE.sub(lambda m: "\\" if m[1] is None else chr(int(m[1], 16)), source)


def _default_dtype(nodes: Iterable[Node]) -> torch.dtype:
    """The element type of the first input: that of tensors written in place."""
    return next((node.type.dtype for node in nodes if isinstance(node.op, Input)), torch.float32)


class _GraphReader(TokenReader):
    """Recursive descent over the tokens of one graph."""

    def __init__(self, text: str, tensors: Mapping[str, Param]) -> None:
        super().__init__(text)
        self._tensors = tensors
        self._builder = GraphBuilder()
        self._dtype: torch.dtype | None = None

    def graph(self) -> Graph:
        self.expect("graph")
        self._builder.name = read_string(self, 'the name of the graph in "quotes"')
        self.expect("{")
        while self.next.kind == "value":
            self._node()
        self.expect("return")
        outputs = self._operands("an output %name")
        self.expect("}")
        self.expect_kind("end", "nothing after the graph")
        return self._builder.graph(outputs)

    def _node(self) -> None:
        token = self.take()
        if token.text in self._builder:
            raise at(token.line, f"expected a name that is new, got %{token.text} again")
        declared = None
        if self.accept(":"):
            declared = TensorType.parse(self.expect_kind("type", "a type such as f32[3,8,8]").text)
        self.expect("=")
        word = self.expect_kind("word", "an operator")
        if word.text not in OPERATORS:
            raise at(word.line, f"expected an operator ({', '.join(OPERATORS)}), got {word.text!r}")
        self.expect("(")
        inputs = () if self.next.text == ")" else self._operands("an input %name")
        self.expect(")")
        attributes = self._attributes(OPERATORS[word.text], declared, word.line)
        source = _unescape(self.take().text[1:].removeprefix(" ")) if self.next.kind == "source" else None
        try:
            self._builder.add(OPERATORS[word.text](**attributes), *inputs, name=token.text, source=source)
        except IRVerifyError as error:
            raise ParseError(str(error), where=f"line {token.line}") from error
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            # Attributes of the declared types with values that torch or Python refuse, such as an enormous extent.
            raise at(token.line, f"expected attributes that fit {word.text}: {error}") from error
        inferred = self._builder.type(token.text)
        if declared is not None and declared != inferred:
            raise at(token.line, f"expected type {inferred} for %{token.text}, got {declared}")

    def _operands(self, what: str) -> tuple[str, ...]:
        names: list[str] = []
        while not names or self.accept(","):
            token = self.expect_kind("value", what)
            if token.text not in self._builder:
                raise at(token.line, f"expected a value defined before, got %{token.text}")
            names.append(token.text)
        return tuple(names)

    def _attributes(self, operator: type[Operator], declared: TensorType | None, line: int) -> dict[str, Any]:
        types = declared_types(operator)
        attributes: dict[str, Any] = {}
        if operator in (Input, Operand):
            if declared is None:
                raise at(line, f"expected a type for an {operator.name}, as in %x: f32[2]")
            attributes["type"] = declared
            self._dtype = self._dtype if operator is Operand else (self._dtype or declared.dtype)
        if self.accept("{"):
            while not self.accept("}"):
                self._attribute(operator, types, attributes)
                if not self.accept(","):
                    self.expect("}")
                    break
        required = [
            field.name
            for field in dataclasses.fields(operator)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING
        ]
        absent = [field for field in required if field not in attributes]
        if absent:
            raise at(line, f"expected attributes {', '.join(absent)} of {operator.name}")
        return attributes

    def _attribute(self, operator: type[Operator], types: dict[str, Any], attributes: dict[str, Any]) -> None:
        token = self.expect_kind("word", "the name of an attribute")
        if token.text not in types or token.text in attributes:
            known = ", ".join(name for name in types if name not in attributes) or "none"
            raise at(token.line, f"expected an attribute of {operator.name} ({known}), got {token.text!r}")
        self.expect("=")
        attribute = self._attribute_value()
        if not has_type(attribute, types[token.text]):
            wanted = f"{type_words(types[token.text])} for {token.text} of {operator.name}"
            raise at(token.line, f"expected {wanted}, got {attribute!r}")
        attributes[token.text] = attribute

    def _attribute_value(self) -> Any:
        if self.next.kind == "reference":
            token = self.take()
            if token.text not in self._tensors:
                hint = "pass it in `tensors`, or write tensor([...])"
                raise at(token.line, f"expected a tensor for @{token.text}, got none", hint)
            return self._tensors[token.text]
        if self.next.kind == "word" and self.next.text == "tensor":
            return read_tensor(self, self._dtype or torch.float32)
        return read_literal(self)


