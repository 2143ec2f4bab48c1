"""How far the training of a cascade has come: `FILE` in its folder, written as a whole after every stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irverify.data import Part
from irverify.errors import FileError, UsageError
from irverify.ir.program import write_whole

FILE = "cascade.json"
FORMAT = 1
STAGE = "stage"
"""How the folders of stages are called, each followed by its number."""


@dataclass(frozen=True)
class StageDone:
    """A stage that is complete: its seed, the images that it was trained on, and the places in the training part of
    those that neither it nor a stage before it certifies."""

    seed: int
    images: int
    rest: tuple[int, ...]


@dataclass(frozen=True)
class State:
    """A run: the recipe's TOML text, the data set, its part and its fingerprint, the stages that are wanted, and those
    that are complete."""

    recipe: str
    data: str
    part: Part
    fingerprint: str
    stages: int
    done: tuple[StageDone, ...] = ()

    def of_the_same_run(self, other: State, place: str) -> State:
        """Itself. UsageError where another run has another recipe or other images."""
        for what, mine, theirs in (
            ("recipe", self.recipe, other.recipe),
            ("images", self.fingerprint, other.fingerprint),
            ("part of the images", self.part, other.part),
        ):
            if mine != theirs:
                hint = "go on with what it began with, or start anew in another folder"
                raise UsageError(f"the {what} is not that of the cascade in this folder", where=place, hint=hint)
        return self


def save_state(folder: Path, state: State) -> None:
    """Writes `FILE` in the folder. FileError where that is impossible."""
    write_whole(folder / FILE, json.dumps({"format": FORMAT, **asdict(state)}).encode())


def load_state(folder: Path) -> State:
    """What `FILE` in a folder says. FileError where it is not there, or broken."""
    path = folder / FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        done = tuple(_stage(stage) for stage in content.pop("done"))
        return State(**content, done=done)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"not the state of a cascade in training, or a broken one: {error}", where=str(path)) from error


def _stage(content: Mapping[str, Any]) -> StageDone:
    return StageDone(int(content["seed"]), int(content["images"]), tuple(map(int, content["rest"])))


def cascade_folder(folder: Path) -> Path | None:
    """The folder of the cascade that a folder belongs to: itself, or the one around a stage's; None where there is
    none."""
    places = [folder, folder.resolve().parent] if folder.name.startswith(STAGE) else [folder]
    return next((place for place in places if (place / FILE).is_file()), None)
