"""Data sets: the handwritten digits that ship with irverify, MNIST's files, and any NumPy archive.

    digits         1,797 grey images of 8x8 pixels (Alpaydin and Kaynak, 1998), 1,438 to train with and 359 to test
    mnist:DIR      a folder with the files of MNIST (`t10k-images-idx3-ubyte.gz` and so on, gzipped or not)
    npz:FILE       arrays `images` [n, c, h, w], [n, h, w] or [n, k], and `labels` [n]; optionally `valid_range` [2]

Images come in the raw units that a perturbation radius is measured in: bytes are divided by 255 (the digits' grey
levels by 16), floating-point numbers are taken as they are. Nothing is normalised; that belongs into the network.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from irverify.errors import FileError, UsageError

Part: TypeAlias = Literal["train", "test", "all"]
AnyArray: TypeAlias = npt.NDArray[np.generic]

ASSETS = Path(__file__).resolve().parent / "assets"
DIGITS_NETWORK = ASSETS / "digits.onnx"
"""The residual network that ships with irverify, for the digits; `irverify/assets/README.md` says how it was made."""
DIGITS_EPS = 0.08
"""The l-infinity radius, in raw units, at which the demonstration asks whether that network is robust."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images.

    images: float32 [n, c, h, w] (or [n, k]), inside valid_range; labels: int64 [n], not negative; valid_range: the
    lowest and the highest value of an input, inside which perturbed inputs are kept; part: which part of the whole.
    """

    name: str
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    valid_range: tuple[float, float] = (0.0, 1.0)
    part: Part = "all"

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: npt.ArrayLike) -> DataSet:
        """The images at these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if outside.size:
            raise UsageError(f"no image {outside[0]}: expected 0 to {len(self) - 1}", where=self.name)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


def digits(part: Part = "all") -> DataSet:
    """The embedded handwritten digits: images [n, 1, 8, 8], grey levels 0, 1/16, ..., 1. "all" is train, then test."""
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as archive:
        images, labels, train = archive["images"], archive["labels"], int(archive["train"])
    rows = {"train": slice(0, train), "test": slice(train, None), "all": slice(None)}[part]
    pixels = images[rows, None].astype(np.float32) / np.float32(16)
    return DataSet("digits", pixels, labels[rows].astype(np.int64), part=part)


def load_dataset(text: str, part: Part = "test") -> DataSet:
    """The data set that `digits`, `mnist:DIR` or `npz:FILE` names. An npz file has no parts: it is taken whole."""
    kind, _, place = text.partition(":")
    if text == "digits":
        return digits(part)
    if kind == "mnist" and place:
        return _mnist(text, Path(place), part)
    if kind == "npz" and place:
        return _npz(text, Path(place))
    raise UsageError(f"unknown data set {text!r}: expected digits, mnist:DIR or npz:FILE")


def _data_set(name: str, images: AnyArray, labels: AnyArray, valid_range: tuple[float, float], part: Part) -> DataSet:
    """Checks what came out of a file, and brings it into raw units and the types of `DataSet`."""
    if images.ndim not in (2, 3, 4) or labels.ndim != 1:
        raise FileError(
            f"expected images [n, c, h, w], [n, h, w] or [n, k] and labels [n], got {list(images.shape)} and "
            f"{list(labels.shape)}",
            where=name,
        )
    if len(images) != len(labels) or not images.size:
        raise FileError(f"expected a label for each image, got {len(images)} images, {len(labels)} labels", where=name)
    if not np.issubdtype(labels.dtype, np.integer) or labels.astype(np.int64).min() < 0:
        raise FileError(f"expected labels that are integers from 0, got {labels.dtype} {labels.min()}", where=name)
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif not np.issubdtype(images.dtype, np.floating):
        raise FileError(f"expected images as uint8 or floating-point numbers, got {images.dtype}", where=name)
    low, high = valid_range
    if not (images.min() >= low and images.max() <= high):  # false for NaN
        raise FileError(
            f"expected values in [{low}, {high}], got {images.min()} to {images.max()}",
            where=name,
            hint="an array valid_range [2] in the file says what is allowed",
        )
    if images.ndim == 3:
        images = images[:, None]
    return DataSet(name, images.astype(np.float32), labels.astype(np.int64), valid_range, part)


def _mnist(name: str, folder: Path, part: Part) -> DataSet:
    if not folder.is_dir():
        raise FileError("no such folder", where=name)
    prefixes = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[part]
    images = [_idx(folder, f"{prefix}-images-idx3-ubyte", 3) for prefix in prefixes]
    labels = [_idx(folder, f"{prefix}-labels-idx1-ubyte", 1) for prefix in prefixes]
    return _data_set(name, np.concatenate(images), np.concatenate(labels), (0.0, 1.0), part)


def _idx(folder: Path, stem: str, axes: int) -> npt.NDArray[np.uint8]:
    """An array of bytes in MNIST's IDX format: 0, 0, type 8, number of axes; each size as four bytes; the values."""
    file = next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)
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


def _npz(name: str, file: Path) -> DataSet:
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
    return _data_set(name, arrays["images"], arrays["labels"], (float(limits[0]), float(limits[1])), "all")
