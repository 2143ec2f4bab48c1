"""The public network wk17a on MNIST, inputs kept in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import pytest

from irverify.certify import ByAnalysis, Question, Settings
from irverify.data import load_dataset
from irverify.frontends.compile import compile as compile_source


@pytest.mark.parametrize(("method", "certified"), [("dual", 47), ("crown", 49), ("ibp", 0)])
def test_wk17a(shared_data: Path, method: str, certified: int) -> None:
    """The smallest dual margins of the first 50 images are -0.63, -0.16, -0.03 and 0.24, those of crown -0.52 and 0.005
    (image 8 then 45)."""
    graph = compile_source(shared_data / "networks" / "wk17a.onnx")
    images = load_dataset(f"mnist:{shared_data / 'mnist'}")
    sweep = ByAnalysis(Question(graph, images, 0.1, clip=(0.0, 1.0)), method, Settings(batch=25))
    found = [outcome for batch in sweep.outcomes(range(50)) for outcome in batch]
    assert sum(outcome.correct for outcome in found) == 50
    assert sum(outcome.status == "certified" for outcome in found) == certified
