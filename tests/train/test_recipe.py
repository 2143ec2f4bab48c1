"""Recipes: those that ship with irverify, reading, replacing entries, and every kind of mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from irverify.errors import FileError, IRVerifyError, ParseError, UsageError
from irverify.train.networks import NETWORKS
from irverify.train.objectives import MAKERS
from irverify.train.pruning import Pruning
from irverify.train.recipe import load_recipe, parse_recipe, recipes
from irverify.train.schedule import Adaptive, Clock, Decay, Ramp, decay, ramp
from irverify.train.terms import LOSSES
from irverify.train.toml import merged, parse_toml, write_toml
from tests.train.recipes import table


@pytest.mark.parametrize("variants", [(), ("short",), ("digits",), ("cifar10",), ("cifar10", "short", "cifar10-short")])
@pytest.mark.parametrize("name", recipes())
def test_every_recipe_and_variant_is_whole(name: str, variants: tuple[str, ...]) -> None:
    recipe = load_recipe(name, variants)
    assert recipe.name == name
    assert recipe.about
    assert recipe.network in NETWORKS
    again = parse_recipe(parse_toml(write_toml(recipe.table), "written"))
    assert again == recipe


def test_every_loss_is_computed_by_something() -> None:
    assert list(LOSSES) == list(MAKERS)


def test_schedules() -> None:
    steps = Ramp(1.0, 0.5, 2, 6, "steps")
    assert [steps(Clock(step, 4, 10)) for step in (0, 2, 4, 6, 39)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert Ramp(0.0, 1.0, 0, 1)(Clock(1, 4, 10)) == 0.25
    assert Ramp(0.0, 1.0, 0, 0.5, "share")(Clock(10, 4, 10)) == 0.5
    assert Ramp(0.2, 0.2)(Clock(0, 1, 1)) == 0.2
    halved = Decay(0.5, every=10, begin=20)
    assert [halved(Clock(step, 1, 80)) for step in (0, 29, 30, 39, 40, 79)] == [1, 1, 0.5, 0.5, 0.25, 0.5**5]
    assert [Decay(0.5, (3.0, 5.0), unit="steps")(Clock(step, 2, 9)) for step in (2, 3, 5)] == [1, 0.5, 0.25]


def test_a_step_from_one_number_to_another() -> None:
    switch = ramp({"from": 0.0, "to": 2.0, "begin": 0.8, "end": 0.8, "unit": "share"}, "here")
    assert [switch(Clock(step, 10, 1)) for step in (0, 7, 8, 9)] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("training.eps", -0.1, "training.eps: expected a radius >= 0, got -0.1"),
        ("training.eps", True, "training.eps: expected a number or a table, got True"),
        ("training.eps", {"from": 0, "to": 1}, "training.eps: expected from, to and end, got no end"),
        ("training.eps", {"from": 0, "to": 1, "end": 1, "start": 2}, "unknown key start: expected from, to, begin"),
        ("training.eps", {"from": 0, "to": 1, "begin": 2, "end": 1}, "expected 0 <= begin <= end, got begin 2"),
        ("training.eps", {"from": 0, "to": 1, "end": 1, "unit": "days"}, "expected unit to be steps, epochs or share"),
        ("training.eps", float("nan"), "training.eps: expected a finite number, got nan"),
        ("training.epochs", 0, "training.epochs: expected a whole number from 1, got 0"),
        ("training.epochs", 2.5, "training.epochs: expected a whole number from 1, got 2.5"),
        ("training.batch", "many", "training.batch: expected a whole number from 1, got 'many'"),
        ("training.norm", "max", "training.norm: expected one of inf, 2, 1, got 'max'"),
        ("training.held_out", 1.5, "training.held_out: expected a share below 1 or a whole number of images, got 1.5"),
        ("training.validation", 0.1, "training.validation: no term adapts, such as strength = { gamma = 10.0 }"),
        ("training.epsilon", 1, "training: unknown key epsilon: expected eps, test_eps"),
        ("optimiser.rate", 0, "optimiser.rate: expected a positive learning rate"),
        ("optimiser.name", "lbfgs", "optimiser.name: expected one of adam, sgd, got 'lbfgs'"),
        ("optimiser.momentum", 0.9, "optimiser.momentum: momentum is for sgd, not for adam"),
        ("optimiser.decay", {"factor": 2}, "optimiser.decay: expected factor to be above 0 and at most 1"),
        ("optimiser.decay", {"at": [3, 2]}, "optimiser.decay: expected at to be ascending"),
        ("evaluation.first", 0, "evaluation.first: expected a whole number from 1"),
        ("evaluation.certify", "stability", "evaluation.certify: the method stability certifies nothing: it gives no"),
        ("evaluation.certify", "dual-proj{k=9}", "evaluation.certify: the method dual-proj{k=9} certifies nothing: an"),
        ("evaluation.certify", "crwon", "evaluation.certify: unknown pass 'crwon' (did you mean crown"),
        ("network.mean", [0.5], "network.std: expected a list with a number for each channel, got None"),
        ("terms.clean", {"weight": 1}, "terms.clean: expected a table with loss and weight"),
        ("terms.clean.loss", "cross", "terms.clean: unknown loss 'cross': expected one of cross-entropy"),
        ("terms.clean.weight", -1, "terms.clean.weight: expected a weight >= 0"),
        ("terms.clean.weight", 0, "terms: expected a term whose weight is not 0 throughout"),
        ("terms.clean.steps", 3, "terms.clean: unknown key steps: expected loss, weight"),
        ("terms", {}, "terms: expected a term"),
        ("schedule", {}, "recipe: unknown key schedule"),
    ],
)
def test_mistakes_are_named(place: str, value: object, message: str) -> None:
    recipe: dict[str, Any] = table()
    *sections, name = place.split(".")
    target = recipe
    for section in sections:
        target[section] = dict(target[section])
        target = target[section]
    target[name] = value
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_recipe(recipe)


def test_options_of_terms_are_checked() -> None:
    for given, message in (
        ({"loss": "adversarial", "steps": 0}, "terms.x.steps: expected a whole number from 1, got 0"),
        ({"loss": "singleprop", "strength": {"gamma": 0}}, "terms.x.strength: expected gamma > 0, got 0"),
        ({"loss": "singleprop", "strength": {"gamma": 1, "to": 2}}, "terms.x.strength: unknown key to: expected gamma"),
        ({"loss": "ibp", "kappa": {"gamma": 1}}, "terms.x.kappa: unknown key gamma: expected from, to, begin"),
        ({"loss": "singleprop", "lines": "one"}, "terms.x.lines: expected one of zero, fast-lin, got 'one'"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            parse_recipe(table({"x": given}))


def pruned(**entry: object) -> Any:
    return parse_recipe({**table(epochs=10), "pruning": {"x": entry}}).prunings


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"prune": "weights", "threshold": 1e-3, "at": 4},
            Pruning("x", "weights", (4,), threshold=1e-3),
        ),
        (
            {"prune": "weights", "sparsity": 0.5, "over": "network", "only": "0", "at": [0.33, 1.0], "unit": "share"},
            Pruning("x", "weights", (4, 10), sparsity=0.5, over="network", only=("0",)),
        ),
        (
            {"prune": "relus", "share": 0, "only": ["1", "3"], "at": [0.3, 0.7], "unit": "share"},
            Pruning("x", "relus", (3, 7), share=0.0, only=("1", "3")),
        ),
    ],
)
def test_pruning(entry: dict[str, object], expected: Pruning) -> None:
    assert pruned(**entry) == (expected,)


def test_pruning_at_no_time_is_none() -> None:
    assert pruned(prune="relus", at=[]) == ()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "pruning.x: expected a table with prune = 'weights' or 'relus', got None"),
        ({"prune": "neurons"}, "expected a table with prune = 'weights' or 'relus', got 'neurons'"),
        ({"prune": "relus", "at": 3, "threshold": 1}, "pruning.x: unknown key threshold: expected prune, at, unit"),
        ({"prune": "relus"}, "pruning.x: expected at, the epochs after which to prune"),
        ({"prune": "relus", "at": 11}, "pruning.x.at: expected epochs above 0, to 10 at most, got 11"),
        ({"prune": "relus", "at": 0}, "pruning.x.at: expected epochs above 0, to 10 at most, got 0"),
        ({"prune": "relus", "at": 1.5}, "pruning.x.at: expected whole epochs; pruning comes after an epoch"),
        ({"prune": "relus", "at": 2, "unit": "share"}, "pruning.x.at: expected share above 0, to 1 at most, got 2"),
        ({"prune": "relus", "at": 2, "unit": "steps"}, "expected unit to be epochs or share, got 'steps'"),
        ({"prune": "relus", "at": 2, "share": 0.5}, "pruning.x.share: expected a share from 0 to below 0.5, got 0.5"),
        ({"prune": "relus", "at": 2, "only": []}, "pruning.x.only: expected names of modules, got []"),
        ({"prune": "weights", "at": 2}, "pruning.x: expected threshold or sparsity, one of them"),
        ({"prune": "weights", "at": 2, "threshold": -1}, "pruning.x.threshold: expected a threshold >= 0, got -1"),
        ({"prune": "weights", "at": 2, "sparsity": 1}, "pruning.x.sparsity: expected a share from 0 to below 1, got 1"),
        ({"prune": "weights", "at": 2, "sparsity": 0, "over": 1}, "pruning.x.over: expected layer or network, got 1"),
    ],
)
def test_mistakes_in_pruning_are_named(entry: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        pruned(**entry)


def test_a_file_replaces_entries_of_pruning() -> None:
    recipe = load_recipe("pruned-rs", ["short"])
    table_ = merged(recipe.table, {"pruning": {"relus": {"at": []}, "weights": {"threshold": 0.01}}})
    (left,) = parse_recipe(table_).prunings
    assert left == Pruning("weights", "weights", (8, 10), threshold=0.01)


def test_a_term_that_adapts_keeps_a_tenth_of_the_images() -> None:
    terms = {"x": {"loss": "singleprop", "strength": {"gamma": 2}}}
    recipe = parse_recipe(table(terms))
    assert (recipe.validation, recipe.terms[0].adaptive) == (0.1, {"strength": Adaptive(2.0)})
    training = {"eps": 0.1, "epochs": 1, "batch": 1, "validation": 30}
    assert parse_recipe({**table(terms), "training": training}).validation == 30


def test_a_file_replaces_entries(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[training]\nepochs = 3\n[terms.more]\nloss = "l1"\nweight = 1e-5\n')
    recipe = load_recipe("standard", ["digits"], file, seed=8)
    assert (recipe.epochs, recipe.seed, recipe.network) == (3, 8, "digits-small")
    assert [term.name for term in recipe.terms] == ["clean", "more"]


def test_schedules_are_replaced_as_a_whole() -> None:
    old = {"training": {"eps": {"from": 0, "to": 1, "end": 3}, "batch": 5}}
    assert merged(old, {"training": {"eps": {"from": 1}}}) == {"training": {"eps": {"from": 1}, "batch": 5}}


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, FileError, "no such file"),
        ("[training", ParseError, "not TOML"),
        ("[training]\nepochs = -1", UsageError, r"mine.toml: training.epochs: expected a whole number from 1, got -1"),
    ],
)
def test_broken_files(tmp_path: Path, content: str | None, kind: type[IRVerifyError], message: str) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(kind, match=message):
        load_recipe("standard", config=file)


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'ipb': expected one of .*standard"):
        load_recipe("ipb")
    with pytest.raises(UsageError, match="expected the name of a recipe or a file with one"):
        load_recipe(None)


def test_decay_has_a_default_factor() -> None:
    assert decay({"at": [1]}, "here") == Decay(0.1, (1.0,))


def test_text_survives_toml() -> None:
    given = {"name": 'a "b" \\ \n\x7f', "network": {"name": "x", "mean": [0.5, 1]}, "terms": {"a b": {"loss": "l1"}}}
    assert parse_toml(write_toml(given), "here") == given
