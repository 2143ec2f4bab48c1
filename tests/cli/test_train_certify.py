"""What `irverify train` leaves, through `irverify certify`: batch norms and normalisation in the graph, bounds and
exact search, both files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irverify.train.toml import write_toml
from tests.cli.conftest import Irverify
from tests.train.recipes import table

EPS = 0.01
METHODS = ("ibp", "crown", "exact")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from irverify.cli.process import execute

    folder = tmp_path_factory.mktemp("trained")
    recipe = table({"robust": {"loss": "ibp", "kappa": 0.5}}, network="digits-resnet")
    recipe["network"] = {"name": "digits-resnet", "mean": [0.3], "std": [0.35]}
    recipe["training"] = {"eps": {"from": 0.0, "to": EPS, "end": 2}, "epochs": 5, "batch": 50}
    recipe["optimiser"] = {"rate": 1e-2}
    (folder / "recipe.toml").write_text(write_toml(recipe))
    asked = ["train", "--config", str(folder / "recipe.toml"), "--data", "digits", "--out", str(folder / "run")]
    assert execute([*asked, "--part", "test", "--held-out", "59"]) == 0  # 300 images are enough
    return folder / "run"


def test_every_method_on_both_files(trained: Path, irverify: Irverify) -> None:
    asked = ("--data", "digits", "--eps", EPS, "--first", 6, "--json")

    def said(model: str, method: str) -> Any:
        ran = irverify("certify", trained / model, *asked, "--method", method, *_workers(method))
        assert ran.code == 0, ran.err
        return ran.json

    found = {method: said("model.onnx", method) for method in METHODS}
    certified = {method: _with(content, "certified") for method, content in found.items()}
    assert certified["ibp"]
    for method in METHODS:
        assert certified[method] <= certified["exact"], method
        assert not certified[method] & _with(found["exact"], "falsified")
        assert found[method]["correct"] == found["exact"]["correct"] >= 5
        assert found[method]["error"] == 0
    assert _with(said("model.safetensors", "ibp"), "certified") == certified["ibp"]


def _workers(method: str) -> tuple[object, ...]:
    return ("--workers", 1, "--timeout", 60) if method == "exact" else ()


def _with(content: Any, status: str) -> set[int]:
    return {image["index"] for image in content["per_image"] if image["status"] == status}
