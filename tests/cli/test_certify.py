"""`irverify certify`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from irverify.certify import ByAnalysis
from irverify.cli.numbers import Numbers
from irverify.cli.regions import Perturbation
from irverify.cli.sweeps import Job, Recipe
from irverify.data import DIGITS_NETWORK
from irverify.errors import UsageError
from tests.cli.conftest import Irverify

COMMON = ("certify", DIGITS_NETWORK, "--data", "digits")


def test_json(irverify: Irverify) -> None:
    ran = irverify(*COMMON, "--eps", "0.03", "--method", "crown", "--first", "12", "--batch", "5", "--json")
    assert ran.code == 0
    said = ran.json
    assert said["schema"] == "irverify/certify/1"
    assert (said["method"], said["clip"], said["eps"]) == ("crown", [0.0, 1.0], 0.03)
    counts = [said[name] for name in ("certified", "falsified", "unknown", "timeout", "error")]
    assert said["n"] == sum(counts) == 12
    assert said["falsified"] == 12 - said["correct"]
    assert said["certified"] > 0
    assert [image["index"] for image in said["per_image"]] == list(range(12))
    assert said["per_stage"]["crown"]["certified"] == said["certified"]
    assert said["accuracies"] == {
        "test": said["correct"] / 12, "attack": None, "upper": 1 - said["falsified"] / 12,
        "provable": said["certified"] / 12, "unstable": None, "searched": 0, "build_seconds": None,
        "solve_seconds": None,
    }  # fmt: skip
    certified = [image for image in said["per_image"] if image["status"] == "certified"]
    assert all(image["bound"] > image["tolerance"] > 0 for image in certified)


def test_several_radii_share_one_run(irverify: Irverify, tmp_path: Path) -> None:
    ran = irverify(
        *COMMON, "--eps", "0.01,0.3", "--method", "ibp", "--index", "4,2", "--out", tmp_path / "new", "--json"
    )
    runs = ran.json["runs"]
    assert [run["eps"] for run in runs] == [0.01, 0.3]
    assert runs[0]["certified"] >= runs[1]["certified"]
    assert [image["index"] for image in runs[1]["per_image"]] == [4, 2]
    assert json.loads((tmp_path / "new" / "certify.json").read_text()) == ran.json


def test_table_and_progress(irverify: Irverify) -> None:
    ran = irverify(*COMMON, "--eps", "0.01", "--method", "ibp", "--first", "3", "--dtype", "float32")
    assert ran.code == 0
    assert ran.out.split()[:3] == ["eps", "images", "correct"]
    assert "3 of 3" in ran.err


def test_the_whole_driver_without_a_method(irverify: Irverify) -> None:
    said = irverify(
        *COMMON, "--eps", "0.01,0.08", "--index", "13,3", "--timeout", "20", "--workers", "1", "--json"
    ).json
    assert (said["method"], said["time_limit"]) == ("exact", 20.0)
    for run in said["runs"]:
        assert run["certified"] + run["falsified"] == run["n"] == run["asked"] == 2
        assert [image["index"] for image in run["per_image"]] == [13, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", "0.1", "--method", "canonicalize"), "canonicalize certifies nothing: it gives no bounds"),
        (("--eps", "0.1", "--method", ""), "certifies nothing"),
        (("--eps", "0.1", "--method", "prune-relus,ibp"), "prune-relus would leave another function"),
        (("--eps", "0.1", "--method", "dual-proj"), "dual-proj certifies nothing: an estimate proves nothing"),
        (("--eps", "0.1", "--method", "ibp,singleprop-zero"), "an estimate proves nothing"),
        (("--eps", "0.1", "--method", "crwn"), "did you mean crown"),
        (("--eps", "0.1", "--method", "stability"), "it gives no bounds (there are interval,"),
        (("--eps", "0.1,0.2,0.1", "--method", "ibp"), "expected every radius once"),
        (("--eps", "0.1", "--method", "ibp", "--index", "3,1,3"), "expected every image once, got 3"),
        (("--eps", "0.1", "--method", "ibp", "--workers", "0"), "--workers"),
        (("--eps", "0.1", "--method", "ibp", "--index", "0,359"), "no image 359: expected 0 to 358"),
        (("--eps", "a", "--method", "ibp"), "expected --eps to be numbers"),
        (("--eps", "0.1,-1", "--method", "ibp"), "finite and >= 0"),
        (("--eps", "0.1", "--method", "ibp", "--timeout", "3"), "--timeout is for the whole driver"),
        (("--eps", "0.1", "--method", "ibp", "--attack", "pgd-40"), "--attack is for the whole driver"),
        (("--eps", "0.1", "--method", "ibp", "--solver", "highs"), "--solver is for the whole driver"),
        (("--eps", "0.1", "--attack", "pgd-7"), "expected one of the attacks pgd-40"),
        (("--eps", "0.1", "--solver", "gurobi"), "expected one of the solvers auto"),
        (("--eps", "0.1", "--batch", "3"), "give --method"),
        (("--eps", "0.1", "--method", "ibp", "--dtype", "float16"), "float64 or float32"),
        (("--eps", "0.1", "--method", "ibp", "--device", "cuda:77"), "--device cuda:77 cannot be used"),
        (("--eps", "0.1", "--method", "ibp", "--device", "toaster"), "--device toaster cannot be used"),
        (("--eps", "0.1", "--method", "ibp", "--clip", "0.2,0.8"), "inside the range"),
        (("--eps", "0.1", "--method", "ibp", "--norm", "3"), "expected --norm"),
    ],
)
def test_what_makes_no_sense(irverify: Irverify, arguments: tuple[str, ...], message: str) -> None:
    ran = irverify(*COMMON, *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err


def test_interrupted_with_what_is_decided_so_far(
    irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ByAnalysis._batch

    def interrupted(self: ByAnalysis, images):  # type: ignore[no-untyped-def]
        if 4 in images.indices:
            raise KeyboardInterrupt
        return honest(self, images)

    monkeypatch.setattr(ByAnalysis, "_batch", interrupted)
    ran = irverify(*COMMON, "--eps", "0.1", "--method", "ibp", "--first", "9", "--batch", "2", "--out", tmp_path)
    assert (ran.code, ran.out) == (130, "")
    assert json.loads((tmp_path / "certify.json").read_text())["n"] == 4


def test_a_worker_that_loads_something_else_refuses_it() -> None:
    """A Python model that is made at random, say, or a file that has changed meanwhile."""
    recipe = Recipe(str(DIGITS_NETWORK), Perturbation("digits", 0.1), "ibp", Numbers(), None, None, 0, 1)
    job = Job(recipe, recipe.question(), [0], [0.1])
    assert job.recipe()(0.1).question.eps == 0.1
    with pytest.raises(UsageError, match="a worker process has loaded another network"):
        replace(job.recipe, wanted=Perturbation("digits", 0.1, clip="0,2"))()
