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
