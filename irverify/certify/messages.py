"""What a sweep and its worker processes tell each other: pickles, one after the other, over the worker's standard
streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from irverify.certify.certifier import Maker
from irverify.certify.outcome import Outcome
from irverify.errors import IRVerifyError

Recipe: TypeAlias = Callable[[], Maker]
"""Loads what certifiers need. Pickled as the name of its class or function and its fields: no tensors, no graphs."""


@dataclass(frozen=True)
class Setup:
    """The first thing that a worker is told: what to load, the threads and the bytes (None: any number) it may use."""

    recipe: Recipe
    threads: int
    memory: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Images to decide at a radius; `Done` is the last answer."""

    eps: float
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """All is loaded."""


@dataclass(frozen=True)
class Found:
    """Outcomes, as soon as they are known."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Done:
    """Every image of a chunk has its outcome."""


@dataclass(frozen=True)
class Refused:
    """An error that concerns the whole sweep."""

    error: IRVerifyError


Message: TypeAlias = Ready | Found | Done | Refused
