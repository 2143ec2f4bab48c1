"""VNN-LIB: queries of version 1.0 and 2.0, and their answers."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

from irverify.errors import FileError
from irverify.frontends.vnnlib import version1, version2
from irverify.frontends.vnnlib.answers import assignment_text, serialise_assignment, witness_text
from irverify.properties import Query

__all__ = ["assignment_text", "parse_query", "parse_text", "serialise_assignment", "witness_text"]

SECOND = re.compile(r"(?:\s|;[^\n]*\n)*\(\s*(?:vnnlib-version\s*<\s*(?!1\.)|declare-network)")


def parse_query(path: str | os.PathLike[str]) -> Query:
    """The query that a VNN-LIB file (also gzipped) states; what it begins with tells version 1.0 from 2.0.

    Numbers are exact. Raises FileError for a file that cannot be read, ParseError, UnsupportedError (listing
    everything), PropertyError, and RegionError for inputs that are unbounded or cannot exist.
    """
    source = os.fspath(path)
    try:
        content = Path(source).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return parse_text(content.decode("utf-8"), source)
    except UnicodeDecodeError:
        raise FileError("the file is not text", where=source) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileError(f"the file is broken: {error}", where=source) from None
    except OSError as error:
        raise FileError(f"cannot read the file: {error.strerror}", where=source) from None


def parse_text(text: str, source: str = "query") -> Query:
    """The query of a text; `source` names it in messages."""
    return version2.parse(text, source) if SECOND.match(text) else version1.parse(text, source)
