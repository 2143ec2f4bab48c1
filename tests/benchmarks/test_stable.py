"""Exact verification with and without eliminate-stable, on the network that ships with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import CASES
from benchmarks.stable import WAYS, Question, Run, measured, of_images, table
from irverify.ir.graph import convert
from irverify.properties import robust


def test_one_question_by_both_ways() -> None:
    (case,) = (case for case in CASES if case.name == "demo")
    loaded = case.load(Path(), 8)
    problem = replace(loaded, graph=convert(loaded.graph, torch.float64))
    assert all(question.graph is problem.graph for question in of_images(problem))
    region = problem.region.select([0])
    question = Question("image 0", problem.graph, (region,), robust(int(problem.labels[0])))
    runs = [measured(question, way, "highs", 60.0) for way in ("plain", "eliminate-stable")]
    assert {run.answer for run in runs} == {"verified"}
    assert runs[1].columns <= runs[0].columns


def test_ratios_are_medians_over_questions() -> None:
    runs = [Run(f"image {k}", way, 1.0 + k, 2.0, 5, 6, 3, 7, "verified") for k in range(3) for way in WAYS]
    runs[2] = replace(runs[2], build=4.0)
    lines = table(runs).splitlines()
    assert lines[-1] == (
        "| eliminate-stable | 5 | 6 | 3 | 7 | 3.00 | 2.00 | 1.00 | 1.00 | verified, verified, verified |"
    )
