"""`irverify train`: a run from end to end, going on from a checkpoint, and mistakes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from irverify.train.toml import write_toml
from tests.cli.conftest import Irverify
from tests.train.recipes import table


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "small.toml"
    recipe = table(network="digits-small")
    file.write_text(write_toml({**recipe, "training": {"eps": 0.02, "epochs": 1, "batch": 100}}))
    return file


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from irverify.cli.process import execute

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert execute(["train", "--config", str(config), "--data", "digits", "--out", str(folder)]) == 0
    return folder


def test_what_a_run_leaves(trained: Path, irverify: Irverify) -> None:
    left = {file.name for file in trained.iterdir()}
    assert {"model.onnx", "model.safetensors", "recipe.toml", "log.csv", "curves.png", "checkpoint.safetensors"} <= left
    for model in ("model.onnx", "model.safetensors"):
        ran = irverify("certify", trained / model, "--data", "digits", "--eps", 0, "--first", 20, "--method", "ibp")
        assert ran.code == 0, ran.err


def test_the_recipe_that_is_left_is_one(trained: Path, irverify: Irverify, tmp_path: Path) -> None:
    ran = irverify("train", "--config", trained / "recipe.toml", "--data", "digits", "--out", tmp_path, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["network"] == "digits-small"
    assert (tmp_path / "recipe.toml").read_text() == (trained / "recipe.toml").read_text()
    assert (tmp_path / "model.onnx").read_bytes() == (trained / "model.onnx").read_bytes()


def test_resume(trained: Path, irverify: Irverify, tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "model.onnx").unlink()
    assert irverify("train", "--resume", folder).code == 0
    assert (folder / "model.onnx").read_bytes() == (trained / "model.onnx").read_bytes()
    ran = irverify("train", "--resume", folder, "--config", config, "--seed", 5)
    assert (ran.code, ran.out) == (1, "")
    assert "the recipe is not that of the checkpoint" in ran.err


def test_says_what_was_pruned(config: Path, irverify: Irverify, tmp_path: Path) -> None:
    file = tmp_path / "pruned.toml"
    file.write_text(f'{config.read_text()}\n[pruning.small]\nprune = "weights"\nsparsity = 0.5\nat = 1\n')
    ran = irverify("train", "--config", file, "--data", "digits", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert re.search(r"accuracy [\d.]+%; \d+ pruned weights$", ran.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "digits"), "expected --out"),
        (("--out", "{out}"), "expected --data"),
        (("--out", "{out}", "--data", "digits"), "expected the name of a recipe"),
        (("--out", "{out}", "--data", "digits", "--recipe", "magic"), "unknown recipe 'magic'"),
        (("--out", "{out}", "--data", "digits", "--recipe", "standard", "--part", "some"), "expected --part train"),
        (("--out", "{out}", "--data", "mnist:{out}/no", "--recipe", "standard"), "no such folder"),
        (("--resume", "{out}/no"), "expected a checkpoint (checkpoint.safetensors), found none"),
    ],
)
def test_mistakes(irverify: Irverify, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    ran = irverify("train", *(argument.replace("{out}", str(tmp_path)) for argument in arguments))
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err


def test_a_folder_with_a_run_is_left_alone(trained: Path, irverify: Irverify) -> None:
    ran = irverify("train", "--recipe", "standard", "--data", "digits", "--out", trained)
    assert ran.code == 1
    assert f"--resume {trained} goes on from it" in ran.err


def test_another_run_is_not_overwritten_by_one_that_goes_on(trained: Path, irverify: Irverify, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "other")
    ran = irverify("train", "--resume", trained, "--out", tmp_path / "other")
    assert ran.code == 1
    assert "a run has left its checkpoint in this folder" in ran.err


def test_images_that_are_held_out_can_be_certified(config: Path, irverify: Irverify, tmp_path: Path) -> None:
    again = ("--part", "test", "--held-out", 59)
    ran = irverify("train", "--config", config, "--data", "digits", "--out", tmp_path, *again)
    assert ran.code == 0, ran.err
    assert "on 59 test images" in ran.out or "on 10 test images" in ran.out
    found = irverify(
        "certify", tmp_path / "model.onnx", "--data", "digits", "--eps", 0, "--method", "ibp", "--json", *again
    )
    assert (found.json["n"], found.json["held_out"]) == (59, 59)
    clean = re.search(r"clean accuracy ([0-9.]+)%", ran.out)
    assert clean is not None
    assert float(clean[1]) == pytest.approx(100 * found.json["correct"] / 59, abs=0.1)
    ran = irverify("train", "--resume", tmp_path, "--held-out", 59)
    assert (ran.code, "go with --recipe" in ran.err) == (1, True)
