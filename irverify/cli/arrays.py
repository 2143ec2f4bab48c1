"""NumPy archives of bounds: for each value of a graph the arrays VALUE.lower and VALUE.upper."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from irverify.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("lower", "upper")


def read_bounds(file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(lower, upper) by the name of the value, float64. FileError where a side is missing or is no array of numbers."""
    import numpy
    import torch

    found: dict[str, dict[str, Tensor]] = {}
    try:
        with numpy.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                value, _, side = key.rpartition(".")
                if value and side in SIDES:
                    array = numpy.asarray(archive[key], dtype=numpy.float64)
                    found.setdefault(value, {})[side] = torch.from_numpy(array)
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot be read as an archive of arrays: {error}", where=str(file)) from error
    single = [value for value, sides in found.items() if len(sides) == 1]
    if single or not found:
        got = f"one side of {', '.join(single)}" if single else "none"
        raise FileError(f"expected arrays VALUE.lower and VALUE.upper, got {got}", where=str(file))
    return {value: (sides["lower"], sides["upper"]) for value, sides in found.items()}


def write_arrays(file: Path, arrays: Mapping[str, Tensor]) -> None:
    """Writes an archive. FileError where that is impossible."""
    import numpy

    plain = {name: numpy.asarray(tensor.detach().cpu().numpy()) for name, tensor in arrays.items()}
    try:
        with file.open("wb") as stream:
            numpy.savez_compressed(stream, allow_pickle=False, **plain)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(file)) from error
