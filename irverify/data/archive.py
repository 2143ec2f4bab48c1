"""NumPy archives of images and labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from irverify.data.dataset import DataSet, checked
from irverify.errors import FileError


def read_npz(name: str, file: Path) -> DataSet:
    """All images of an archive. FileError where it is none, or holds something else."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("images", "labels", "valid_range") if key in archive}
    except FileNotFoundError as error:
        raise FileError("no such file", where=name) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, TypeError, AttributeError) as error:
        raise FileError(f"not a NumPy archive of plain arrays: {error}", where=name) from error
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        raise FileError(f"expected arrays images and labels, got none named {' or '.join(missing)}", where=name)
    limits = np.asarray(arrays.get("valid_range", np.array([0.0, 1.0])))
    if limits.shape != (2,) or not limits[0] < limits[1]:
        raise FileError(f"expected valid_range to be two ascending numbers, got {limits.tolist()}", where=name)
    return checked(name, arrays["images"], arrays["labels"], (float(limits[0]), float(limits[1])), "all")
