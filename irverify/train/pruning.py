"""What a recipe says of pruning: what goes, and after which epochs. No torch: `irverify.train.masks` prunes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from irverify.errors import UsageError
from irverify.train.schedule import checked_table, number

KINDS: dict[str, tuple[str, ...]] = {"weights": ("threshold", "sparsity", "over"), "relus": ("share",)}
"""What can be pruned, and the options of each."""
COMMON = ("prune", "at", "unit", "only")
SHARE = 0.1
"""Of the training images (paper 1, app. A.2)."""


@dataclass(frozen=True)
class Pruning:
    """A named pruning: of weights or ReLUs, after the epochs `after`; the epochs behind them are fine-tuning.

    Weights go below `threshold`, or the smallest ones up to the share `sparsity` of each layer or of all (`over`).
    ReLUs go that are active, or inactive, on at most `share` of the training images. `only`: names of modules, with
    wildcards.
    """

    name: str
    prune: Literal["weights", "relus"]
    after: tuple[int, ...]
    threshold: float | None = None
    sparsity: float | None = None
    over: Literal["layer", "network"] = "layer"
    share: float = SHARE
    only: tuple[str, ...] | None = None


def read_prunings(given: object, epochs: int) -> tuple[Pruning, ...]:
    """The prunings of a recipe of so many epochs, from its table `pruning`. UsageError for what makes no sense."""
    if not isinstance(given, Mapping):
        raise UsageError(f"expected a table, got {given!r}", where="pruning")
    found = tuple(read_pruning(str(name), entry, epochs) for name, entry in given.items())
    return tuple(pruning for pruning in found if pruning.after)


def read_pruning(name: str, given: object, epochs: int) -> Pruning:
    place = f"pruning.{name}"
    if not isinstance(given, Mapping) or given.get("prune") not in KINDS:
        got = given.get("prune") if isinstance(given, Mapping) else given
        raise UsageError(f"expected a table with prune = 'weights' or 'relus', got {got!r}", where=place)
    prune: Literal["weights", "relus"] = "weights" if given["prune"] == "weights" else "relus"
    table = checked_table(given, (*COMMON, *KINDS[prune]), place, "a table")
    after = _epochs(table, epochs, place)
    only = _names(table.get("only"), place)
    if prune == "relus":
        share = _share(table.get("share", SHARE), f"{place}.share", 0.5)
        return Pruning(name, prune, after, share=share, only=only)
    if ("threshold" in table) == ("sparsity" in table):
        raise UsageError("expected threshold or sparsity, one of them", where=place)
    over = table.get("over", "layer")
    if over not in ("layer", "network"):
        raise UsageError(f"expected layer or network, got {over!r}", where=f"{place}.over")
    side: Literal["layer", "network"] = "layer" if over == "layer" else "network"
    if "sparsity" in table:
        sparsity = _share(table["sparsity"], f"{place}.sparsity", 1.0)
        return Pruning(name, prune, after, sparsity=sparsity, over=side, only=only)
    threshold = number(table["threshold"], f"{place}.threshold")
    if threshold < 0:
        raise UsageError(f"expected a threshold >= 0, got {threshold:g}", where=f"{place}.threshold")
    return Pruning(name, prune, after, threshold=threshold, over=side, only=only)


def _epochs(table: Mapping[str, object], epochs: int, place: str) -> tuple[int, ...]:
    """After how many epochs, each a whole number: a share of all of them is rounded up."""
    if "at" not in table:
        raise UsageError("expected at, the epochs after which to prune", where=place)
    at, unit = table["at"], table.get("unit", "epochs")
    moments = [number(moment, f"{place}.at") for moment in (at if isinstance(at, list) else [at])]
    if unit not in ("epochs", "share"):
        raise UsageError(f"expected unit to be epochs or share, got {unit!r}", where=place)
    last = epochs if unit == "epochs" else 1
    if not all(0 < moment <= last for moment in moments):
        listed = ", ".join(f"{moment:g}" for moment in moments)
        raise UsageError(f"expected {unit} above 0, to {last} at most, got {listed}", where=f"{place}.at")
    if unit == "share":
        return tuple(dict.fromkeys(math.ceil(moment * epochs - 1e-9) for moment in moments))
    if any(moment != int(moment) for moment in moments):
        raise UsageError("expected whole epochs; pruning comes after an epoch", where=f"{place}.at")
    return tuple(dict.fromkeys(map(int, moments)))


def _share(given: object, place: str, below: float) -> float:
    share = number(given, place)
    if not 0 <= share < below:
        raise UsageError(f"expected a share from 0 to below {below:g}, got {share:g}", where=place)
    return share


def _names(given: object, place: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    listed: Sequence[object] = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"expected names of modules, got {given!r}", where=f"{place}.only")
    return tuple(map(str, listed))
