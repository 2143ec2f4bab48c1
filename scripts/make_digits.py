"""Writes irverify/assets/digits.npz: the 1,797 handwritten digits of scikit-learn, in a fixed order.

    python scripts/make_digits.py

A fifth of each class, drawn once, is the test part. The file holds the training part first, then the test part, both
shuffled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parents[1] / "irverify" / "assets" / "digits.npz"


def main() -> None:
    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    assert np.array_equal(images, source.images)
    generator = np.random.default_rng(0)
    train: list[int] = []
    test: list[int] = []
    for digit in range(10):
        members = generator.permutation(np.flatnonzero(labels == digit))
        held_out = round(len(members) / 5)
        test.extend(members[:held_out].tolist())
        train.extend(members[held_out:].tolist())
    order = np.concatenate([generator.permutation(train), generator.permutation(test)])
    np.savez_compressed(TARGET, images=images[order], labels=labels[order], train=np.int64(len(train)))
    print(f"{TARGET}: {len(train)} + {len(test)} digits, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
