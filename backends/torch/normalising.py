"""Batch normalisation in training: which ones normalise with the batch, and what a step leaves in their statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from irverify.backends.torch.leaves import Leaves
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph
from irverify.ir.ops import BatchNorm


def batch_norms(graph: Graph, leaves: Leaves) -> dict[str, _BatchNorm]:
    """The module behind each batch normalisation of a graph that has one with running statistics."""
    found = {}
    for node in graph:
        if isinstance(node.op, BatchNorm):
            place = leaves.place(node.op.mean)
            if place is not None and isinstance(place[0], _BatchNorm) and place[1] == "running_mean":
                found[node.name] = place[0]
    return found


def check_modes(module: nn.Module, known: dict[str, _BatchNorm]) -> None:
    """Raises UnsupportedError where a layer in training mode computes what no bound is about: dropout that drops, or
    statistics of the batch in another place than a batch normalisation of the graph."""
    covered = {id(part) for part in known.values() if not isinstance(part, nn.SyncBatchNorm)}
    wrong = [
        f"{name or 'the module'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if part.training and _changes(part) and id(part) not in covered
    ]
    if wrong:
        raise UnsupportedError(
            "expected layers that a bound graph can bound in training mode, got others",
            items=wrong,
            where=type(module).__name__,
            hint="put these layers into evaluation mode, dropout with p=0",
        )


def _changes(part: nn.Module) -> bool:
    """Whether a layer computes something else in training mode."""
    if isinstance(part, _DropoutNd):
        return part.p != 0.0
    if isinstance(part, _NormBase):
        return bool(part.track_running_stats)
    return isinstance(part, nn.RReLU)


def update(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """The running statistics after a batch with this mean and biased variance of `count` numbers for each channel, as
    PyTorch keeps them: the unbiased variance, by `momentum` or, where that is None, averaged over all batches.

    Raises UsageError for a single number, of which there is no variance.
    """
    if count < 2:
        hint = "give more than one example, or call eval()"
        raise UsageError("expected more than one value for each channel in training mode, got 1", hint=hint)
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            share = norm.num_batches_tracked.to(mean.dtype).reciprocal()
            norm.running_mean += share * (mean - norm.running_mean)
            norm.running_var += share * (variance * (count / (count - 1)) - norm.running_var)
            return
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)
