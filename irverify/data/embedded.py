"""The handwritten digits that ship with irverify, and the network for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from irverify.data.dataset import DataSet, Part

ASSETS = Path(__file__).resolve().parents[1] / "assets"
DIGITS_NETWORK = ASSETS / "digits.onnx"
"""The residual network that ships with irverify, for the digits; `irverify/assets/README.md` says how it was made."""
DIGITS_EPS = 0.08
"""The l-infinity radius, in raw units, at which the demonstration asks whether that network is robust."""


def digits(part: Part = "all") -> DataSet:
    """The embedded handwritten digits: images [n, 1, 8, 8], grey levels 0, 1/16, ..., 1. "all" is train, then test."""
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as archive:
        images, labels, train = archive["images"], archive["labels"], int(archive["train"])
    rows = {"train": slice(0, train), "test": slice(train, None), "all": slice(None)}[part]
    pixels = images[rows, None].astype(np.float32) / np.float32(16)
    return DataSet("digits", pixels, labels[rows].astype(np.int64), part=part)
