"""Models as files: MPS (free format), LP (CPLEX's), MathOpt protos.

The text formats are written here because OR-Tools' own exporters print coefficients with six digits, which is another
model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from scipy import sparse

from irverify.backends.milp.model import Floats, MilpModel
from irverify.errors import FileError, UsageError

COST = "COST"
STEP = 4096
"""Columns or rows that are turned into text at a time."""


def write(model: MilpModel, path: str | os.PathLike[str]) -> None:
    """Writes `model` by the suffix of `path`: .mps, .lp or .pb (binary MathOpt `ModelProto`); all digits are kept.

    Raises UsageError for another suffix, FileError where the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[MilpModel], Iterable[bytes]]] = {".mps": _mps, ".lp": _lp, ".pb": _proto}
    if path.suffix.lower() not in writers:
        raise UsageError(f"expected a file name in {', '.join(writers)}, got {path.name!r}", where=str(path))
    try:
        with path.open("wb") as file:
            file.writelines(writers[path.suffix.lower()](model))
    except OSError as error:
        raise FileError(f"cannot write the model: {error.strerror or error}", where=str(path)) from error


def _proto(model: MilpModel) -> Iterator[bytes]:
    from irverify.backends.milp.protos import to_proto  # OR-Tools is not needed for the other formats

    yield to_proto(model, names=True).SerializeToString()


def _mps(model: MilpModel) -> Iterator[bytes]:
    return (f"{line}\n".encode() for line in _mps_lines(model))


def _mps_lines(model: MilpModel) -> Iterator[str]:
    names, row_names = model.variable_names(), model.row_names()
    equal = model.row_lower == model.row_upper
    at_least, at_most = np.isfinite(model.row_lower), np.isfinite(model.row_upper)
    kinds = np.select([equal, at_least, at_most], ["E", "G", "L"], "N")
    yield from ("NAME irverify", "ROWS", f" N {COST}")
    yield from (f" {kind} {name}" for kind, name in zip(kinds.tolist(), row_names, strict=True))
    yield "COLUMNS"
    yield from _mps_columns(model, names, row_names)
    yield "RHS"
    if model.offset:
        yield f" RHS {COST} {-model.offset!r}"
    sides = np.where(at_least, model.row_lower, np.where(at_most, model.row_upper, 0.0))
    yield from _entries(" RHS ", row_names, sides, sides != 0)
    yield "RANGES"
    with np.errstate(invalid="ignore"):
        widths = model.row_upper - model.row_lower
    yield from _entries(" RANGE ", row_names, widths, at_least & at_most & ~equal)
    yield "BOUNDS"  # each variable has both bounds written out: readers differ in what they assume
    for name, low, high in zip(names, model.lower.tolist(), model.upper.tolist(), strict=True):
        if low == high:
            yield f" FX BOUND {name} {low!r}"
        elif low == -np.inf and high == np.inf:
            yield f" FR BOUND {name}"
        else:
            yield f" MI BOUND {name}" if low == -np.inf else f" LO BOUND {name} {low!r}"
            yield f" PL BOUND {name}" if high == np.inf else f" UP BOUND {name} {high!r}"
    yield "ENDATA"


def _mps_columns(model: MilpModel, names: list[str], row_names: list[str]) -> Iterator[str]:
    """The entries column by column, integer columns between markers."""
    costs = sparse.csr_array(model.objective[None, :])
    columns = sparse.csc_array(sparse.vstack([costs, model.rows]))
    rows = [COST, *row_names]
    changes = np.flatnonzero(np.diff(model.integer.astype(np.int8), prepend=0, append=0)).tolist()
    edges = sorted({*range(0, len(names), STEP), *changes, len(names)})
    for start, stop in pairwise(edges):
        if start in changes:
            yield f" MARKER{start} 'MARKER' '{'INTORG' if model.integer[start] else 'INTEND'}'"
        part = slice(columns.indptr[start], columns.indptr[stop])
        owners = np.repeat(np.arange(start, stop), np.diff(columns.indptr[start : stop + 1])).tolist()
        entries = zip(owners, columns.indices[part].tolist(), columns.data[part].tolist(), strict=True)
        yield from (f" {names[column]} {rows[row]} {value!r}" for column, row, value in entries)
        unused = np.flatnonzero(np.diff(columns.indptr[start : stop + 1]) == 0) + start
        yield from (f" {names[column]} {COST} 0.0" for column in unused.tolist())
    if len(names) in changes:
        yield f" MARKER{len(names)} 'MARKER' 'INTEND'"


def _entries(prefix: str, names: list[str], values: Floats, which: np.ndarray) -> Iterator[str]:
    places = np.flatnonzero(which)
    return (
        f"{prefix}{names[at]} {value!r}" for at, value in zip(places.tolist(), values[places].tolist(), strict=True)
    )


def _lp(model: MilpModel) -> Iterator[bytes]:
    return (f"{line}\n".encode() for line in _lp_lines(model))


def _lp_lines(model: MilpModel) -> Iterator[str]:
    names = [_lp_name(name) for name in model.variable_names()]
    yield from (r"\ irverify", "Minimize")
    used = np.flatnonzero(model.objective)
    terms = [f"{model.objective[at]:+.17g} {names[at]}" for at in used.tolist()]
    offset = f" {model.offset:+.17g}" if model.offset else ""
    yield f" {COST}: {' '.join(terms) if terms else f'0 {names[0]}' if names else ''}{offset}"
    yield "Subject To"
    yield from _lp_rows(model, names)
    yield "Bounds"
    for name, low, high in zip(names, model.lower.tolist(), model.upper.tolist(), strict=True):
        if low == -np.inf and high == np.inf:
            yield f" {name} free"
        else:
            yield f" {_lp_number(low)} <= {name} <= {_lp_number(high)}"
    whole = np.flatnonzero(model.integer).tolist()
    yield from chain(["Generals"], (f" {names[at]}" for at in whole)) if whole else ()
    yield "End"


def _lp_rows(model: MilpModel, names: list[str]) -> Iterator[str]:
    """A row with two different finite sides is written as two rows, since not every reader knows them otherwise."""
    matrix = model.rows
    row_names = [_lp_name(name) for name in model.row_names()]
    ends = matrix.indptr.tolist()
    for at, (low, high) in enumerate(zip(model.row_lower.tolist(), model.row_upper.tolist(), strict=True)):
        part = slice(ends[at], ends[at + 1])
        values, columns = matrix.data[part].tolist(), matrix.indices[part].tolist()
        terms = [f"{value:+.17g} {names[column]}" for value, column in zip(values, columns, strict=True)]
        left = "\n  ".join(" ".join(terms[start : start + 8]) for start in range(0, len(terms), 8))
        left = left or f"0 {names[0]}"
        if low == high:
            yield f" {row_names[at]}: {left} = {low!r}"
            continue
        both = np.isfinite(low) and np.isfinite(high)
        for side, relation, suffix in ((low, ">=", ".low"), (high, "<=", ".high")):
            if np.isfinite(side):
                yield f" {row_names[at]}{suffix if both else ''}: {left} {relation} {side!r}"


def _lp_name(name: str) -> str:
    """A name that no reader takes for a number: 7(0) and e1(0) get an underscore in front."""
    return f"_{name}" if re.match(r"[0-9.]|[eE][0-9]", name) else name


def _lp_number(value: float) -> str:
    return repr(value) if np.isfinite(value) else f"{value:+}"
