"""The images that a network is trained on, and those that it is tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from irverify.data import DataSet, Part, load_dataset
from irverify.errors import UsageError


@dataclass(frozen=True)
class Images:
    """A training part and a test part of one data set."""

    train: DataSet
    test: DataSet

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, without batch axis."""
        return self.train.images.shape[1:]

    @property
    def classes(self) -> int:
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1

    @property
    def fingerprint(self) -> str:
        """Tells whether two runs train on the same images in the same order."""
        digest = hashlib.sha256()
        for array in (self.train.images, self.train.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def load_images(text: str, part: Part, held_out: float, seed: int) -> Images:
    """The data set that `text` names: trained on its training part and tested on its test part where `part` is "train"
    and it has both; otherwise the share `held_out` of that part, drawn by `seed`, is tested on and the rest trained on.

    Raises as `load_dataset`; UsageError where a part would be empty.
    """
    chosen = load_dataset(text, part)
    if part == "train" and chosen.part == "train":
        return Images(chosen, load_dataset(text, "test"))
    count = round(held_out * len(chosen))
    if not 0 < count < len(chosen):
        raise UsageError(
            f"expected images to train on and images to test on, got {len(chosen)} of which {count} are held out",
            where=text,
        )
    order = np.random.default_rng(seed).permutation(len(chosen))
    return Images(chosen.select(order[count:]), chosen.select(order[:count]))
