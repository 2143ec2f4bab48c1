"""Tables of recipes as TOML: reading, replacing entries, writing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from irverify.errors import FileError, ParseError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


NESTED = ("terms", "pruning")
"""Tables of named tables."""
NAMED = frozenset({"loss", "prune"})
"""What such a named table has, one of these, and a schedule does not."""


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file. FileError where it cannot be read, ParseError where it is no TOML."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise FileError("no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot be read: {error}", where=str(path)) from error


def parse_toml(text: str, place: str) -> dict[str, object]:
    """The tables of a TOML text. ParseError, with the place that it comes from, where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParseError(f"not TOML: {error}", where=place) from error


def merged(table: Mapping[str, object], changes: object, depth: int = 0) -> dict[str, object]:
    """A table with the entries of another in place of its own: whole values, such as a schedule, not parts of them."""
    if not isinstance(changes, Mapping):
        raise UsageError(f"expected a table, got {changes!r}")
    result = dict(table)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and (depth == 0 or not NAMED.isdisjoint(old)):
            result[key] = merged(old, value, depth + 1)
        else:
            result[key] = value
    return result


def write_toml(table: Mapping[str, object]) -> str:
    """TOML text of a recipe's table, which reads back as the same table."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if not isinstance(value, Mapping):
            continue
        nested = {name: part for name, part in value.items() if key in NESTED and isinstance(part, Mapping)}
        plain = {name: part for name, part in value.items() if name not in nested}
        if plain:
            lines += ["", f"[{key}]", *(f"{name} = {_value(part)}" for name, part in plain.items())]
        for name, part in nested.items():
            lines += ["", f"[{key}.{_key(name)}]", *(f"{entry} = {_value(given)}" for entry, given in part.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items()) + " }"
    return _quoted(str(value))


def _key(name: str) -> str:
    plain = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    return name if plain else _quoted(name)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
