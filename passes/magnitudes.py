"""Which weights stay when small ones are pruned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def large(
    sizes: Mapping[str, Tensor], threshold: float | None, sparsity: float, *, together: bool
) -> dict[str, Tensor]:
    """Which entries of tensors of magnitudes stay: those from `threshold` on, or else all but the `sparsity` share of
    smallest ones of each tensor, or of all `together`."""
    if threshold is not None:
        return {name: size >= threshold for name, size in sizes.items()}
    if not together or not sizes:
        return {name: all_but_smallest(size, sparsity) for name, size in sizes.items()}
    joined = all_but_smallest(torch.cat([size.flatten() for size in sizes.values()]), sparsity)
    parts = joined.split([size.numel() for size in sizes.values()])
    return {name: part.reshape(size.shape) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def all_but_smallest(sizes: Tensor, sparsity: float) -> Tensor:
    """All but the `sparsity` share of smallest entries, rounded down."""
    stays = torch.ones(sizes.numel(), dtype=torch.bool, device=sizes.device)
    stays[sizes.flatten().argsort(stable=True)[: int(sparsity * sizes.numel())]] = False
    return stays.reshape(sizes.shape)
