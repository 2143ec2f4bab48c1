"""Recipes: all that a training run depends on but the data, read from TOML and checked as a whole. No torch.

A recipe file has the tables `network`, `training`, `evaluation`, `optimiser`, `terms` and `pruning`, and under
`variants` tables of the same form that replace single entries: `short` for two CPU cores, and one named after each kind
of data set that needs numbers of its own (`digits`, `cifar10`, and then `cifar10-short`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from irverify.errors import IRVerifyError, UsageError
from irverify.pipeline.certifying import check_certifies
from irverify.train.pruning import Pruning, read_prunings
from irverify.train.schedule import Decay, Ramp, checked_table, decay, number, ramp
from irverify.train.terms import LOSSES, Term, read_term
from irverify.train.toml import merged, read_toml

FOLDER = Path(__file__).resolve().parent / "recipes"
NORMS = ("inf", "2", "1")
VALIDATION = 0.1
"""The share of the training images that terms adapt by, where nobody says."""
OPTIMISERS = ("adam", "sgd")
SECTIONS = {
    "network": ("name", "mean", "std"),
    "training": ("eps", "test_eps", "norm", "epochs", "batch", "seed", "held_out", "validation"),
    "evaluation": ("certify", "attack_steps", "first", "every"),
    "optimiser": ("name", "rate", "decay", "weight_decay", "momentum"),
}


@dataclass(frozen=True)
class Optimiser:
    """`rate` times what `decay` says is the learning rate; `momentum` is for sgd alone."""

    name: str
    rate: float
    decay: Decay
    weight_decay: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """What is measured after every `every` epochs and after the last, on the `first` test images: accuracy under an
    attack of so many steps, and accuracy certified by the analysis `certify`, both at the test radius."""

    certify: str = "ibp"
    attack_steps: int = 20
    first: int = 500
    every: int = 1


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    `eps` is the radius in training and `test_eps` the one that is tested at, in raw input units and measured in `norm`;
    `normalisation` a mean and a standard deviation for each channel, part of the network; `held_out` how many of the
    images are tested on, or what share of them, None where it is the test part of the data set; `terms` the named terms
    of the loss; `validation` how many of the training images are not trained on but kept for terms that adapt, or what
    share of them; `prunings` what is pruned in training; `table` what the recipe was read from.
    """

    name: str
    about: str
    network: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    epochs: int
    batch: int
    seed: int
    eps: Ramp
    test_eps: float
    norm: str
    held_out: float | None
    validation: float | None
    optimiser: Optimiser
    evaluation: Evaluation
    terms: tuple[Term, ...]
    prunings: tuple[Pruning, ...]
    table: Mapping[str, object]


def recipes() -> list[str]:
    """The names of the recipes that ship with irverify."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_recipe(
    name: str | None,
    variants: Sequence[str] = (),
    config: Path | None = None,
    seed: int | None = None,
    held_out: float | None = None,
) -> Recipe:
    """A recipe that ships with irverify (or none, then all is in `config`), with those of `variants` that it has, then
    with the entries of a TOML file, then with a seed and what is held out.

    UsageError for an unknown name and for entries that make no sense; FileError and ParseError for the file.
    """
    if name is None and config is None:
        raise UsageError("expected the name of a recipe or a file with one", hint=f"there are {', '.join(recipes())}")
    table: dict[str, object] = {}
    if name is not None:
        if name not in recipes():
            raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(recipes())}")
        table = {"name": name, **_with_variants(read_toml(FOLDER / f"{name}.toml"), variants)}
    if config is not None:
        given = read_toml(config)
        try:
            table = merged(table, _with_variants(given, variants))
            return parse_recipe(table, seed, held_out)
        except IRVerifyError as error:
            raise error.within(str(config)) from error
    return parse_recipe(table, seed, held_out)


def _with_variants(table: dict[str, object], variants: Sequence[str]) -> dict[str, object]:
    """The table with those variants that it has, in this order."""
    own = table.pop("variants", {})
    if not isinstance(own, Mapping):
        raise UsageError("expected a table of variants", where="variants")
    for variant in variants:
        table = merged(table, own.get(variant, {}))
    return table


def parse_recipe(table: Mapping[str, object], seed: int | None = None, held_out: float | None = None) -> Recipe:
    """A recipe from its tables, all of them checked. UsageError names the entry that makes no sense."""
    checked_table(table, ("name", "about", "terms", "pruning", *SECTIONS), "recipe", "a table")
    network, training, evaluation, optimiser = (_section(table, name) for name in SECTIONS)
    given = {name: value for name, value in (("seed", seed), ("held_out", held_out)) if value is not None}
    if given:
        training = {**training, **given}
        table = merged(table, {"training": given})
    eps = ramp(_needed(training, "training", "eps"), "training.eps")
    if min(eps.first, eps.last) < 0:
        raise UsageError(f"expected a radius >= 0, got {eps.first:g} to {eps.last:g}", where="training.eps")
    test_eps = number(training.get("test_eps", eps.last), "training.test_eps")
    norm = _word(training, "training", "norm", NORMS, "inf")
    if not test_eps >= 0:
        raise UsageError(f"expected a radius >= 0, got {test_eps:g}", where="training.test_eps")
    terms, epochs = _terms(table, norm), _count(training, "training", "epochs")
    return Recipe(
        name=str(table.get("name", "custom")),
        about=str(table.get("about", "")),
        network=str(_needed(network, "network", "name")),
        normalisation=_normalisation(network),
        epochs=epochs,
        batch=_count(training, "training", "batch"),
        seed=_count(training, "training", "seed", 0, least=0),
        eps=eps,
        test_eps=test_eps,
        norm=norm,
        held_out=_set_apart(training, "held_out"),
        validation=_validation(training, terms),
        optimiser=_optimiser(optimiser),
        evaluation=_evaluation(evaluation),
        terms=terms,
        prunings=read_prunings(table.get("pruning", {}), epochs),
        table=table,
    )


def _section(table: Mapping[str, object], name: str) -> Mapping[str, object]:
    return checked_table(table.get(name, {}), SECTIONS[name], name, "a table")


def _set_apart(training: Mapping[str, object], name: str) -> float | None:
    """A share or a number of images; None where nobody says."""
    if name not in training:
        return None
    given = number(training[name], f"training.{name}")
    if not (0 < given < 1 or (given >= 1 and given == int(given))):
        message = f"expected a share below 1 or a whole number of images, got {given:g}"
        raise UsageError(message, where=f"training.{name}")
    return given


def _validation(training: Mapping[str, object], terms: Sequence[Term]) -> float | None:
    """What is kept for terms that adapt; a tenth where nobody says."""
    given = _set_apart(training, "validation")
    if any(term.adaptive for term in terms):
        return VALIDATION if given is None else given
    if given is not None:
        raise UsageError("no term adapts, such as strength = { gamma = 10.0 }", where="training.validation")
    return None


def _optimiser(table: Mapping[str, object]) -> Optimiser:
    name = _word(table, "optimiser", "name", OPTIMISERS, "adam")
    rate = number(_needed(table, "optimiser", "rate"), "optimiser.rate")
    weight_decay, momentum = (
        number(table.get(key, 0.0), f"optimiser.{key}") for key in ("weight_decay", "momentum")
    )  # fmt: skip
    if not rate > 0:
        raise UsageError(f"expected a positive learning rate, got {rate:g}", where="optimiser.rate")
    if not (weight_decay >= 0 and 0 <= momentum < 1):
        raise UsageError("expected weight_decay >= 0 and momentum from 0 to below 1", where="optimiser")
    if momentum and name != "sgd":
        raise UsageError(f"momentum is for sgd, not for {name}", where="optimiser.momentum")
    given = table.get("decay")
    return Optimiser(name, rate, Decay() if given is None else decay(given, "optimiser.decay"), weight_decay, momentum)


def _evaluation(table: Mapping[str, object]) -> Evaluation:
    certify = table.get("certify", "ibp")
    if not isinstance(certify, str) or not certify:
        raise UsageError(f"expected an analysis, got {certify!r}", where="evaluation.certify")
    try:
        check_certifies(certify, "the method")
    except UsageError as error:
        raise error.within("evaluation.certify") from error
    counts = (
        _count(table, "evaluation", name, default, least=least)
        for name, default, least in (("attack_steps", 20, 1), ("first", 500, 1), ("every", 1, 1))
    )
    return Evaluation(certify, *counts)


def _terms(table: Mapping[str, object], norm: str) -> tuple[Term, ...]:
    given = table.get("terms")
    if not isinstance(given, Mapping) or not given:
        raise UsageError("expected a term, such as [terms.clean] with loss = 'cross-entropy'", where="terms")
    terms = [read_term(str(name), entry) for name, entry in given.items()]
    used = tuple(term for term in terms if term.weight.first or term.weight.last)
    if not used:
        raise UsageError("expected a term whose weight is not 0 throughout", where="terms")
    for term in used:
        norms = LOSSES[term.loss].norms
        if norm not in norms:
            message = f"{term.loss} takes perturbations in the norm {' or '.join(norms)}, got training.norm {norm}"
            raise UsageError(message, where=f"terms.{term.name}")
    return used


def _normalisation(table: Mapping[str, object]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if "mean" not in table and "std" not in table:
        return None
    parts = []
    for name in ("mean", "std"):
        given, place = table.get(name), f"network.{name}"
        if not isinstance(given, list):
            raise UsageError(f"expected a list with a number for each channel, got {given!r}", where=place)
        parts.append(tuple(number(part, place) for part in given))
    mean, std = parts
    if len(mean) != len(std) or not all(part > 0 for part in std):
        raise UsageError("expected as many positive std as mean", where="network")
    return mean, std


def _needed(table: Mapping[str, object], section: str, name: str) -> object:
    if name not in table:
        raise UsageError(f"expected an entry {name}, got none", where=section)
    return table[name]


def _word(table: Mapping[str, object], section: str, name: str, words: Sequence[str], default: str) -> str:
    given = table.get(name, default)
    if not (isinstance(given, str) and given in words):
        raise UsageError(f"expected one of {', '.join(words)}, got {given!r}", where=f"{section}.{name}")
    return given


def _count(
    table: Mapping[str, object], section: str, name: str, default: int | None = None, *, least: int = 1
) -> int:
    given = table.get(name, default) if default is not None else _needed(table, section, name)
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise UsageError(f"expected a whole number from {least}, got {given!r}", where=f"{section}.{name}")
    return given
