"""The files of MNIST and Fashion-MNIST: arrays of bytes in the IDX format."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from irverify.data.dataset import DataSet, Part, checked
from irverify.errors import FileError


def read_mnist(name: str, folder: Path, part: Part) -> DataSet:
    """A part of the images in a folder. FileError where a file is missing or broken."""
    if not folder.is_dir():
        raise FileError("no such folder", where=name)
    prefixes = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[part]
    images = [_idx(folder, f"{prefix}-images-idx3-ubyte", 3) for prefix in prefixes]
    labels = [_idx(folder, f"{prefix}-labels-idx1-ubyte", 1) for prefix in prefixes]
    return checked(name, np.concatenate(images), np.concatenate(labels), (0.0, 1.0), part)


def _idx(folder: Path, stem: str, axes: int) -> npt.NDArray[np.uint8]:
    """An array of bytes in MNIST's IDX format: 0, 0, type 8, number of axes; each size as four bytes; the values."""
    dotted = ".idx".join(stem.rsplit("-idx", 1))  # as some copies are called
    names = (f"{stem}.gz", stem, f"{dotted}.gz", dotted)
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise FileError(f"neither {stem}.gz nor {stem} is in this folder", where=str(folder))
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"cannot be read: {error}", where=str(file)) from error
    if content[:4] != bytes((0, 0, 8, axes)):
        expected = f"0000080{axes}"
        raise FileError(f"expected an IDX file that starts with {expected}, got {content[:4].hex()}", where=str(file))
    start = 4 + 4 * axes
    if len(content) < start:
        raise FileError(f"truncated: expected a header of {start} bytes, got {len(content)}", where=str(file))
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise FileError(f"expected {sizes} values after the header, got {len(content) - start}", where=str(file))
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
