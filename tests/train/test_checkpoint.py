"""Checkpoints: what is told of files that are broken, or those of something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from irverify.errors import FileError
from irverify.train.checkpoint import FILE, load_checkpoint
from irverify.train.recipe import parse_recipe
from tests.train.recipes import small_trainer, table


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    small_trainer(folder, parse_recipe(table(epochs=1))).run()
    return (folder / FILE).read_bytes()


def opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_broken_checkpoint(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FileError, match="expected a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(FileError, match="not a checkpoint, or a broken one"):
        load_checkpoint(tmp_path)


def test_truncated_checkpoint(tmp_path: Path, written: bytes) -> None:
    (tmp_path / FILE).write_bytes(written[:-7])
    with pytest.raises(FileError, match="not a checkpoint, or a broken one"):
        load_checkpoint(tmp_path)


SPOILT: list[tuple[str, tuple[int, ...] | None, str]] = [
    ("optimiser.1.exp_avg", (3,), r"optimiser.1.exp_avg is \[3\], expected \[100\]"),
    ("optimiser.9.exp_avg", (3,), "optimiser.9 is for a parameter that is not there"),
    ("optimiser.0.step", None, "optimiser.0 has exp_avg, exp_avg_sq, expected exp_avg, exp_avg_sq, step"),
    ("weights.1.weight", (2,), r"weights.1.weight is \[2\], expected \[100, 64\]"),
    ("weights.1.bias", None, "weights.1.bias is in one of them alone"),
]


@pytest.mark.parametrize(("name", "shape", "message"), SPOILT)
def test_checkpoint_of_another_network(
    tmp_path: Path, written: bytes, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    (tmp_path / FILE).write_bytes(written)
    tensors, metadata = opened(tmp_path / FILE)
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, tmp_path / FILE, metadata)
    trainer = small_trainer(tmp_path, parse_recipe(table(epochs=1)))
    before = [tensor.clone() for tensor in trainer.network.state_dict().values()]
    with pytest.raises(FileError, match=f"does not fit network and optimiser of its recipe: {message}"):
        trainer.resume(load_checkpoint(tmp_path))
    assert all(map(torch.equal, trainer.network.state_dict().values(), before))


FACTS = [{"epoch": 2}, {"epoch": 0, "rows": []}, {"step": "ten"}, {"rows": [{}]}, {"part": 1}]


@pytest.mark.parametrize("entry", FACTS)
def test_checkpoint_whose_facts_are_none(tmp_path: Path, written: bytes, entry: dict[str, object]) -> None:
    (tmp_path / FILE).write_bytes(written)
    state = json.loads(opened(tmp_path / FILE)[1]["irverify.state"])
    save_file({}, tmp_path / FILE, {"irverify.checkpoint": "1", "irverify.state": json.dumps(state | entry)})
    with pytest.raises(FileError, match="not a checkpoint, or a broken one: expected"):
        load_checkpoint(tmp_path)
