"""`irverify compile --vary` and `--also`: several networks, measured alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from irverify.backends.milp import solve
from irverify.data import DIGITS_NETWORK
from irverify.report.sizes import program_of
from tests.cli.conftest import Irverify, model_of

DIGITS = (DIGITS_NETWORK, "--data", "digits", "--eps", "0.02", "--stats")
PRUNED = ("--passes", "fuse-linear,prune-relus{by=neuron}", "--vary", "prune-relus.share=0,0.4")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `one.onnx`, which says 0 where x1 + x2 > 1, `two.onnx`, 8 times the size, and `data.npz`: three
    points labelled 0, which the last one is not. At eps 0.1 label 0 holds around the first one alone, at 0.9, 0.9."""
    folder = tmp_path_factory.mktemp("curves")
    for name, size in (("one", 1.0), ("two", 8.0)):
        model = model_of([[size, size], [-size, -size]], [-size, size])
        onnx.save(model, folder / f"{name}.onnx")
    images = np.array([[0.9, 0.9], [0.52, 0.52], [0.2, 0.2]], dtype=np.float32)
    np.savez(folder / "data.npz", images=images, labels=np.array([0, 0, 0]), valid_range=(0.0, 1.0))
    return folder


def test_an_option_varies(irverify: Irverify, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    said = irverify("compile", *DIGITS, "--first", "4", *PRUNED, "--picture", picture, "--json").json
    assert (said["schema"], said["along"]) == ("irverify/compile/1", "prune-relus.share")
    few, many = said["curve"]
    assert (few["x"], many["x"]) == (0.0, 0.4)
    assert few["neurons"] > many["neurons"] == many["neurons_before"] - many["pruned"]
    assert few["unstable_in_all"] == pytest.approx(sum(few["unstable"].values()))
    assert 1 >= few["accuracy"] >= few["pgd_accuracy"] >= 0
    assert (few["regions"], few["solved"]) == (4, None)
    assert 0 < few["output_change"] < many["output_change"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_value_is_what_the_pipeline_says(irverify: Irverify) -> None:
    """The same sizes as of `--stats` with the option written out."""
    passes = "fuse-linear,prune-weights{sparsity=0.5,over=network},ibp"
    curve = irverify("compile", *DIGITS, "--passes", passes, "--vary", "prune-weights.sparsity=0.75", "--json").json
    plain = irverify("compile", *DIGITS, "--passes", passes.replace("0.5", "0.75"), "--json").json["after"]
    (point,) = curve["curve"]
    for size in (point, plain):
        del size["program"]["seconds"]
    assert {name: point[name] for name in plain} == plain


def test_words_vary_too(irverify: Irverify, tmp_path: Path) -> None:
    passes = ("--passes", "prune-relus{share=0.2}", "--vary", "prune-relus.by=neuron,channel")
    ran = irverify("compile", *DIGITS, "--first", "4", *passes, "--picture", tmp_path / "a.svg")
    assert ran.code == 0
    rows = [line.split()[0] for line in ran.out.splitlines() if line.strip().startswith(("neuron ", "channel "))]
    assert rows == ["neuron", "channel"] * 3
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_other_networks_on_one_curve(irverify: Irverify, small: Path) -> None:
    over = ("--data", f"npz:{small / 'data.npz'}", "--eps", "0.1", "--first", "3", "--passes", "ibp", "--stats")
    arguments = (small / "one.onnx", *over, "--also", f"2e-4={small / 'two.onnx'}", "--solve", "60")
    said = irverify("compile", *arguments, "--at", "1e-4", "--json").json
    assert [point["x"] for point in said["curve"]] == [1e-4, 2e-4]
    for point in said["curve"]:
        assert point["accuracy"] == pytest.approx(2 / 3)
        assert point["pgd_accuracy"] == pytest.approx(1 / 3)
        solved = point["solved"]
        assert [program["margin"] for program in solved["per_region"]] == ["positive", "not positive", "not positive"]
        assert solved["per_region"][2]["solving"] is None  # the centre itself is misclassified
        assert (solved["positive"], solved["not_positive"], solved["open"], solved["limit"]) == (1, 2, 0, 60.0)
        assert 0 < solved["seconds"] < 60
        assert point["unstable_in_all"] == pytest.approx(2 / 3)  # both neurons, around the middle point alone


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_nothing_is_attacked_where_nothing_is_right(irverify: Irverify, small: Path, norm: str) -> None:
    over = ("--data", f"npz:{small / 'data.npz'}", "--eps", "0.1", "--norm", norm, "--index", "2", "--stats")
    said = irverify("compile", small / "one.onnx", *over, "--also", f"1={small / 'two.onnx'}", "--json").json
    assert [(point["accuracy"], point["pgd_accuracy"]) for point in said["curve"]] == [(0.0, 0.0), (0.0, 0.0)]


def test_the_start_of_a_process_is_no_time_of_a_solver(
    irverify: Irverify, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irverify.report.sizes.solve", lambda *args, **more: replace(solve(*args, **more), seconds=7.0))
    over = ("--data", f"npz:{small / 'data.npz'}", "--eps", "0.1", "--first", "2", "--stats", "--solve", "60")
    said = irverify("compile", small / "one.onnx", *over, "--also", f"1={small / 'two.onnx'}", "--json").json
    assert [point["solved"]["seconds"] for point in said["curve"]] == [7.0, 7.0]


def test_properties_give_regions(irverify: Irverify, models: Path) -> None:
    arguments = ("--passes", "ibp,prune-weights{threshold=0}", "--vary", "prune-weights.threshold=0,2", "--stats")
    said = irverify(
        "compile", models / "relu.onnx", models / "unsat.vnnlib", *arguments, "--solve", "60", "--json"
    ).json
    whole, nothing = said["curve"]
    assert (whole["solved"]["positive"], whole["pgd_accuracy"], whole["accuracy"]) == (1, None, None)
    assert (whole["nonzeros"], nothing["nonzeros"]) == (5, 1)


def test_without_regions_weights_are_counted(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    arguments = ("--passes", "prune-weights{threshold=0}", "--vary", "prune-weights.threshold=0,2", "--stats")
    ran = irverify("compile", models / "relu.onnx", *arguments, "--picture", tmp_path / "a.pdf")
    assert ran.code == 0
    assert "nonzeros" in ran.out
    assert "nstable" not in ran.out
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_measured_is_told_when_stopped(
    irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def stopped(*arguments: object) -> object:
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return program_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("irverify.report.points.program_of", stopped)
    ran = irverify("compile", *DIGITS, "--first", "2", *PRUNED, "--picture", tmp_path / "curve.png")
    assert (ran.code, ran.out) == (130, "")
    assert "measured 1 of 2" in ran.err
    assert "PGD accuracy" in ran.err
    assert (tmp_path / "curve.png").exists()
    assert ran.err.endswith("irverify: interrupted\n")


def test_a_picture_that_cannot_be_written_loses_nothing(irverify: Irverify, small: Path, tmp_path: Path) -> None:
    (tmp_path / "curve.png").mkdir()
    also = ("--also", f"1={small / 'two.onnx'}", "--passes", "", "--stats", "--picture", tmp_path / "curve.png")
    ran = irverify("compile", small / "one.onnx", *also, "--json")
    assert (ran.code, len(ran.json["curve"])) == (1, 2)
    assert "curve.png" in ran.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--vary", "prune-relus.share=0"), "once in --passes, got it 0 times"),
        (("--passes", "ibp,ibp", "--vary", "ibp.x=0"), "unknown option"),
        (("--passes", "crown,crown", "--vary", "crown.memory=1"), "got it 2 times"),
        (("--vary", "prune.share=0"), "unknown pass"),
        (("--passes", "prune-relus", "--vary", "prune-relus.shore=0"), "unknown option"),
        (("--passes", "prune-relus", "--vary", "prune-relus.share=0,much"), "a number"),
        (("--passes", "prune-relus", "--vary", "prune-relus.share=0,0.7"), "[0, 0.5)"),
        (("--passes", "prune-relus", "--vary", "prune-relus.share=0,0"), "every value once"),
        (("--vary", "prune-relus"), "PASS.OPTION=V1,V2"),
        (("--vary", "fuse-linear.elide=true", "--also", "1=relu.onnx"), "got both"),
        (("--vary", "fuse-linear.elide=true", "--vary", "crown.memory=1"), "once"),
        (("--vary", "fuse-linear.elide=true", "--at", "1"), "--also"),
        (("--vary", "fuse-linear.elide=true", "--solve", "1"), "without regions"),
        (("--vary", "fuse-linear.elide=true", "-o", "a.onnx"), "needs one"),
        (("--vary", "fuse-linear.elide=true", "--picture", "a.bmp"), ".png or .svg or .pdf"),
        (("--vary", "fuse-linear.elide=true", "--picture", "no/a.png"), "no such folder"),
        (("--picture", "a.png"), "there is no curve"),
        (("--also", "relu.onnx"), "X=MODEL"),
        (("--also", "nan=relu.onnx"), "X=MODEL"),
        (("--also", "1=relu.onnx", "--at", "nan"), "a finite number"),
        (("--also", "0=relu.onnx"), "stands at 0 already"),
        (("--also", "1=missing.onnx"), "no such file"),
    ],
)
def test_errors(
    irverify: Irverify, models: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(models)
    monkeypatch.setattr("irverify.cli.curves.load_model", lambda text: pytest.fail("work was begun"))
    ran = irverify("compile", "relu.onnx", "--stats", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err


def test_curves_need_stats(irverify: Irverify, models: Path) -> None:
    ran = irverify("compile", models / "relu.onnx", "--vary", "fuse-linear.elide=true")
    assert (ran.code, ran.out) == (1, "")
    assert "--stats" in ran.err
