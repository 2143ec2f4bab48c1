"""VNN-LIB 2.0, through the standard's own parser (the package `vnnlib`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from importlib import import_module
from math import prod
from typing import Any, TypeVar

from irverify.errors import ParseError, UnsupportedError
from irverify.frontends.vnnlib.cases import Sizes, cases_of
from irverify.frontends.vnnlib.formula import Affine, Dnf, compared, conjunction, disjunction, times, total
from irverify.frontends.vnnlib.sexpr import number
from irverify.properties import Declaration, Query
from irverify.properties.query import element_name

DEPTH = 200
"""How deep expressions may be nested: neither the parser nor the walk over its tree is free of recursion."""
BRACKET = re.compile(r'[()]|;[^\n]*|"(?:[^"\\\n]|\\.)*"')
DECLARED = re.compile(r"\(declare-\w+\s+(\S+)\s+(\S+)\s")
SYNTAX = re.compile(r"Parse error: syntax error at line (\d+), column (\d+): (.*)", re.DOTALL)
FLOATS = frozenset({"real", "float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset({f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)})
COMPARED = {
    "LessEqual": "<=",
    "LessThan": "<",
    "GreaterEqual": ">=",
    "GreaterThan": ">",
    "Equal": "==",
    "NotEqual": "!=",
}


def parse(text: str, source: str) -> Query:
    """The query of a text in VNN-LIB 2.0 about one network. UnsupportedError lists everything that is not supported."""
    tree = _tree(text, source)
    network, reasons = tree.networks[0], []
    if len(tree.networks) > 1:
        names = ", ".join(network.name for network in tree.networks)
        reasons.append(f"several networks ({names}): one is supported")
    inputs = tuple(_declaration(item) for item in network.inputs)
    hidden = tuple(_declaration(item) for item in network.hidden)
    outputs = tuple(_declaration(item) for item in network.outputs)
    reasons += [_of_type(part) for part in inputs if part.dtype not in FLOATS]
    reasons += [_of_type(part) for part in (*outputs, *hidden) if part.dtype not in FLOATS | INTEGERS]
    walk = _Walk(inputs, (*outputs, *hidden))
    parts = [] if reasons else [walk.formula(assertion.expr) for assertion in tree.assertions]
    reasons += walk.reasons
    if reasons:
        raise UnsupportedError("the query is not supported", items=reasons, where=source)
    count = sum(part.size for part in inputs)
    sizes = Sizes(
        [element_name(inputs, index) for index in range(count)], sum(part.size for part in (*outputs, *hidden))
    )
    cases = cases_of(parts, sizes, inputs, source)
    return Query(cases, inputs, outputs, hidden, network.name, "2.0", source)


def _tree(text: str, source: str) -> Any:
    """The syntax tree, checked for types by the parser. Nothing in it may be used once it is gone."""
    try:
        vnnlib: Any = import_module("vnnlib")
    except ImportError as error:
        hint = "it has wheels for Linux x86_64, macOS and Windows; VNN-LIB 1.0 files need no package"
        raise UnsupportedError("VNN-LIB 2.0 needs the package vnnlib", where=source, hint=hint) from error
    depth = deepest = 0
    for token in BRACKET.findall(text):
        depth += (token == "(") - (token == ")")
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise ParseError(f"expressions are nested {deepest} deep, {DEPTH} are possible", where=source)
    try:
        return vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise _complaint(str(error), source) from None
    except (IndexError, ValueError, RuntimeError, MemoryError) as error:  # integers beyond 64 bits, among others
        raise ParseError(f"the parser of VNN-LIB 2.0 failed: {error}", where=source) from error


def _complaint(message: str, source: str) -> ParseError:
    """The parser's complaint in one line: it comes as JSON, or as a sentence."""
    syntax = SYNTAX.fullmatch(message)
    if syntax is not None:
        return ParseError(f"syntax error at column {syntax[2]}, near {syntax[3]}", where=f"{source}, line {syntax[1]}")
    try:
        errors = json.loads(message)["errors"]
        first = errors[0]
        said = f"{first['message']}: {first['offendingSymbol']}. {first['hint']}"
        where = f"{source}, line {first['line']}"
    except (ValueError, KeyError, IndexError, TypeError):
        return ParseError(message, where=source)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ParseError(said + more, where=where)


def _declaration(item: Any) -> Declaration:
    # The parser knows `real` but makes "unknown" of the `Real` that public files write, as of any misspelt type; the
    # printed declaration keeps the word. Names of ONNX values keep their quotes.
    match = DECLARED.match(str(item))
    word = match[2] if match else "unknown"
    dtype = "real" if word == "Real" else word
    tensor = None if item.onnx_name is None else _unquoted(item.onnx_name)
    return Declaration(item.name, dtype, tuple(item.shape), tensor)


def _unquoted(name: str) -> str:
    inner = name[1:-1] if len(name) >= 2 and name[0] == name[-1] == '"' else name
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), inner)


def _of_type(part: Declaration) -> str:
    return f"{part.name} has the element type {part.dtype}"


T = TypeVar("T", Affine, Dnf)


class _Walk:
    """Turns syntax trees into formulas; what is not linear is noted in `reasons`."""

    def __init__(self, inputs: Sequence[Declaration], outputs: Sequence[Declaration]) -> None:
        self.reasons: list[str] = []
        self.first: dict[str, int] = {}
        count = 0
        for part in (*inputs, *outputs):
            self.first[part.name] = count
            count += part.size

    def formula(self, node: Any) -> Dnf:
        kind = type(node).__name__
        if kind in ("And", "Or"):
            parts = [self.formula(child) for child in node.args]
            return conjunction(parts) if kind == "And" else disjunction(parts)
        if kind in COMPARED:
            return compared(COMPARED[kind], self.value(node.lhs), self.value(node.rhs))
        return self._refused(f"a formula of kind {kind}: {node}", [])

    def value(self, node: Any) -> Affine:
        kind = type(node).__name__
        if kind == "Var":
            return self._variable(node)
        if kind in ("Plus", "Multiply", "Negate", "Minus"):
            return self._arithmetic(kind, node)
        exact = number(getattr(node, "lexeme", ""))  # the parser's own value is rounded
        if exact is None:
            return self._refused(f"a term of kind {kind}: {str(node)[:40]}", Affine({}, Fraction(0)))
        return Affine({}, exact)

    def _arithmetic(self, kind: str, node: Any) -> Affine:
        if kind == "Negate":
            return total([self.value(node.expr)], [-1])
        if kind == "Minus":
            parts = [self.value(node.head), *(self.value(child) for child in node.rest)]
            return total(parts, [1] + [-1] * (len(parts) - 1))
        parts = [self.value(child) for child in node.args]
        if kind == "Plus":
            return total(parts, [1] * len(parts))
        result = times(parts)
        return self._refused(f"a product of variables: {node}", Affine({}, Fraction(0))) if result is None else result

    def _variable(self, node: Any) -> Affine:
        shape, index = tuple(node.shape), 0
        for at, size in zip(node.indices, shape, strict=True):
            index = index * size + at
        if node.name not in self.first or not index < max(1, prod(shape)):
            return self._refused(f"the variable {node}", Affine({}, Fraction(0)))
        return Affine({self.first[node.name] + index: Fraction(1)}, Fraction(0))

    def _refused(self, reason: str, value: T) -> T:
        self.reasons.append(reason)
        return value
