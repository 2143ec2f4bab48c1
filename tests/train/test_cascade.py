"""Training of cascades: what goes on to the next stage, and that an interrupted run ends with the same cascade."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irverify.certify import ByAnalysis, Cascade, Question, load_cascade
from irverify.certify.fingerprint import network
from irverify.data import DataSet
from irverify.errors import FileError, UsageError
from irverify.train.cascade import FILE, CascadeTrainer, in_epochs, train_cascade
from irverify.train.cascade_state import FILE as STATE
from irverify.train.cascade_state import cascade_folder, load_state
from irverify.train.images import Images
from irverify.train.recipe import Recipe, parse_recipe
from irverify.train.trainer import Moment
from tests.train.recipes import small_cascade, small_images, table

EPS = 0.004


def recipe(eps: float = EPS, seed: int = 3) -> Recipe:
    small = table()
    return parse_recipe({**small, "training": {"eps": eps, "epochs": 2, "batch": 20, "seed": seed}})


def trainer(folder: Path, stages: int, chosen: Recipe | None = None) -> CascadeTrainer:
    return small_cascade(folder, chosen or recipe(), stages)


def networks(cascade: Cascade) -> list[str]:
    return [network(graph) for graph in cascade.stages]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cascade of two stages."""
    folder = tmp_path_factory.mktemp("cascade")
    train_cascade(trainer(folder, 2))
    return folder


def test_what_goes_on_is_what_is_not_certified_for_its_own_prediction(whole: Path) -> None:
    cascade, state = load_cascade(whole / FILE), load_state(whole)
    train = small_images().train
    places = np.arange(len(train))
    for number, (graph, done) in enumerate(zip(cascade.stages, state.done, strict=True)):
        assert (done.images, done.seed) == (len(places), 3 + number)
        question = Question(graph, train, EPS, "inf", train.valid_range)
        predicted = np.array([said.predicted for said in question.clean(question.take(range(len(train))))])
        own = DataSet("own", train.images, predicted, train.valid_range)
        outcomes = [
            outcome
            for batch in ByAnalysis(Question(graph, own, EPS, "inf", own.valid_range), "ibp").outcomes(list(places))
            for outcome in batch
        ]
        places = np.array([outcome.index for outcome in outcomes if outcome.status != "certified"])
        assert done.rest == tuple(sorted(places.tolist()))
        assert 0 < len(places) < done.images
    assert (cascade.eps, cascade.norm, cascade.method) == (EPS, "inf", "ibp")
    assert cascade.about["recipe"] == "small"


def test_a_stage_is_trained_on_what_the_one_before_leaves(whole: Path) -> None:
    one = trainer(whole, 3)
    assert one.places(1) == tuple(range(200))
    assert one.places(3) == load_state(whole).done[1].rest
    ((number, third),) = [next(one.trainers())]
    assert (number, len(third.images.train)) == (3, len(one.places(3)))
    assert third.facts.about["images"] == len(one.places(3))
    assert third.recipe.seed == 5
    assert third.images.classes == 10


def test_every_stage_leaves_what_a_run_leaves(whole: Path) -> None:
    for number in (1, 2):
        left = {file.name for file in (whole / f"stage{number}").iterdir()}
        assert {"model.onnx", "model.safetensors", "recipe.toml", "log.csv", "checkpoint.safetensors"} <= left
    assert (whole / "recipe.toml").is_file()
    assert cascade_folder(whole) == cascade_folder(whole / "stage2") == whole
    assert cascade_folder(whole.parent) is None


@pytest.mark.parametrize("stop", [(1, 15), (2, 1)])
def test_an_interrupted_run_ends_with_the_same_cascade(whole: Path, tmp_path: Path, stop: tuple[int, int]) -> None:
    def interrupt(stage: int, moment: Moment) -> None:
        if (stage, moment.clock.step) >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cascade(trainer(tmp_path, 2), interrupt)
    trained: list[tuple[int, int]] = []
    cascade = train_cascade(trainer(tmp_path, 2), lambda stage, moment: trained.append((stage, moment.clock.step)))
    assert {stage for stage, _ in trained} == set(range(stop[0], 3))
    assert networks(cascade) == networks(load_cascade(whole / FILE))
    assert (tmp_path / STATE).read_text() == (whole / STATE).read_text()


def test_stages_can_be_added(whole: Path, tmp_path: Path) -> None:
    first = train_cascade(trainer(tmp_path, 1))
    assert networks(first) == networks(load_cascade(whole / FILE))[:1]
    assert networks(train_cascade(trainer(tmp_path, 2))) == networks(load_cascade(whole / FILE))
    with pytest.raises(UsageError, match="at least the 2 stages that are there"):
        trainer(tmp_path, 1)


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    """At radius 0 every prediction is certified."""
    cascade = train_cascade(trainer(tmp_path, 3, recipe(eps=0.0)))
    assert len(cascade.stages) == 1
    assert load_state(tmp_path).done[0].rest == ()


def test_only_the_same_run_goes_on(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the recipe is not that of the cascade in this folder"):
        trainer(whole, 2, recipe(seed=4))
    with pytest.raises(UsageError, match="at least one stage"):
        trainer(tmp_path, 0)
    for broken in ("", "{}", json.dumps({"format": 7}), (whole / STATE).read_text().replace('"seed"', '"sed"')):
        (tmp_path / STATE).write_text(broken)
        with pytest.raises(FileError, match="not the state of a cascade in training, or a broken one"):
            trainer(tmp_path, 2)


def test_classes_that_later_stages_do_not_see() -> None:
    images = small_images()
    last = images.classes - 1
    rows = [row for row, label in enumerate(images.test.labels) if label != last]
    seen = Images(images.train, images.test.select(rows))
    few = seen.of([row for row, label in enumerate(images.train.labels) if label != last])
    assert few.classes == last + 1
    assert replace(few, least_classes=0).classes < few.classes


def test_schedules_in_steps_keep_their_place() -> None:
    given = {
        "training": {"eps": {"from": 0, "to": 0.3, "begin": 100, "end": 500, "unit": "steps"}, "epochs": 60},
        "optimiser": {"decay": {"factor": 0.1, "at": [1500, 2500], "every": 50, "unit": "steps"}},
        "terms": {"a": {"loss": "ibp", "kappa": {"from": 1, "to": 0.5, "end": 4, "unit": "epochs"}}},
    }
    assert in_epochs(given, 100) == {
        "training": {"eps": {"from": 0, "to": 0.3, "begin": 1.0, "end": 5.0, "unit": "epochs"}, "epochs": 60},
        "optimiser": {"decay": {"factor": 0.1, "at": [15.0, 25.0], "every": 0.5, "unit": "epochs"}},
        "terms": {"a": {"loss": "ibp", "kappa": {"from": 1, "to": 0.5, "end": 4, "unit": "epochs"}}},
    }
