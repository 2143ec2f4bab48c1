"""Labelled images as the rest of irverify takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from irverify.errors import FileError, UsageError

Part: TypeAlias = Literal["train", "test", "all"]
AnyArray: TypeAlias = npt.NDArray[np.generic]


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


def divided(whole: DataSet, held_out: float) -> tuple[DataSet, DataSet]:
    """The images that remain, and those that are held out: a share of them below 1, or a number of them.

    Which ones is drawn by a fixed seed, so that whoever divides the same images alike gets the same two parts. Raises
    UsageError where one of them would be empty.
    """
    if not (0 < held_out < 1 or (held_out >= 1 and math.isfinite(held_out) and held_out == int(held_out))):
        raise UsageError(f"expected a share below 1 or a whole number of images to hold out, got {held_out:g}")
    count = round(held_out * len(whole)) if held_out < 1 else int(held_out)
    if not 0 < count < len(whole):
        raise UsageError(f"expected some of {len(whole)} images to be held out, got {count}", where=whole.name)
    order = np.random.default_rng(0).permutation(len(whole))
    return whole.select(order[count:]), whole.select(order[:count])


def checked(name: str, images: AnyArray, labels: AnyArray, valid_range: tuple[float, float], part: Part) -> DataSet:
    """Checks what came out of a file, and brings it into raw units and the types of `DataSet`."""
    if images.ndim not in (2, 3, 4) or labels.ndim != 1:
        raise FileError(
            f"expected images [n, c, h, w], [n, h, w] or [n, k] and labels [n], got {list(images.shape)} and "
            f"{list(labels.shape)}",
            where=name,
        )
    if len(images) != len(labels) or not images.size:
        some = "a label for each image" if len(images) != len(labels) else "images with pixels"
        raise FileError(f"expected {some}, got {len(images)} images, {len(labels)} labels", where=name)
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
