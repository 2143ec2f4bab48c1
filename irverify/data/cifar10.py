"""The files of CIFAR-10, of its "python version" and of its "binary version"."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from irverify.data.dataset import DataSet, Part, checked
from irverify.errors import FileError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
CLASSES = 10
BINARY = ".bin"
"""What the names of the files end with in the binary version, and not in the other one."""


def read_cifar10(name: str, folder: Path, part: Part) -> DataSet:
    """A part of the images in a folder. FileError where a file is missing or broken; nothing in a file is run."""
    if not folder.is_dir():
        raise FileError("no such folder", where=name)
    train = [f"data_batch_{number}" for number in range(1, 6)]
    stems = {"train": train, "test": ["test_batch"], "all": [*train, "test_batch"]}[part]
    batches = [_batch(folder, stem) for stem in stems]
    images = np.concatenate([images for images, _ in batches]).reshape(-1, *SHAPE)
    return checked(name, images, np.concatenate([labels for _, labels in batches]), (0.0, 1.0), part)


def _batch(folder: Path, stem: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images `[n, 3072]` and labels `[n]` of one file."""
    file = next((path for path in (folder / stem, folder / f"{stem}{BINARY}") if path.is_file()), None)
    if file is None:
        raise FileError(f"neither {stem} nor {stem}{BINARY} is in this folder", where=str(folder))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    images, labels = (_binary if file.suffix == BINARY else _pickled)(content, str(file))
    wrong = labels[(labels < 0) | (labels >= CLASSES)]
    if wrong.size:
        raise FileError(f"expected labels from 0 to {CLASSES - 1}, got {wrong[0]}", where=str(file))
    return images, labels


def _binary(content: bytes, file: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """For each image a byte with the label, then the pixels."""
    if not content or len(content) % (1 + PIXELS):
        raise FileError(f"expected records of {1 + PIXELS} bytes, got {len(content)} bytes", where=file)
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _pickled(content: bytes, file: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """A dictionary with an array `data` and a list `labels`."""
    try:
        found = _Plain(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # broken bytes raise whatever they lead to
        raise FileError(f"not a batch of CIFAR-10: {error}", where=file) from error
    table = found if isinstance(found, dict) else {}
    data, labels = (table.get(key.encode(), table.get(key)) for key in ("data", "labels"))
    if not (isinstance(data, _Array) and isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise FileError("expected a batch of CIFAR-10 with data and labels, got something else", where=file)
    images = data.numbers()
    if images is None or images.shape != (len(labels), PIXELS):
        raise FileError(f"expected {len(labels)} images of {PIXELS} bytes, got something else", where=file)
    return images, np.array([min(max(label, -1), CLASSES) for label in labels], dtype=np.int64)  # no overflow


class _Array:
    """What stands in a pickle where NumPy would make an array: its state, not interpreted yet."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def numbers(self) -> npt.NDArray[np.uint8] | None:
        """The bytes of the array in its shape; None where it is no array of bytes in rows."""
        match self.state:
            case (
                int(),
                (int() as rows, int() as columns),
                _Kind(name=b"u1" | "u1"),
                bool() as turned,
                bytes() as b,
            ) if rows >= 0 and columns >= 0 and len(b) == rows * columns:
                return np.frombuffer(b, np.uint8).reshape((rows, columns), order="F" if turned else "C")
        return None


class _Kind:
    """What stands in a pickle where NumPy would make an element type: its name."""

    def __init__(self, name: object = None, *rest: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and fields, which bytes do not have."""


def _array(*ignored: object) -> _Array:
    return _Array()


def _encoded(text: object, encoding: object = None) -> bytes:
    """Bytes, as Python 3 writes them for readers of Python 2."""
    return str(text).encode("latin-1")


class _Plain(pickle.Unpickler):
    """Reads numbers, text, lists, dictionaries and the outlines of arrays. Any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for one of the few names that a batch of CIFAR-10 needs."""
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _array
            case "numpy", "ndarray":
                return _Array
            case "numpy", "dtype":
                return _Kind
            case "_codecs", "encode":
                return _encoded
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a batch of images does not need")
