"""`irverify train --stages`, and `irverify certify` on the cascade that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from irverify.certify import load_cascade
from irverify.certify.fingerprint import network
from irverify.train.toml import write_toml
from tests.cli.conftest import Irverify
from tests.train.recipes import table


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "small.toml"
    file.write_text(write_toml({**table(), "training": {"eps": 0.004, "epochs": 1, "batch": 100}}))
    return file


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from irverify.cli.process import execute

    folder = tmp_path_factory.mktemp("trained") / "run"
    code = execute(["train", "--config", str(config), "--data", "digits", "--out", str(folder), "--stages", "2"])
    assert code == 0
    return folder


def test_what_a_cascade_leaves_can_be_certified(trained: Path, irverify: Irverify) -> None:
    left = {file.name for file in trained.iterdir()}
    assert left == {"cascade.safetensors", "cascade.json", "recipe.toml", "stage1", "stage2"}
    asked = ("--data", "digits", "--eps", "0.004", "--first", "30", "--json")
    said = irverify("certify", trained / "cascade.safetensors", *asked).json
    assert (said["n"], said["stages"], said["trained_eps"]) == (30, 2, 0.004)
    alone = irverify("certify", trained / "stage1" / "model.safetensors", *asked, "--method", "ibp").json
    first = said["per_stage"][0]
    assert (first["correct_up_to_here"], first["certified_up_to_here"]) == (alone["correct"], alone["certified"])


def test_going_on(trained: Path, irverify: Irverify) -> None:
    before = load_cascade(trained / "cascade.safetensors")
    (trained / "cascade.safetensors").unlink()
    ran = irverify("train", "--resume", trained / "stage2", "--json")
    assert ran.code == 0, ran.err
    after = load_cascade(trained / "cascade.safetensors")
    assert [network(graph) for graph in after.stages] == [network(graph) for graph in before.stages]
    assert after.about == before.about
    said = ran.json
    assert said["schema"] == "irverify/train-cascade/1"
    first, second = said["stages"]
    assert first["images"] == 1438
    assert second["images"] == first["left"] == first["images"] - first["certified"]
    assert said["test"]["n"] == 10
    ran = irverify("train", "--resume", trained)
    assert "trained on" in ran.out
    assert "no verdict about the cascade as a whole" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stages", "2", "--out", "{run}", "--data", "digits", "--recipe", "ibp"), "--resume {run} goes on"),
        (("--stages", "2", "--out", "{run}/new", "--recipe", "ibp"), "expected --data"),
        (("--stages", "2", "--resume", "{run}/new"), "expected the folder of a cascade in training"),
        (("--stages", "1", "--resume", "{run}"), "expected at least the 2 stages"),
        (("--resume", "{run}", "--out", "{run}/new"), "leave --out out"),
        (("--resume", "{run}", "--seed", "4"), "--seed"),
        (("--stages", "0", "--out", "{run}/new"), "--stages"),
    ],
)
def test_mistakes(irverify: Irverify, trained: Path, arguments: tuple[str, ...], message: str) -> None:
    ran = irverify("train", *(argument.replace("{run}", str(trained)) for argument in arguments))
    assert (ran.code, ran.out) == (1, "")
    assert message.replace("{run}", str(trained)) in ran.err
