"""Adjoints of convolutions and lines around them, for rows whose channels are the last axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from irverify.kernels.adjoint import BentAdjoint


@dataclass(frozen=True)
class Last:
    """Takes and gives rows whose channels are the last axis."""

    through: BentAdjoint

    def __call__(
        self, rows: Tensor, owner: Tensor | None, gains: Tensor | None = None, least: Tensor | None = None, **how: bool
    ) -> tuple[Tensor, Tensor] | None:
        turned = None if gains is None else gains.permute(0, 3, 1, 2)
        found = self.through(rows.permute(0, 3, 1, 2), owner, turned, least, **how)
        return None if found is None else (found[0].permute(0, 2, 3, 1), found[1])


def over(*given: Any) -> Last | None:
    through = BentAdjoint.of(*given)
    return None if through is None else Last(through)
