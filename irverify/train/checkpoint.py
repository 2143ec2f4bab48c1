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
from irverify.train.masks import absent, load

FILE = "checkpoint.safetensors"
FORMAT = 1
SHOWN = 3
"""How much of what does not fit a message names."""
Row = dict[str, float | int | None]
"""What the log says of one epoch."""
ROW = {"epoch", "step", "eps", "rate", "loss", "clean accuracy", "PGD accuracy", "certified accuracy", "seconds"}
"""What every row has."""
STATES: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""What optimisers keep for each parameter."""


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
    state: dict[int, dict[str, Any]]
    """Of the optimiser, by the number of the parameter."""

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Gives module and optimiser the state of the checkpoint, with its masks. FileError, with all that differs,
        where it is that of another network or another optimiser; module and optimiser are then as before."""
        own = module.state_dict()
        names = sorted((own.keys() | absent(module, self.weights)) ^ self.weights.keys())
        wrong = [f"weights.{name} is in one of them alone" for name in names]
        wrong += [
            _difference(f"weights.{name}", tensor, own[name].shape)
            for name, tensor in self.weights.items()
            if name in own and tensor.shape != own[name].shape
        ]
        wrong += _unfit(self.state, optimiser)
        if wrong:
            listed = "; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
            message = f"does not fit network and optimiser of its recipe: {listed}"
            raise FileError(message, where=str(self.path), hint="start anew in another folder")
        load(module, self.weights)
        # The learning rate is set in every step, and the rest of the groups is what the recipe says.
        optimiser.load_state_dict({"state": self.state, "param_groups": optimiser.state_dict()["param_groups"]})


def _unfit(states: Mapping[int, Mapping[str, Any]], optimiser: torch.optim.Optimizer) -> list[str]:
    """What of the state of an optimiser is not that of this one."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    wrong = []
    for number, entries in sorted(states.items()):
        place = f"optimiser.{number}"
        if not 0 <= number < len(parameters):
            wrong.append(f"{place} is for a parameter that is not there")
            continue
        if entries.keys() != STATES[type(optimiser)]:
            wanted = ", ".join(sorted(STATES[type(optimiser)]))
            wrong.append(f"{place} has {', '.join(sorted(entries))}, expected {wanted}")
            continue
        shapes = {name: torch.Size() if name == "step" else parameters[number].shape for name in entries}
        wrong += [
            _difference(f"{place}.{name}", value, shapes[name])
            for name, value in entries.items()
            if not (isinstance(value, Tensor) and value.shape == shapes[name])
        ]
    return wrong


def _difference(name: str, found: object, wanted: torch.Size) -> str:
    got = list(found.shape) if isinstance(found, Tensor) else repr(found)
    return f"{name} is {got}, expected {list(wanted)}"


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
    content = {**vars(facts), "about": dict(facts.about), "optimiser": plain}
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
        state = _states(tensors, content.pop("optimiser"))
        content.pop("groups", None)  # of earlier versions: what the recipe says
        facts = _facts(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"not a checkpoint, or a broken one: {error}", where=str(path)) from error
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    return Checkpoint(path, facts, weights, state)


def _facts(content: dict[str, Any]) -> Facts:
    """The facts in a checkpoint. ValueError or TypeError for what cannot be those of one."""
    facts = Facts(**content)
    for name in ("recipe", "data", "part", "fingerprint", "version"):
        if not isinstance(content.get(name, ""), str):
            raise ValueError(f"expected {name} to be a text, got {content[name]!r}")
    epoch, step, rows = content["epoch"], content["step"], content.get("rows", [])
    if not (isinstance(epoch, int) and isinstance(step, int) and 0 < epoch <= step):
        raise ValueError(f"expected numbers of epochs and steps, got {epoch!r} and {step!r}")
    if len(rows) != epoch or not all(isinstance(row, dict) and row.keys() >= ROW for row in rows):
        raise ValueError(f"expected a row of the log for each of {epoch} epochs")
    return facts


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
