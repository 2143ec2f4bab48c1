"""`irverify bounds`, and the regions that the command line describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from irverify.cli.regions import perturbation, situation
from irverify.data import DIGITS_NETWORK, digits
from irverify.errors import UsageError
from irverify.frontends.compile import compile as compile_source
from irverify.regions import L2, Linf
from irverify.report.layers import HEADINGS
from tests.cli.conftest import Irverify


def test_bounds_of_a_query_by_hand(irverify: Irverify, models: Path) -> None:
    said = irverify("bounds", models / "relu.onnx", models / "unsat.vnnlib", "--json").json
    layers = {layer["value"]: layer for layer in said["layers"]}
    assert (layers["z"]["lower"], layers["z"]["upper"]) == pytest.approx((-1, 1))
    assert (layers["y"]["lower"], layers["y"]["upper"]) == pytest.approx((0, 1))
    assert (layers["y"]["active"], layers["y"]["inactive"], layers["y"]["unstable"]) == (0, 0, 2)
    assert layers["spec"]["lower"] == pytest.approx(0.5)  # 1.5 - y1


def test_bounds_around_images(irverify: Irverify) -> None:
    ran = irverify("bounds", DIGITS_NETWORK, "--data", "digits", "--eps", "0.05", "--first", "2")
    assert ran.code == 0
    heading, _, *rows = ran.out.splitlines()
    assert "  ".join(heading.split()) == "  ".join(" ".join(HEADINGS).split())
    assert rows[0].split()[:3] == ["%image", "input", "64"]
    assert ran.out.splitlines()[-1].startswith("2 regions")
    assert any(line.split()[:1] == ["ibp"] for line in ran.out.splitlines())  # with its time


def test_counts_are_means_over_the_regions(irverify: Irverify) -> None:
    arguments = ("bounds", DIGITS_NETWORK, "--data", "digits", "--eps", "0.05", "--json")
    each = [irverify(*arguments, "--index", index).json["layers"] for index in (0, 1)]
    both = irverify(*arguments, "--index", "0,1").json["layers"]
    for one, other, mean in zip(*each, both, strict=True):
        if mean["unstable"] is not None:
            assert mean["unstable"] == pytest.approx((one["unstable"] + other["unstable"]) / 2)
            assert mean["active"] + mean["inactive"] + mean["unstable"] == pytest.approx(mean["width"])
        assert mean["gap"] == pytest.approx((one["gap"] + other["gap"]) / 2)


def test_given_bounds_are_intersected(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.npz"
    np.savez(file, **{"z.lower": np.array([0.25, -9.0]), "z.upper": np.array([[0.5, 9.0]])})  # type: ignore[arg-type]
    said = irverify("bounds", models / "relu.onnx", models / "unsat.vnnlib", "--given", file, "--json").json
    layers = {layer["value"]: layer for layer in said["layers"]}
    assert (layers["z"]["lower"], layers["z"]["upper"], layers["z"]["source"]) == (-1, 1, "ibp & given")
    assert layers["y"]["active"] == 1
    assert layers["spec"]["lower"] == pytest.approx(1.0)  # 1.5 - y1 with y1 <= 0.5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z.lower": np.zeros(2)}, "one side of z"),
        ({"other": np.zeros(2)}, "got none"),
        ({"q.lower": np.zeros(2), "q.upper": np.zeros(2)}, "no value of graph"),
        ({"z.lower": np.zeros(3), "z.upper": np.zeros(3)}, r"expected bounds [1, 2] for %z"),
        ({"z.lower": np.ones(2), "z.upper": np.zeros(2)}, "lower 1.0, upper 0.0"),
        ({"z.lower": np.array(["a"]), "z.upper": np.zeros(1)}, "cannot be read"),
    ],
)
def test_given_bounds_that_do_not_fit(
    irverify: Irverify, models: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "given.npz", **arrays)  # type: ignore[arg-type]
    ran = irverify("bounds", models / "relu.onnx", models / "unsat.vnnlib", "--given", tmp_path / "given.npz")
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err


@pytest.mark.parametrize(("method", "gap"), [("crown-zero", 1e-9), ("crown", 0.01)])
def test_bounds_and_coefficients_are_written(method: str, gap: float, irverify: Irverify, tmp_path: Path) -> None:
    arguments = ("bounds", DIGITS_NETWORK, "--data", "digits", "--eps", "0.02", "--first", "2")
    passes = ("--passes", f"fold-batchnorm,fuse-linear,{method}")
    ran = irverify(*arguments, *passes, "--coefficients", "--output", tmp_path / "all.npz", "--json")
    said = ran.json["coefficients"]
    with np.load(tmp_path / "all.npz") as archive:
        matrix, constant = archive["coefficients.image"], archive["coefficients.constant"]
        lower = archive["spec.lower"]
    assert matrix.shape == (2, 9, 1, 8, 8)
    assert np.array_equal(matrix, said["inputs"]["image"])
    known = situation(compile_source(DIGITS_NETWORK), None, perturbation("digits", 0.02, "inf", None, 2, None))
    assert known is not None
    reached = known.regions[0].lower_of(torch.from_numpy(matrix)).numpy() + constant
    assert (reached <= lower + 1e-9).all()
    assert np.median(lower - reached) < gap  # intervals are seldom the tighter ones, but crown tries other lines too
    again = irverify(*arguments, "--given", tmp_path / "all.npz", "--json")
    assert "ibp & given" in [layer["source"] for layer in again.json["layers"]]


def test_estimates_are_told_from_bounds(irverify: Irverify) -> None:
    ran = irverify("bounds", DIGITS_NETWORK, "--data", "digits", "--eps", "0.02", "--passes", "singleprop-zero")
    assert "singleprop-zero, an estimate" in ran.out


def test_coefficients_need_a_place(irverify: Irverify, models: Path) -> None:
    ran = irverify("bounds", models / "relu.onnx", models / "unsat.vnnlib", "--coefficients")
    assert ran.code == 1
    assert "too many to print" in ran.err


def test_images_are_taken_by_index_and_clipped_to_their_range() -> None:
    wanted = perturbation("digits", 0.1, "inf", None, None, "3,5")
    known = situation(compile_source(DIGITS_NETWORK), None, wanted)
    assert known is not None
    (region,) = known.regions
    images = torch.from_numpy(digits("test").images[[3, 5]]).double()
    assert isinstance(region, Linf)
    torch.testing.assert_close(region.box()[0], (images - 0.1).clamp(min=0), rtol=0, atol=1e-15)
    assert known.spec is not None
    assert known.spec[0].shape == (2, 9, 10)


def test_norm_clip_and_own_data(tmp_path: Path) -> None:
    images = np.full((3, 64), 5.0, dtype=np.float32)
    np.savez(tmp_path / "own.npz", images=images, labels=np.array([0, 1, 2]), valid_range=np.array([0.0, 16.0]))
    wanted = perturbation(f"npz:{tmp_path / 'own.npz'}", 2.0, "2", "none", 2, None)
    known = situation(compile_source(DIGITS_NETWORK), None, wanted)
    assert known is not None
    (region,) = known.regions
    assert isinstance(region, L2)
    assert (region.batch, region.clip, region.shape) == (2, None, (1, 8, 8))


@pytest.mark.parametrize("changes", [{"index": "a"}, {"index": "400"}, {"clip": "1"}, {"clip": "1,a"}])
def test_options_that_make_no_sense(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        wanted = perturbation("digits", 0.1, "inf", changes.get("clip"), None, changes.get("index"))
        situation(compile_source(DIGITS_NETWORK), None, wanted)


def test_a_region_is_needed(irverify: Irverify, models: Path) -> None:
    ran = irverify("bounds", models / "relu.onnx")
    assert (ran.code, ran.out) == (1, "")
    assert "--data" in ran.err


def test_bounds_are_of_the_model(irverify: Irverify, models: Path) -> None:
    passes = "prune-weights{threshold=1.0},ibp"
    ran = irverify("bounds", models / "relu.onnx", models / "unsat.vnnlib", "--passes", passes)
    assert (ran.code, ran.out) == (1, "")
    assert "another function" in ran.err
