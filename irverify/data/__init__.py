"""Data sets: the handwritten digits that ship with irverify, the files of MNIST and CIFAR-10, and any NumPy archive.

    digits         1,797 grey images of 8x8 pixels (Alpaydin and Kaynak, 1998), 1,438 to train with and 359 to test
    mnist:DIR      a folder with the files of MNIST (`t10k-images-idx3-ubyte.gz` and so on, gzipped or not)
    fashion:DIR    the files of Fashion-MNIST, which have the same names
    cifar10:DIR    a folder with the files of CIFAR-10, of its "python version" (`data_batch_1` to `5`, `test_batch`) or
                   of its "binary version" (the same names with `.bin`)
    npz:FILE       arrays `images` [n, c, h, w], [n, h, w] or [n, k], and `labels` [n]; optionally `valid_range` [2]

Images come in the raw units that a perturbation radius is measured in: bytes are divided by 255 (the digits' grey
levels by 16), floating-point numbers are taken as they are. Nothing is normalised; that belongs into the network.
"""

from __future__ import annotations

from irverify.data.dataset import DataSet, Part, divided
from irverify.data.embedded import ASSETS, DIGITS_EPS, DIGITS_NETWORK, digits
from irverify.data.loading import KNOWN, load_dataset

__all__ = ["ASSETS", "DIGITS_EPS", "DIGITS_NETWORK", "KNOWN", "DataSet", "Part", "digits", "divided", "load_dataset"]
