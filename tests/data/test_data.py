"""Data sets: the embedded digits, MNIST files and NumPy archives made by hand, and what can be wrong with them."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from irverify.cli.options import SETS
from irverify.data import ASSETS, KNOWN, DataSet, digits, divided, load_dataset
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


@pytest.mark.parametrize("held_out", [0.25, 450])
def test_images_that_are_held_out(held_out: float) -> None:
    whole = digits("all")
    rest, held = divided(whole, held_out)
    count = 449 if held_out < 1 else 450
    assert (len(rest), len(held)) == (1797 - count, count)
    joined = np.concatenate([rest.images, held.images]).reshape(1797, -1)
    assert sorted(map(bytes, joined)) == sorted(map(bytes, whole.images.reshape(1797, -1)))
    assert not np.array_equal(rest.labels, whole.labels[: len(rest)])  # shuffled
    assert np.array_equal(divided(whole, held_out)[1].images, held.images)


@pytest.mark.parametrize("held_out", [0.0, -1, 1.5, 1797, 1e-5, float("nan"), float("inf")])
def test_parts_that_would_be_empty(held_out: float) -> None:
    with pytest.raises(UsageError, match=r"expected (a share below 1 or|some of 1797 images)"):
        divided(digits("all"), held_out)


@pytest.mark.parametrize("text", ["mnist", "mnist:", "npz:", "digits:8", "cifar:here", "cifar10:", "fashion", ""])
def test_unknown_data_set(text: str) -> None:
    with pytest.raises(UsageError, match="expected digits, mnist:DIR, fashion:DIR, cifar10:DIR or npz:FILE"):
        load_dataset(text)
    assert SETS == KNOWN  # what --help says


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


def write_cifar10(folder: Path, protocol: int, labels: object = None) -> npt.NDArray[np.uint8]:
    """Six files of two images each; the images of all of them."""
    images = np.random.default_rng(0).integers(0, 256, (12, 3072)).astype(np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for place, name in enumerate(names):
        content = {
            b"data": images[2 * place : 2 * place + 2],
            b"labels": [place, 9] if labels is None else labels,
            b"filenames": [b"a.png", b"b.png"],
            b"batch_label": b"one of six",
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return images


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10(tmp_path: Path, protocol: int) -> None:
    images = write_cifar10(tmp_path, protocol)
    train, test = (load_dataset(f"cifar10:{tmp_path}", part) for part in ("train", "test"))
    assert train.images.shape == (10, 3, 32, 32)
    assert np.array_equal(train.images[3, 2, 1], images[3].reshape(3, 32, 32)[2, 1] / np.float32(255))
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert test.labels.tolist() == [5, 9]


def test_cifar10_as_python_2_wrote_it(tmp_path: Path) -> None:
    """Protocol 2 with byte strings and the old name of NumPy's multiarray module."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x01M\x00\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T\x00\x0c\x00\x00" + b"\x07" * 3072 + b"tb"
    )
    (tmp_path / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x03eu.")
    found = load_dataset(f"cifar10:{tmp_path}")
    assert found.labels.tolist() == [3]
    assert np.unique(found.images).tolist() == [np.float32(7) / np.float32(255)]


def test_cifar10_with_columns_first(tmp_path: Path) -> None:
    images = np.asfortranarray(np.random.default_rng(1).integers(0, 256, (2, 3072)).astype(np.uint8))
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": images, "labels": [1, 2]}, 2))
    assert np.array_equal(load_dataset(f"cifar10:{tmp_path}").images.reshape(2, -1), images / np.float32(255))


def test_binary_cifar10(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3072)).astype(np.uint8)
    records = np.concatenate([np.array([[3], [9]], np.uint8), images], axis=1)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    found = load_dataset(f"cifar10:{tmp_path}")
    assert found.labels.tolist() == [3, 9]
    assert np.array_equal(found.images.reshape(2, -1), images / np.float32(255))
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes()[:-1])
    with pytest.raises(FileError, match="expected records of 3073 bytes, got 6145 bytes"):
        load_dataset(f"cifar10:{tmp_path}")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Evil(), "not a batch of CIFAR-10: it asks for posix.system, which a batch of images does not need"),
        ([1], "expected 1 images of 3072 bytes"),
        ([1.5, 2], "with data and labels"),
        ([1, 10], "expected labels from 0 to 9, got 10"),
        ([1, -(2**70)], "expected labels from 0 to 9, got -1"),
        (np.array([1, 2]), "with data and labels"),
    ],
)
def test_cifar10_that_is_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path, 2, labels)
    with pytest.raises(FileError, match=message):
        load_dataset(f"cifar10:{tmp_path}")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02.", b"\x80\x02}.", b"\x80\x02K\x01."])
def test_broken_cifar10(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FileError, match=r"neither test_batch nor test_batch\.bin is in this folder"):
        load_dataset(f"cifar10:{tmp_path}")
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(FileError, match="test_batch: "):
        load_dataset(f"cifar10:{tmp_path}")


def test_fashion_is_read_as_mnist(tmp_path: Path) -> None:
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">3I", 1, 2, 2) + b"\xff" * 4)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 1) + b"\x07")
    found = load_dataset(f"fashion:{tmp_path}")
    assert (found.images.shape, found.labels.tolist()) == ((1, 1, 2, 2), [7])
