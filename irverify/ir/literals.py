"""Attribute values in the text form: tokens, numbers, tuples, inline tensors, and the types that fields declare."""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Union

import numpy
import torch
from torch import Tensor

from irverify.errors import GraphError, ParseError
from irverify.ir.ops import Operator
from irverify.ir.params import Derived
from irverify.ir.types import DTYPE_NAMES, DTYPES

TOKEN = re.compile(
    r"""(?P<skip>[ \t\r\n]+|\#[^\n]*)
      | (?P<source>;[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*")
      | %(?P<value>[A-Za-z0-9_][A-Za-z0-9_.$-]*)
      | @(?P<reference>[A-Za-z0-9_][A-Za-z0-9_.$-]*)
      | (?P<type>[a-z]+[0-9]*\[[0-9, ]*\])
      | (?P<number>-?(?:(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?|inf\b|nan\b))
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>[(){}\[\]:=,])""",
    re.VERBOSE,
)
MAX_DEPTH = 16
"""Tuples and lists nest no deeper than this."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int


def at(line: int, message: str, hint: str | None = None) -> ParseError:
    """The error for what stands in a line of the text."""
    return ParseError(message, where=f"line {line}", hint=hint)


def tokens(text: str) -> Iterator[Token]:
    """The tokens of `text`, then one of kind `end`. Raises ParseError at a character that starts none."""
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise at(line, f"expected a token, got {text[position]!r}")
        kind = str(match.lastgroup)
        if kind != "skip":
            yield Token(kind, match.group(kind), line)
        line += text.count("\n", position, match.end())
        position = match.end()
    yield Token("end", "end of text", line)


class TokenReader:
    """A cursor over tokens."""

    def __init__(self, text: str) -> None:
        self._tokens = list(tokens(text))
        self._position = 0

    @property
    def next(self) -> Token:
        return self._tokens[self._position]

    def take(self) -> Token:
        token = self.next
        self._position = min(self._position + 1, len(self._tokens) - 1)
        return token

    def accept(self, text: str) -> bool:
        """Takes the next token if it is this word or mark."""
        found = self.next.kind in ("word", "mark") and self.next.text == text
        if found:
            self.take()
        return found

    def expect(self, text: str) -> Token:
        if self.next.kind not in ("word", "mark") or self.next.text != text:
            raise self.error(repr(text))
        return self.take()

    def expect_kind(self, kind: str, what: str) -> Token:
        if self.next.kind != kind:
            raise self.error(what)
        return self.take()

    def error(self, expected: str) -> ParseError:
        return at(self.next.line, f"expected {expected}, got {self.next.text!r}")


def read_string(reader: TokenReader, what: str) -> str:
    token = reader.expect_kind("string", what)
    try:
        return str(json.loads(token.text))
    except ValueError as error:
        raise at(token.line, f"expected {what} with JSON escapes, got {token.text}") from error


def read_literal(reader: TokenReader, depth: int = 0) -> Any:
    """A number, True, False, None, an element type, a tuple or a list of these."""
    if depth > MAX_DEPTH:
        raise reader.error(f"at most {MAX_DEPTH} brackets inside one another")
    token = reader.next
    if token.kind == "number":
        return _number(reader.take())
    if token.kind == "word" and token.text in _WORDS:
        return _WORDS[reader.take().text]
    if reader.accept("("):
        entries = []
        while not reader.accept(")"):
            entries.append(read_literal(reader, depth + 1))
            if not reader.accept(","):
                reader.expect(")")
                if len(entries) == 1:
                    return entries[0]
                break
        return tuple(entries)
    if reader.accept("["):
        entries = []
        while not reader.accept("]"):
            entries.append(read_literal(reader, depth + 1))
            if not reader.accept(","):
                reader.expect("]")
                break
        return entries
    raise reader.error("a value")


_WORDS: dict[str, Any] = {"True": True, "False": False, "None": None, **DTYPES}


def _number(token: Token) -> int | float:
    try:
        return int(token.text) if re.fullmatch(r"-?\d+", token.text) else float(token.text)
    except ValueError as error:  # more digits than Python converts
        raise at(token.line, "expected a shorter number") from error


def read_tensor(reader: TokenReader, dtype: torch.dtype) -> Tensor:
    """`tensor([[1, 2], [3, 4]])` in the given element type, or `tensor([0, 2], i64)` in its own."""
    line = reader.expect("tensor").line
    reader.expect("(")
    entries = read_literal(reader)
    if reader.accept(","):
        name = reader.expect_kind("word", "an element type").text
        if name not in DTYPES:
            raise at(line, f"expected an element type ({', '.join(DTYPES)}), got {name!r}")
        dtype = DTYPES[name]
    reader.expect(")")
    try:
        if not dtype.is_floating_point and not _all_whole(entries):
            raise ValueError("an entry that is no whole number")
        return torch.tensor(entries, dtype=dtype)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise at(line, f"expected nested lists of numbers of one length each: {error}") from error


def _all_whole(entries: Any) -> bool:
    return all(map(_all_whole, entries)) if isinstance(entries, list) else isinstance(entries, int)


def print_literal(literal: Any) -> str:
    """What `read_literal` reads back as the same value. Raises GraphError for other types."""
    if literal is None or isinstance(literal, bool):
        return str(literal)
    if isinstance(literal, int):
        return int.__repr__(literal)
    if isinstance(literal, float):
        return float.__repr__(literal)
    if isinstance(literal, torch.dtype) and literal in DTYPE_NAMES:
        return DTYPE_NAMES[literal]
    if isinstance(literal, tuple):
        entries = [print_literal(entry) for entry in literal]
        return f"({entries[0]},)" if len(entries) == 1 else f"({', '.join(entries)})"
    raise GraphError(f"expected an attribute made of numbers, truth values, types and tuples, got {literal!r}")


def print_tensor(tensor: Tensor, default: torch.dtype) -> str:
    """What `read_tensor` reads back as the same tensor; the element type is left out where it is `default`."""
    suffix = "" if tensor.dtype == default else f", {DTYPE_NAMES[tensor.dtype]}"
    return f"tensor({_entries(tensor.detach().cpu().tolist(), tensor.dtype)}{suffix})"


def _entries(entries: Any, dtype: torch.dtype) -> str:
    if isinstance(entries, list):
        return f"[{', '.join(_entries(entry, dtype) for entry in entries)}]"
    if dtype == torch.float32 and math.isfinite(entries):
        short = str(numpy.float32(entries))  # 0.1, not 0.10000000149011612
        if float(numpy.float32(float(short))) == entries:
            return short
    return repr(entries)


@cache
def declared_types(operator: type[Operator]) -> dict[str, Any]:
    """The types of an operator's fields, by name, in order."""
    hints = typing.get_type_hints(operator)
    return {name: hints[name] for name in operator.__dataclass_fields__}  # type: ignore[attr-defined]


def has_type(candidate: object, hint: Any) -> bool:
    """Whether an attribute is of its declared type: a class, a union, `tuple[x, y]` or `tuple[x, ...]`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(has_type(candidate, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(candidate, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(has_type(entry, arguments[0]) for entry in candidate)
        return len(candidate) == len(arguments) and all(map(has_type, candidate, arguments))
    if hint is float:
        return isinstance(candidate, int | float) and not isinstance(candidate, bool)
    if hint is int:
        return isinstance(candidate, int) and not isinstance(candidate, bool)
    return isinstance(candidate, hint)


def type_words(hint: Any) -> str:
    """A declared type in words, for messages."""
    if hint is types.NoneType:
        return "None"
    if hint in (Tensor, Derived):
        return "a tensor"
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_words, arguments)))
    if typing.get_origin(hint) is tuple:
        return "(" + ", ".join("..." if argument is Ellipsis else type_words(argument) for argument in arguments) + ")"
    return str(getattr(hint, "__name__", hint))
