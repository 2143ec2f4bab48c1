"""Robust cascades: which stage an image stays at, by hand; what counts as certified; the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

from irverify.certify import Ball, ByAnalysis, Cascade, CascadeSweep, Passage, Question, load_cascade, save_cascade
from irverify.certify.cascade import StageCounts
from irverify.data import DataSet
from irverify.errors import FileError, PropertyError, UsageError
from irverify.ir.graph import Graph
from irverify.ir.program import load
from irverify.ir.text import parse_graph

ANYWHERE = Ball(0.5, None)


def linear(weight: str, bias: str = "0, 0") -> Graph:
    return parse_graph(f"""
graph "two" {{
  %x: f32[2] = input()
  %y = linear(%x) {{weight=tensor([{weight}]), bias=tensor([{bias}])}}
  return %y
}}
""")


FIRST = linear("[1, 0], [0, 1]")
"""Class 0 where x1 > x2; a radius r takes 2 r from the margin |x1 - x2|."""
SECOND = linear("[1, 0], [-1, 0]", "-4, 4")
"""Class 0 where x1 > 4; a radius r takes 2 r from the margin |2 x1 - 8|."""


def points(given: Sequence[Sequence[float]], labels: Sequence[int]) -> DataSet:
    return DataSet("points", np.array(given, dtype=np.float32), np.array(labels), (-99.0, 99.0))


SEVEN = points(
    [[3, 1], [1, 3], [3, 1], [3, 2.5], [6, 5.5], [3, 2.5], [4.25, 4]],
    [0, 1, 1, 1, 0, 0, 0],
)
WAYS = [  # stage, prediction there, correct, certified by the cascade
    (1, 0, True, True),  # margin 2 > 1
    (1, 1, True, True),
    (1, 0, False, False),  # certified, but wrong: it stays all the same
    (2, 1, True, True),  # margins 0.5, then 2
    (2, 0, True, True),  # margins 0.5, then 4
    (2, 1, False, False),  # stage 1 alone was right, and no matter
    (2, 0, True, False),  # margins 0.25, then 0.5: the last stage takes what nobody certifies
]


def ways(cascade: Cascade, images: DataSet, ball: Ball) -> list[Passage]:
    found = {passage.index: passage for passage in cascade.passages(images, range(len(images)), ball)}
    return [found[index] for index in range(len(images))]


def sweep(cascade: Cascade, images: DataSet, ball: Ball) -> CascadeSweep:
    whole = CascadeSweep(ball, tuple(range(len(images))), len(cascade.stages))
    assert len(list(cascade.proceed(whole, images))) == len(images)
    assert not list(cascade.proceed(whole, images))
    return whole


def test_stages_by_hand() -> None:
    found = ways(Cascade((FIRST, SECOND), 0.5), SEVEN, ANYWHERE)
    said = [(way.last.stage, way.last.predicted, way.correct, way.certified_cascade) for way in found]
    assert said == WAYS
    assert found[3].visits[0].bound == pytest.approx(-0.5)
    assert found[3].visits[0].predicted == 0
    assert found[3].last.bound == pytest.approx(1.0)


def test_counts_by_hand() -> None:
    counts = sweep(Cascade((FIRST, SECOND), 0.5), SEVEN, ANYWHERE)
    assert counts.per_stage() == [
        # alone, stage 1 is right about images 0, 1, 4, 5, 6 and certifies two of them
        StageCounts(1, reached=7, stay=3, correct=2, certified_cascade=2, correct_up_to_here=5,
                    certified_up_to_here=2, errors=0),
        StageCounts(2, reached=4, stay=4, correct=3, certified_cascade=2, correct_up_to_here=5,
                    certified_up_to_here=4, errors=0),
    ]  # fmt: skip
    said = counts.content()
    assert (said["n"], said["correct"], said["certified_cascade"], said["error"]) == (7, 5, 4, 0)
    assert said["standard_error"] == pytest.approx(2 / 7)
    assert said["certified_cascade_error"] == pytest.approx(3 / 7)
    assert "certified" not in said
    assert "verified" not in json.dumps(said)


def test_the_radius_that_is_asked_about_decides() -> None:
    cascade = Cascade((FIRST, SECOND), 0.5)
    assert [way.last.stage for way in ways(cascade, SEVEN, Ball(0.2, None))] == [1, 1, 1, 1, 1, 1, 2]
    assert [way.last.stage for way in ways(cascade, SEVEN, Ball(1.0, None))] == [2] * 7  # a margin of 0 is not enough
    assert [way.last.stage for way in ways(cascade, SEVEN, Ball(0.0, None))] == [1] * 7


def test_one_stage_is_a_network_by_itself() -> None:
    found = ways(Cascade((FIRST,), 0.5), SEVEN, ANYWHERE)
    batches = ByAnalysis(Question(FIRST, SEVEN, 0.5), "ibp").outcomes(range(7))
    alone = [outcome for batch in batches for outcome in batch]
    assert [way.certified_cascade for way in found] == [outcome.status == "certified" for outcome in alone]
    assert [way.correct for way in found] == [outcome.correct for outcome in alone]


def test_a_certified_image_may_have_a_neighbour_that_takes_another_stage() -> None:
    """Why this is not called verified: [3, 2] stays at stage 1, which certifies class 0 within 0.4 of it; its
    neighbour [2.75, 2.25] does not stay there, and stage 2 calls it 1."""
    cascade, ball = Cascade((FIRST, SECOND), 0.4), Ball(0.4, None)
    image, neighbour = ways(cascade, points([[3, 2], [2.75, 2.25]], [0, 0]), ball)
    assert (image.last.stage, image.certified_cascade) == (1, True)
    assert (neighbour.last.stage, neighbour.last.predicted) == (2, 1)


def test_a_tie_is_no_prediction() -> None:
    (way,) = ways(Cascade((FIRST,), 0.1), points([[2, 2]], [0]), Ball(0.0, None))
    assert (way.last.predicted, way.correct, way.certified_cascade) == (None, False, False)


def test_what_cannot_be_asked_is_neither_correct_nor_certified() -> None:
    """Stage 1 overflows at the first point; that it might have stayed there cannot be told, so it goes nowhere."""
    huge = linear("[3e38, 0], [0, 1]")
    images = points([[50, 1], [1, 0.5]], [0, 0])
    found = ways(Cascade((huge, SECOND), 0.5), images, ANYWHERE)
    assert (found[0].last.stage, found[0].last.predicted, found[0].correct) == (1, None, False)
    assert found[0].last.fault == "the outputs for the image itself are not finite"
    counts = sweep(Cascade((huge, SECOND), 0.5), images, ANYWHERE)
    assert [stage.errors for stage in counts.per_stage()] == [1, 0]
    assert counts.content()["error"] == 1


def test_cascades_that_make_no_sense() -> None:
    with pytest.raises(PropertyError, match="to have a stage"):
        Cascade((), 0.1)
    three = linear("[1, 0], [0, 1], [1, 1]", "0, 0, 0")
    with pytest.raises(PropertyError, match="stage 2: expected 2 inputs and 2 classes as in stage 1, got 2 inputs and"):
        Cascade((FIRST, three), 0.1)
    with pytest.raises(UsageError, match="singleprop"):
        Cascade((FIRST,), 0.1, method="singleprop-zero")


def named(weight: float) -> Graph:
    text = """
graph "two" {
  %x: f32[2] = input()
  %y = linear(%x) {weight=@weight, bias=@bias}
  return %y
}
"""
    return parse_graph(text, {"weight": torch.tensor([[weight, 0.0], [0.0, weight]]), "bias": torch.zeros(2)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "cascade.safetensors"
    save_cascade(Cascade((named(1.0), named(2.0)), 0.5, "2", "crown", {"seed": 3, "normalisation": None}), path)
    return path


def test_the_file_has_all_of_it(saved: Path) -> None:
    found = load_cascade(saved)
    assert (found.eps, found.norm, found.method) == (0.5, "2", "crown")
    assert found.about == {"seed": 3, "normalisation": None}
    x = torch.tensor([[1.0, 2.0]])
    assert [graph.evaluate(x).tolist() for graph in found.stages] == [[[1.0, 2.0]], [[2.0, 4.0]]]  # type: ignore[union-attr]
    assert [way.last.stage for way in ways(found, SEVEN, ANYWHERE)] == [1, 1, 1, 2, 2, 2, 2]


def test_files_that_are_no_cascades(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    with pytest.raises(FileError, match="got none"):
        load_cascade(other)
    other.write_bytes(saved.read_bytes()[:-3])
    with pytest.raises(FileError, match="not a safetensors file, or a broken one"):
        load_cascade(other)
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(FileError, match="expected a cascade, got a safetensors file without one"):
        load_cascade(other)
    with pytest.raises(FileError, match=r"expected one network, got a cascade of several .*irverify certify"):
        load(saved)


def test_weights_of_another_cascade_are_noticed(saved: Path, tmp_path: Path) -> None:
    with safetensors.safe_open(saved, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    other = tmp_path / "other.safetensors"
    last = max(tensors)
    assert last.startswith("2/")
    save_file({**tensors, last: tensors[last] + 1}, other, metadata)
    with pytest.raises(FileError, match="stage 2: it is another network than the one that was saved"):
        load_cascade(other)
    save_file(tensors, other, {**metadata, "irverify.cascade": "9"})
    with pytest.raises(FileError, match="expected a cascade in format 1, got 9"):
        load_cascade(other)
    save_file(tensors, other, {**metadata, "irverify.cascade.content": '{"stages": []}'})
    with pytest.raises(FileError, match="a broken one"):
        load_cascade(other)
