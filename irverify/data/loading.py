"""Data sets by the names that the command line takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from irverify.data.archive import read_npz
from irverify.data.cifar10 import read_cifar10
from irverify.data.dataset import DataSet, Part
from irverify.data.embedded import digits
from irverify.data.idx import read_mnist
from irverify.errors import UsageError

KNOWN = "digits, mnist:DIR, fashion:DIR, cifar10:DIR or npz:FILE"
_READERS: dict[str, Callable[[str, Path, Part], DataSet]] = {
    "mnist": read_mnist,
    "fashion": read_mnist,
    "cifar10": read_cifar10,
    "npz": lambda name, file, part: read_npz(name, file),
}


def load_dataset(text: str, part: Part = "test") -> DataSet:
    """The data set that `digits`, `mnist:DIR`, `fashion:DIR`, `cifar10:DIR` or `npz:FILE` names. An npz file has no
    parts: it is taken whole.

    UsageError for another name; FileError where files are missing or hold something else.
    """
    kind, _, place = text.partition(":")
    if text == "digits":
        return digits(part)
    if kind in _READERS and place:
        return _READERS[kind](text, Path(place), part)
    raise UsageError(f"unknown data set {text!r}: expected {KNOWN}")
