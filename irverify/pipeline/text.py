"""The pipeline text: `canonicalize,fuse-linear{elide=false},ibp`. Parsed and checked without importing torch.

pipeline := step ("," step)*          (or nothing: the empty pipeline)
step     := name [ "{" [ option ("," option)* ] "}" ]
option   := name "=" value
value    := a word, a number, true, false, none, or a string in double quotes with JSON escapes
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from irverify.errors import UsageError
from irverify.pipeline.catalog import Entry, Option, Value, find, print_value

_TOKEN = re.compile(r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<word>[^\s,{}="]+)|(?P<mark>[,{}=])|(?P<end>$))""")
_PLAIN = re.compile(r'[^\s,{}="]+')


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline with the options that are set, in the order of the pass's own listing."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}{{{','.join(f'{name}={_printed(value)}' for name, value in self.options)}}}"


def parse_pipeline(text: str) -> tuple[Step, ...]:
    """The steps of a pipeline text. Raises UsageError for bad syntax, unknown passes and options, and wrong types."""
    return _Reader(text).pipeline()


def print_pipeline(steps: Iterable[object]) -> str:
    """The text of steps (or of passes, which print as their step)."""
    return ",".join(map(str, steps))


def _printed(value: Value) -> str:
    plain = print_value(value)
    ambiguous = isinstance(value, str) and plain in ("none", "true", "false")
    return plain if _PLAIN.fullmatch(plain) and not ambiguous else json.dumps(plain)


class _Reader:
    """Recursive descent over the tokens of one pipeline text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._token = self._next()

    def _next(self) -> re.Match[str]:
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            raise self._error("a name, a value or one of , { } =", self._position)
        self._position = match.end()
        return match

    def _error(self, expected: str, at: int | None = None) -> UsageError:
        column = self._start() if at is None else at
        got = repr(self._text[column:].strip()) if self._text[column:].strip() else "the end"
        hint = 'a pipeline reads "fold-batchnorm,crown{lower=adaptive}"'
        return UsageError(f"expected {expected}, got {got}", where=f"pipeline, column {column + 1}", hint=hint)

    def _start(self) -> int:
        return self._token.start(str(self._token.lastgroup))

    def _take(self, kind: str, what: str) -> str:
        if self._token.lastgroup != kind:
            raise self._error(what)
        taken = self._token[kind]
        self._token = self._next()
        return taken

    def _accept(self, mark: str) -> bool:
        if self._token.lastgroup != "mark" or self._token["mark"] != mark:
            return False
        self._token = self._next()
        return True

    def pipeline(self) -> tuple[Step, ...]:
        if self._token.lastgroup == "end":
            return ()
        steps = [self._step()]
        while self._accept(","):
            steps.append(self._step())
        if self._token.lastgroup != "end":
            raise self._error("a comma or the end")
        return tuple(steps)

    def _step(self) -> Step:
        entry = find(self._take("word", "the name of a pass"))
        given: dict[str, Value] = {}
        if self._accept("{"):
            while not self._accept("}"):
                self._option(entry, given)
                if not self._accept(","):
                    if not self._accept("}"):
                        raise self._error("a comma or }")
                    break
        ordered = tuple((option.name, given[option.name]) for option in entry.options if option.name in given)
        return Step(entry.name, ordered)

    def _option(self, entry: Entry, given: dict[str, Value]) -> None:
        at = self._start()
        option = entry.option(self._take("word", "the name of an option"))
        if option.name in given:
            raise self._error(f"each option of {entry.name} once", at)
        if not self._accept("="):
            raise self._error(f"= and a value for option {option.name}")
        quoted = self._token.lastgroup == "string"
        raw = self._take("string" if quoted else "word", f"a value for option {option.name}")
        given[option.name] = read_value(entry, option, json.loads(raw) if quoted else raw, quoted=quoted)


def read_value(entry: Entry, option: Option, text: str, *, quoted: bool = False) -> Value:
    """The value that `text` spells for an option. Raises UsageError where it is of another type."""
    if option.optional and text == "none" and not quoted:
        return None
    try:
        if option.choices:
            return option.choices[option.choices.index(text)]
        if option.type == "str":
            return text
        if option.type == "bool":
            return {"true": True, "false": False}[text]
        number = int(text) if option.type == "int" else float(text)
        if quoted or math.isnan(number):
            raise ValueError
    except (ValueError, KeyError):
        wanted = f"one of {', '.join(option.choices)}" if option.choices else _WORDS[option.type]
        wanted += " or none" if option.optional else ""
        where = f"pass {entry.name}"
        raise UsageError(f"expected {wanted} for option {option.name}, got {text!r}", where=where) from None
    return number


_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a string"}
