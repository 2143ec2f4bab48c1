"""S-expressions: the surface of VNN-LIB 1.0. No recursion, so that neither depth nor length of a file matters."""

from __future__ import annotations

import re
from fractions import Fraction

from irverify.errors import ParseError

TOKEN = re.compile(r'[()]|;[^\n]*|"[^"]*"|\|[^|]*\||[^\s();"|]+|["|]')
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,9}))?")
LONGEST = 1000
"""How many digits or powers of ten a number may have."""


class Group(list["Group | str"]):
    """What stands between two parentheses; `at` is the place of the opening one in the text."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


def read(text: str, source: str) -> list[Group]:
    """All top-level groups of a text; comments are left out. ParseError for parentheses that do not match."""
    top = Group(0)
    open_groups = [top]
    for match in TOKEN.finditer(text):
        token = match.group()
        if token == "(":
            group = Group(match.start())
            open_groups[-1].append(group)
            open_groups.append(group)
        elif token == ")":
            if len(open_groups) == 1:
                raise ParseError("a closing parenthesis too many", where=place(text, match.start(), source))
            open_groups.pop()
        elif token in {'"', "|"}:
            raise ParseError(f"{token} is never closed", where=place(text, match.start(), source))
        elif token[0] != ";":
            open_groups[-1].append(token)
    if len(open_groups) > 1:
        raise ParseError("this parenthesis is never closed", where=place(text, open_groups[-1].at, source))
    groups = [item for item in top if isinstance(item, Group)]
    if len(groups) < len(top):
        stray = next(item for item in top if isinstance(item, str))
        raise ParseError(f"expected only commands in parentheses, got {stray[:40]!r}", where=source)
    return groups


def place(text: str, at: int, source: str) -> str:
    """A position in words, for messages."""
    return f"{source}, line {text.count(chr(10), 0, at) + 1}"


def number(lexeme: str) -> Fraction | None:
    """The exact value of a decimal number, with or without exponent; None for what is none, or is absurdly long."""
    match = NUMBER.fullmatch(lexeme)
    if match is None or len(lexeme) > LONGEST or abs(int(match[1] or 0)) > LONGEST:
        return None
    return Fraction(lexeme)
