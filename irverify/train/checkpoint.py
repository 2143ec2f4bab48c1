"""Checkpoints: one safetensors file with the weights, the state of the optimiser, and all that a run goes on from.

Nothing in it is pickled. A checkpoint is written as a whole: whatever stops a run, even while it writes, leaves the
last one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from irverify import __version__
from irverify.data import Part
from irverify.errors import FileError
from irverify.ir.program import write_whole

FILE = "checkpoint.safetensors"
FORMAT = 1
Row = dict[str, float | int | None]
"""What the log says of one epoch."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says beside its tensors: the recipe's TOML text, the data set and its fingerprint, how the
    images were parted, epochs and steps done, the log so far; and for whoever finds the file: method, seed, radii,
    normalisation, version."""

    recipe: str
    data: str
    part: Part
    fingerprint: str
    epoch: int
    step: int
    rows: list[Row] = field(default_factory=list)
    about: Mapping[str, object] = field(default_factory=dict)
    version: str = __version__


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    facts: Facts
    weights: dict[str, Tensor]
    state: dict[str, Any]
    """Of the optimiser, as `load_state_dict` takes it."""

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Gives module and optimiser the state of the checkpoint. FileError where they are of another kind."""
        try:
            module.load_state_dict(self.weights)
            optimiser.load_state_dict(self.state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise FileError(f"does not fit the network of its recipe: {error}", where=str(self.path)) from error


def save_checkpoint(folder: Path, facts: Facts, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Writes `FILE` in the folder, in place of the one that is there. FileError where that is impossible."""
    tensors = {f"weights.{name}": tensor for name, tensor in module.state_dict().items()}
    state = optimiser.state_dict()
    plain: dict[str, dict[str, object]] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{number}.{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    content = {**vars(facts), "about": dict(facts.about), "optimiser": plain, "groups": state["param_groups"]}
    metadata = {"irverify.checkpoint": str(FORMAT), "irverify.state": json.dumps(content)}
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
              for name, tensor in tensors.items()}  # fmt: skip
    write_whole(folder / FILE, serialise(copies, metadata))


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. FileError where there is none, or a broken one."""
    path = folder / FILE
    if not path.is_file():
        raise FileError(f"expected a checkpoint ({FILE}), found none", where=str(folder))
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise FileError(f"not a checkpoint, or a broken one: {error}", where=str(path)) from error
    if metadata.get("irverify.checkpoint") != str(FORMAT):
        raise FileError(
            f"expected a checkpoint in format {FORMAT}, got {metadata.get('irverify.checkpoint')}", where=str(path)
        )
    try:
        content = json.loads(metadata["irverify.state"])
        state = {"state": _states(tensors, content.pop("optimiser")), "param_groups": content.pop("groups")}
        facts = Facts(**content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"not a checkpoint, or a broken one: {error}", where=str(path)) from error
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    return Checkpoint(path, facts, weights, state)


def _states(tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, object]]) -> dict[int, dict[str, object]]:
    states: dict[int, dict[str, object]] = {int(number): dict(entries) for number, entries in plain.items()}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            number, _, entry = rest.partition(".")
            states.setdefault(int(number), {})[entry] = tensor
    return states


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
