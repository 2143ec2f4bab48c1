"""Data sets: the embedded digits, MNIST files and NumPy archives made by hand, and what can be wrong with them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from irverify.data import ASSETS, DataSet, digits, load_dataset
from irverify.errors import FileError, UsageError


def test_digits_are_whole_and_in_order() -> None:
    whole, train, test = digits(), digits("train"), digits("test")
    assert (len(whole), len(train), len(test)) == (1797, 1438, 359)
    assert whole.images.shape == (1797, 1, 8, 8)
    assert whole.images.dtype == np.float32
    assert whole.labels.dtype == np.int64
    assert whole.valid_range == (0.0, 1.0)
    assert np.array_equal(whole.images, np.concatenate([train.images, test.images]))
    assert np.array_equal(whole.labels, np.concatenate([train.labels, test.labels]))
    assert np.array_equal(np.unique(whole.images), np.arange(17) / 16)
    assert np.bincount(whole.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert set(np.bincount(test.labels).tolist()) == {35, 36, 37}


def test_train_and_test_digits_are_different_ones() -> None:
    train = {image.tobytes() for image in digits("train").images}
    assert not any(image.tobytes() in train for image in digits("test").images)


def test_assets_are_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 1_000_000


def test_digits_by_name_are_the_test_part() -> None:
    assert np.array_equal(load_dataset("digits").images, digits("test").images)
    assert len(load_dataset("digits", "all")) == 1797


def test_select() -> None:
    chosen = digits("test").select([5, 2])
    assert np.array_equal(chosen.labels, digits("test").labels[[5, 2]])
    assert np.array_equal(chosen.images[1], digits("test").images[2])
    with pytest.raises(UsageError, match="digits: no image 359: expected 0 to 358"):
        digits("test").select([0, 359])
    with pytest.raises(UsageError, match="no image -1"):
        digits("test").select([-1])


@pytest.mark.parametrize("text", ["mnist", "mnist:", "npz:", "digits:8", "cifar:here", ""])
def test_unknown_data_set(text: str) -> None:
    with pytest.raises(UsageError, match="expected digits, mnist:DIR or npz:FILE"):
        load_dataset(text)


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


IMAGES = np.arange(2 * 3 * 2, dtype=np.uint8).reshape(2, 3, 2) * 20
LABELS = np.array([7, 1], np.uint8)
IMAGE_FILE, LABEL_FILE = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    (tmp_path / f"{IMAGE_FILE}.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / LABEL_FILE).write_bytes(idx(LABELS))
    return tmp_path


def test_mnist(mnist: Path) -> None:
    loaded = load_dataset(f"mnist:{mnist}")
    assert loaded.images.shape == (2, 1, 3, 2)
    assert loaded.images[1, 0].tolist() == (IMAGES[1].astype(np.float32) / np.float32(255)).tolist()
    assert loaded.labels.tolist() == [7, 1]
    assert loaded.part == "test"


def test_mnist_all_is_train_then_test(mnist: Path) -> None:
    (mnist / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:1]))
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:1])))
    assert load_dataset(f"mnist:{mnist}", "train").labels.tolist() == [7]
    assert load_dataset(f"mnist:{mnist}", "all").labels.tolist() == [7, 7, 1]


def test_mnist_missing(mnist: Path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        load_dataset(f"mnist:{mnist / 'elsewhere'}")
    with pytest.raises(FileError, match=r"neither train-images-idx3-ubyte\.gz nor train-images-idx3-ubyte is in"):
        load_dataset(f"mnist:{mnist}", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with 00000803, got "),
        (idx(LABELS), "starts with 00000803, got 00000801"),
        (idx(IMAGES)[:12], "truncated: expected a header of 16 bytes, got 12"),
        (idx(IMAGES)[:-1], "expected 2 x 3 x 2 values after the header, got 11"),
        (idx(IMAGES) + b"x", "expected 2 x 3 x 2 values after the header, got 13"),
        (idx(IMAGES[:1]), "expected a label for each image, got 1 images, 2 labels"),
        (idx(IMAGES[:0]), "expected a label for each image, got 0 images, 2 labels"),
    ],
)
def test_mnist_broken(mnist: Path, content: bytes, message: str) -> None:
    (mnist / f"{IMAGE_FILE}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(FileError, match=message):
        load_dataset(f"mnist:{mnist}")


@pytest.mark.parametrize("cut", [0, 5, -4])
def test_mnist_broken_compression(mnist: Path, cut: int) -> None:
    file = mnist / f"{IMAGE_FILE}.gz"
    file.write_bytes(b"\x00" * 20 if cut == 0 else file.read_bytes()[:cut])
    with pytest.raises(FileError, match="cannot be read"):
        load_dataset(f"mnist:{mnist}")


def saved(folder: Path, **arrays: npt.ArrayLike) -> DataSet:
    np.savez(folder / "data.npz", allow_pickle=True, **{key: np.asarray(value) for key, value in arrays.items()})
    return load_dataset(f"npz:{folder / 'data.npz'}")


def test_npz_bytes(tmp_path: Path) -> None:
    loaded = saved(tmp_path, images=IMAGES, labels=LABELS)
    assert loaded.images.shape == (2, 1, 3, 2)
    assert float(loaded.images[1, 0, 2, 1]) == float(np.float32(220) / np.float32(255))
    assert loaded.part == "all"


def test_npz_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    loaded = saved(tmp_path, images=[[-1.5, 0.25], [2.0, 0.0]], labels=[0, 3], valid_range=[-2, 2])
    assert loaded.images.tolist() == [[-1.5, 0.25], [2.0, 0.0]]
    assert loaded.valid_range == (-2.0, 2.0)
    assert loaded.labels.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "got none named labels"),
        ({"pictures": IMAGES}, "got none named images or labels"),
        ({"images": IMAGES, "labels": [7]}, "got 2 images, 1 labels"),
        ({"images": [0.5], "labels": [7]}, r"got \[1\] and \[1\]"),
        ({"images": IMAGES, "labels": [[7, 1]]}, r"got \[2, 3, 2\] and \[1, 2\]"),
        ({"images": IMAGES, "labels": [0.5, 1]}, "integers from 0, got float64"),
        ({"images": IMAGES, "labels": [-1, 1]}, "integers from 0, got int64 -1"),
        ({"images": IMAGES.astype(np.int32), "labels": LABELS}, "uint8 or floating-point numbers, got int32"),
        ({"images": [[0.0, 1.5]], "labels": [1]}, r"expected values in \[0.0, 1.0\], got 0.0 to 1.5"),
        ({"images": [[0.0, np.nan]], "labels": [1]}, "got nan to nan"),
        ({"images": [[0.0]], "labels": [1], "valid_range": [1, 0]}, "two ascending numbers"),
        ({"images": [[0.0]], "labels": [1], "valid_range": [0, np.nan]}, "two ascending numbers"),
        ({"images": np.array([None, 1]), "labels": [1, 2]}, "not a NumPy archive of plain arrays"),
    ],
)
def test_npz_broken(tmp_path: Path, arrays: dict[str, npt.ArrayLike], message: str) -> None:
    with pytest.raises(FileError, match=message):
        saved(tmp_path, **arrays)


def test_npz_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    with pytest.raises(FileError, match="no such file"):
        load_dataset(f"npz:{file}")
    np.savez(file, images=IMAGES, labels=LABELS)
    for content in (b"", b"hello, world", file.read_bytes()[:150]):
        file.write_bytes(content)
        with pytest.raises(FileError, match="not a NumPy archive of plain arrays"):
            load_dataset(f"npz:{file}")
    np.save(tmp_path / "array.npy", IMAGES)
    with pytest.raises(FileError, match="not a NumPy archive of plain arrays"):
        load_dataset(f"npz:{tmp_path / 'array.npy'}")
    with pytest.raises(FileError, match="not a NumPy archive of plain arrays"):
        load_dataset(f"npz:{tmp_path}")
