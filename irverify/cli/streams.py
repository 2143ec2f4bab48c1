"""Where things go: results to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from irverify import __version__
from irverify.errors import FileError


def write(text: str) -> None:
    """Writes a result, and the line end that it may lack."""
    if sys.stdout is None:
        raise FileError("cannot write the result: standard output is closed")
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")


def note(text: str) -> None:
    """Says something to the person in front of the terminal; nobody there is no error."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"irverify: {text}\n")
            sys.stderr.flush()


def write_file(path: Path, text: str) -> None:
    """Writes a text file. FileError where that is impossible."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def encode(schema: str, content: Mapping[str, object]) -> str:
    """One JSON object: its schema, the version of irverify, the content. Numbers that are not finite become null."""
    whole = {"schema": f"irverify/{schema}/1", "version": __version__, **content}
    return json.dumps(_plain(whole), allow_nan=False, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
