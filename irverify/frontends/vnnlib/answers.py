"""Answers to queries as text: the witness of VNN-COMP, the assignment of VNN-LIB 2.0, and its serialised form.

Numbers are printed exactly, digit by digit: what is read back lies in the box of the query as the witness did. `point`
is the exact input (see `Query.witness`), `outputs` what the model gave for it, both flattened, hidden values last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from irverify.errors import FileError, PropertyError
from irverify.properties import Declaration, Query

Numbers: TypeAlias = "Sequence[Fraction] | Sequence[float] | Tensor"


def witness_text(query: Query, point: Numbers, outputs: Numbers) -> str:
    """The witness that VNN-COMP wants behind `sat`: ((X_0 v) ... (Y_0 v) ...), one pair a line."""
    x, y = _flat(point), _flat(outputs)
    count = sum(declaration.size for declaration in query.outputs)
    if len(x) != query.n_in or len(y) != query.n_out:
        raise PropertyError(f"expected {query.n_in} inputs and {query.n_out} outputs, got {len(x)} and {len(y)}")
    lines = [f"(X_{index} {decimal(value)})" for index, value in enumerate(x)]
    lines += [f"(Y_{index} {decimal(value)})" for index, value in enumerate(y[:count])]
    return "(" + "\n".join(lines) + ")"


def assignment_text(query: Query, point: Numbers, outputs: Numbers) -> str:
    """The assignment that VNN-LIB 2.0 wants behind `sat`: for every declared tensor its name, type and shape, then its
    elements in row-major order, one a line."""
    lines = []
    for declaration, values in _assigned(query, point, outputs):
        shape = ",".join(map(str, declaration.shape))
        lines.append(f"{declaration.name} {declaration.dtype} [{shape}]")
        lines += [str(int(value)) if _whole(declaration) else decimal(value) for value in values]
    return "\n".join(lines)


def serialise_assignment(query: Query, point: Numbers, outputs: Numbers, folder: str | Path) -> tuple[Path, ...]:
    """Writes NAME.pb, a serialised ONNX TensorProto, for every declared tensor and says where; `real` is double."""
    from onnx import TensorProto, helper  # a heavy import that no other answer needs

    types = {
        "real": TensorProto.DOUBLE,
        "float64": TensorProto.DOUBLE,
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
    }
    files = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for declaration, values in _assigned(query, point, outputs):
            kind = types.get(declaration.dtype) or TensorProto.DataType.Value(declaration.dtype.upper())
            numbers = [int(value) if _whole(declaration) else float(value) for value in values]
            tensor = helper.make_tensor(declaration.name, kind, declaration.shape, numbers)
            files.append(Path(folder) / f"{declaration.name}.pb")
            files[-1].write_bytes(tensor.SerializeToString())
    except OSError as error:
        raise FileError(f"cannot write the assignment: {error.strerror}", where=str(folder)) from error
    return tuple(files)


def _assigned(query: Query, point: Numbers, outputs: Numbers) -> Iterator[tuple[Declaration, Sequence[Fraction]]]:
    """The declared tensors in the order of the standard (inputs, hidden values, outputs) with their elements."""
    x, y = _flat(point), _flat(outputs)
    if len(x) != query.n_in or len(y) != query.n_out:
        raise PropertyError(f"expected {query.n_in} inputs and {query.n_out} outputs, got {len(x)} and {len(y)}")
    values = dict(zip(query.inputs, _split(x, query.inputs), strict=True))
    results = (*query.outputs, *query.hidden)
    values |= zip(results, _split(y, results), strict=True)
    for declaration in (*query.inputs, *query.hidden, *query.outputs):
        yield declaration, values[declaration]


def _split(values: Sequence[Fraction], declarations: Sequence[Declaration]) -> Iterator[Sequence[Fraction]]:
    start = 0
    for declaration in declarations:
        yield values[start : start + declaration.size]
        start += declaration.size


def _flat(values: Numbers) -> list[Fraction]:
    listed = values.detach().double().flatten().tolist() if isinstance(values, Tensor) else values
    try:
        return [Fraction(value) for value in listed]
    except (ValueError, OverflowError):
        raise PropertyError("an assignment of numbers that are not finite") from None


def _whole(declaration: Declaration) -> bool:
    return "int" in declaration.dtype


def decimal(value: Fraction) -> str:
    """A fraction as a decimal number without exponent: exact, or where it has infinitely many digits, to 60 places."""
    denominator = value.denominator
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives, 1) if rest == 1 else 60
    digits = str(abs(value.numerator) * 10**places // denominator).rjust(places + 1, "0")
    whole, fraction = digits[:-places], digits[-places:].rstrip("0") or "0"
    return f"{'-' if value < 0 else ''}{whole}.{fraction}"
