"""The images that a network is trained on, and those that it is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from irverify.data import DataSet, Part, divided, load_dataset

USUAL = 0.2
"""The share that is held out where nobody says and there is no test part."""


@dataclass(frozen=True)
class Images:
    """A training part and a test part of one data set, and what is kept of the training part for terms that adapt.
    There are `least_classes` classes even where none of these images has the last one."""

    train: DataSet
    test: DataSet
    validation: DataSet | None = None
    least_classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, without batch axis."""
        return self.train.images.shape[1:]

    @property
    def classes(self) -> int:
        return max(self.least_classes, int(max(self.train.labels.max(), self.test.labels.max())) + 1)

    def of(self, rows: Sequence[int]) -> Images:
        """The same, with these images alone to train on, and classes as before."""
        return replace(self, train=self.train.select(rows), least_classes=self.classes)

    @property
    def fingerprint(self) -> str:
        """Tells whether two runs train on the same images in the same order."""
        digest = hashlib.sha256()
        for array in (self.train.images, self.train.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def load_images(text: str, part: Part, held_out: float | None, validation: float | None = None) -> Images:
    """The data set that `text` names: with `held_out`, so many images of the part (or such a share, see
    `irverify.data.divided`) are tested on and the rest trained on. Without it the training part is tested on the test
    part, and of anything else a fifth is held out. With `validation`, so many of the images to train on are kept apart.

    Raises as `load_dataset` and `divided`.
    """
    train = load_dataset(text, part)
    if held_out is None and train.part == "train":
        test = load_dataset(text, "test")
    else:
        train, test = divided(train, USUAL if held_out is None else held_out)
    if validation is None:
        return Images(train, test)
    train, kept = divided(train, validation)
    return Images(train, test, kept)
