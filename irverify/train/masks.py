"""Masked training: weights and ReLUs that are pruned, and stay so however training goes on (paper 1, sec. 3.2, app. A).

For a module of one's own, in any loop:

    masks.prune_weights(module, 1e-3)           # small weights become exactly 0
    masks.prune_relus(module, images, 0.1)      # rarely used ReLUs become 0, those rarely off the identity
    masks.keep(module, optimiser)               # from here on no step of the optimiser undoes it

Masks are buffers of the module and part of its `state_dict`; `load` gives them to a module that was not pruned. A graph
that was made of the module before its ReLUs were pruned is one of the old network; a bound graph says so.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irverify.errors import ShapeError, UsageError
from irverify.passes.magnitudes import large
from irverify.train.masked_relu import PIECE, MaskedReLU

MASK = "weight_mask"
"""The buffer of a layer that says which of its weights are left."""
AT_ONCE = 500
"""Inputs that are run together to count activity."""
Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Pruned:
    """How many weights or ReLUs are pruned, earlier ones counted in, of how many: by layer."""

    layers: dict[str, tuple[int, int]]

    @property
    def count(self) -> int:
        return sum(pruned for pruned, _ in self.layers.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self.layers.values())


@torch.no_grad()
def prune_weights(
    module: nn.Module, threshold: float | None = None, *, sparsity: float | None = None,
    over: Literal["layer", "network"] = "layer", only: Sequence[str] | None = None,
) -> Pruned:  # fmt: skip
    """Makes weights below `threshold` in magnitude exact zeros, or the smallest ones up to the share `sparsity` of each
    layer or of all of them; weights that are 0 already count.

    Weights are those of linear layers and convolutions, without biases; `only`: names of layers, with wildcards. What
    was pruned before stays pruned. `keep` keeps it so in training. UsageError where no layer fits, or a weight is not
    finite or no parameter (but computed of others, as by weight normalisation).
    """
    _check_weights(threshold, sparsity, over)
    layers = _chosen(dict(_layers(module)), only, "linear layers or convolutions")
    for name, layer in layers.items():
        place = name or type(layer).__name__
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            hint = "torch.nn.utils.parametrize.remove_parametrizations, say, makes it one"
            raise UsageError("expected weights that are a parameter of the layer", where=place, hint=hint)
        if not bool(layer.weight.isfinite().all()):
            raise UsageError("expected finite weights", where=place)
    sizes = {name: _masked(layer).abs() for name, layer in layers.items()}
    left = large(sizes, threshold, sparsity or 0.0, together=over == "network")
    for name, layer in layers.items():
        mask = left[name] & getattr(layer, MASK, torch.ones_like(left[name]))
        layer.register_buffer(MASK, mask)
    apply(module)
    return pruned_weights(module)


def _check_weights(threshold: float | None, sparsity: float | None, over: str) -> None:
    if (threshold is None) == (sparsity is None):
        raise UsageError("expected a threshold or a sparsity, one of them")
    if threshold is not None and not 0 <= threshold < math.inf:
        raise UsageError(f"expected a finite threshold >= 0, got {threshold}")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise UsageError(f"expected a sparsity from 0 to below 1, got {sparsity}")
    if over not in ("layer", "network"):
        raise UsageError(f"expected over to be layer or network, got {over!r}")


def _masked(layer: Layer) -> Tensor:
    """The weights without those that are pruned already."""
    weight = layer.weight.detach()
    return weight.masked_fill(~getattr(layer, MASK), 0.0) if hasattr(layer, MASK) else weight


@dataclass(frozen=True)
class Activity:
    """How often ReLUs are active: by name, for each element how many of `total` inputs give it a positive
    pre-activation, `[*shape]`."""

    active: dict[str, Tensor] = field(default_factory=dict)
    total: int = 0

    def shares(self) -> dict[str, Tensor]:
        """For each element the share of inputs at which it is active."""
        return {name: count.double() / self.total for name, count in self.active.items()}


@torch.no_grad()
def activity(module: nn.Module, inputs: Tensor) -> Activity:
    """Runs the module, as it is evaluated, on `inputs` `[count, *shape]`, and counts how often its ReLUs are active.

    ReLUs are modules of their own, `nn.ReLU`. UsageError for one that is called at several places, for no inputs, and
    for pre-activations that are NaN.
    """
    if not len(inputs):
        raise UsageError("expected at least one input to count activity on, got none")
    parts = dict(_relus(module))
    counts: dict[str, Tensor] = {}
    calls = dict.fromkeys(parts, 0)

    def watched(name: str) -> Any:
        def count(part: nn.Module, given: tuple[Tensor, ...]) -> None:
            if bool(given[0].isnan().any()):
                raise UsageError("expected pre-activations that are numbers, got NaN", where=name)
            active = (given[0] > 0).sum(0)
            counts[name] = counts[name] + active if name in counts else active
            calls[name] += 1

        return count

    modes = [(part, part.training) for part in module.modules()]
    hooks = [part.register_forward_pre_hook(watched(name)) for name, part in parts.items()]
    batches = inputs.split(AT_ONCE)
    try:
        module.eval()
        for batch in batches:
            module(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
    shared = [name for name, times in calls.items() if times > len(batches)]
    if shared:
        hint = "give every place a ReLU of its own"
        raise UsageError(f"expected ReLUs that are called once, got {', '.join(shared)}", hint=hint)
    return Activity(counts, len(inputs))


def prune_relus(
    module: nn.Module, data: Tensor | Activity, share: float = 0.1, *, only: Sequence[str] | None = None
) -> Pruned:
    """Puts every ReLU that is active, or inactive, on at most `share` of the inputs on its other piece for good: 0, or
    the identity (paper 1, app. A.2). `module` is changed in place.

    `data`: inputs `[count, *shape]`, the training set, or the activity that was counted on it. A ReLU is one element of
    an `nn.ReLU` (a channel at a place, for convolutions); modules of which some are pruned become `MaskedReLU`. `only`:
    names of such modules, with wildcards. What was pruned before stays so. UsageError for a share outside [0, 0.5), and
    where no module fits.
    """
    if not 0 <= share < 0.5:
        raise UsageError(f"expected a share from 0 to below 0.5, got {share}")
    if isinstance(module, nn.ReLU):
        raise UsageError("expected a module that has ReLUs, got one", hint="put it into an nn.Sequential")
    found = data if isinstance(data, Activity) else activity(module, data)
    parts = _chosen(dict(_relus(module)), only, "nn.ReLU modules", "a functional relu has no place for a mask")
    for name, part in parts.items():
        if name in found.active:
            _prune_relu(module, name, part, _pieces(found.active[name], found.total, share))
    return pruned_relus(module)


def _pieces(active: Tensor, total: int, share: float) -> Tensor:
    """0 for what is hardly ever active, 1 for what is hardly ever not, -1 for the rest."""
    piece = torch.full_like(active, -1, dtype=torch.int8)
    piece[total - active <= share * total] = 1
    piece[active <= share * total] = 0
    return piece


def _prune_relu(module: nn.Module, name: str, part: nn.Module, piece: Tensor) -> None:
    if isinstance(part, MaskedReLU):
        if part.piece.shape != piece.shape:
            raise ShapeError(f"expected activity {list(part.piece.shape)}, got {list(piece.shape)}", where=name)
        merged = torch.where(part.piece < 0, piece, part.piece)
        if part is module:
            part.settle(merged)
        elif not torch.equal(merged, part.piece):
            _replace(module, part, MaskedReLU(merged))  # another part, so that what was made with it can tell
    elif bool((piece >= 0).any()):
        _replace(module, part, MaskedReLU(piece))


def keep(module: nn.Module, optimiser: torch.optim.Optimizer) -> RemovableHandle:
    """Sets the pruned weights of a module to 0 after every step of the optimiser, whatever its momentum or decay; also
    those that are pruned later. The handle's `remove` ends that."""
    apply(module)
    return optimiser.register_step_post_hook(lambda *_: apply(module))


@torch.no_grad()
def apply(module: nn.Module) -> None:
    """Sets the pruned weights of a module to exactly 0."""
    for _, layer in _layers(module):
        if hasattr(layer, MASK):
            layer.weight.masked_fill_(~getattr(layer, MASK), 0.0)


def absent(module: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """The masks in a state that the module does not have, and has a place for."""
    parts = dict(module.named_modules())
    found = set()
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        part = parts.get(path)
        if name == MASK and isinstance(part, LAYERS) and not hasattr(part, MASK):
            found |= {key} if part.weight.shape == tensor.shape else set()
        elif name == PIECE and type(part) is nn.ReLU and path:
            found.add(key)
    return found


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict(state)` where the state may be that of a module that was pruned: the module gets its
    masks. RuntimeError, as there, for the state of another kind of module."""
    for key in sorted(absent(module, state)):
        path, _, name = key.rpartition(".")
        part, tensor = module.get_submodule(path), state[key]
        if name == PIECE:
            _replace(module, part, MaskedReLU(tensor.clone()))
        else:
            part.register_buffer(MASK, torch.ones_like(tensor, dtype=torch.bool, device=_device(part)))
    module.load_state_dict(dict(state))


def _device(part: nn.Module) -> torch.device:
    return part.get_parameter("weight").device


def pruned_weights(module: nn.Module) -> Pruned:
    """How many weights of each layer are pruned."""
    left = {name: getattr(layer, MASK, None) for name, layer in _layers(module)}
    gone = {name: 0 if mask is None else int((~mask).sum()) for name, mask in left.items()}
    return Pruned({name: (gone[name], layer.weight.numel()) for name, layer in _layers(module)})


def pruned_relus(module: nn.Module) -> Pruned:
    """How many elements of each `MaskedReLU` are pruned."""
    pieces = {name: part.piece for name, part in _relus(module) if isinstance(part, MaskedReLU)}
    return Pruned({name: (int((piece >= 0).sum()), piece.numel()) for name, piece in pieces.items()})


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in module.named_modules() if isinstance(part, LAYERS))


def _relus(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_modules():
        if type(part) is nn.ReLU or isinstance(part, MaskedReLU):
            yield name, part


def _chosen(parts: dict[str, Any], only: Sequence[str] | None, kind: str, hint: str | None = None) -> dict[str, Any]:
    """The parts whose names fit one of `only`."""
    if not parts:
        raise UsageError(f"expected {kind} in the module, got none", hint=hint)
    if only is None:
        return parts
    lost = [word for word in only if not fnmatch.filter(parts, word)]
    if lost or not only:
        raise UsageError(f"expected names of {kind} ({', '.join(parts)}), got {', '.join(lost) or 'none'}")
    return {name: part for name, part in parts.items() if any(fnmatch.fnmatchcase(name, word) for word in only)}


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a module in the place of another one, wherever that stands."""
    new.train(old.training)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
