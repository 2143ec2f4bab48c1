"""Exact verification with and without eliminate-stable, on the network that ships with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import CASES
from benchmarks.stable import WAYS, Run, measured, open_images, table
from irverify.ir.graph import convert


def test_one_image_by_both_ways() -> None:
    (case,) = (case for case in CASES if case.name == "demo")
    loaded = case.load(Path(), 8)
    problem = replace(loaded, graph=convert(loaded.graph, torch.float64))
    assert set(open_images(problem)) <= set(range(8))
    runs = [measured(problem, 0, way, "highs", 60.0) for way in ("plain", "eliminate-stable")]
    assert {run.answer for run in runs} == {"verified"}
    assert runs[1].columns <= runs[0].columns


def test_ratios_are_medians_over_images() -> None:
    runs = [Run(image, way, 1.0 + image, 2.0, 5, 6, 7, "verified") for image in range(3) for way in WAYS]
    runs[2] = replace(runs[2], build=4.0)
    lines = table(runs).splitlines()
    assert lines[-1] == (
        "| eliminate-stable | 5 | 6 | 7 | 3.00 | 2.00 | 1.00 | 1.00 | verified, verified, verified |"
    )
