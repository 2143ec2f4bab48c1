"""What an attack aims at: the margins of the disjuncts of a property over a region."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.pipeline.facts import Bounds
from irverify.properties import Disjunct, Property
from irverify.regions import Region

Candidate: TypeAlias = tuple[Tensor, ...]
"""One point for each network input, `[1, *shape]`, in the graph's element type."""


@dataclass(frozen=True, eq=False)
class Target:
    """One property over one region.

    `regions` (one for each network input, a batch of one) must be inner regions in the graph's element type: every
    point that is tried lies inside. `accept` says whether a candidate that violates in the graph's own arithmetic
    will do. `starts` are points to start from beside the attack's own, for each disjunct: one tensor `[points, *shape]`
    for each input, projected into the region. `bounds` of the graph's values are what an attack with chords takes
    these from.
    """

    regions: Sequence[Region]
    prop: Property
    accept: Callable[[Candidate], bool]
    starts: Sequence[Sequence[Tensor]] = ()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)


@dataclass(frozen=True)
class Goals:
    """What runs descend on: goal g is reached where the smallest margin of its disjuncts is <= 0, and the margin of a
    disjunct is the largest of its rows `A_i x + C_i y + d_i`.

    Missing disjuncts and rows repeat the first one of theirs.
    """

    outputs: Tensor  # [goals, disjuncts, rows, n_out]
    inputs: Tensor | None  # [goals, disjuncts, rows, n_in]
    offset: Tensor  # [goals, disjuncts, rows]

    @staticmethod
    def of(goals: Sequence[Sequence[Disjunct]], dtype: torch.dtype, device: torch.device) -> Goals:
        width = max(disjunct.offset.shape[0] for goal in goals for disjunct in goal)
        depth = max(map(len, goals))
        padded = [disjunct for goal in goals for disjunct in (*goal, *(goal[0],) * (depth - len(goal)))]

        def stacked(parts: Sequence[Tensor]) -> Tensor:
            same = [torch.cat([part, part[:1].expand(width - part.shape[0], *part.shape[1:])]) for part in parts]
            whole = torch.stack(same).to(device=device, dtype=dtype)
            return whole.reshape(len(goals), depth, *whole.shape[1:])

        mixed = [disjunct.inputs for disjunct in padded]
        columns = max((part.shape[1] for part in mixed if part is not None), default=0)
        inputs = None
        if columns:
            inputs = stacked([
                part if part is not None else disjunct.offset.new_zeros(disjunct.offset.shape[0], columns)
                for part, disjunct in zip(mixed, padded, strict=True)
            ])
        return Goals(
            stacked([disjunct.outputs for disjunct in padded]),
            inputs,
            stacked([disjunct.offset for disjunct in padded]),
        )

    def margins(self, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        """The margin of goal `which[b]` at each example: x `[batch, n_in]`, y `[batch, n_out]` -> `[batch]`."""
        kind = self.offset.dtype  # casts in a network leave outputs of another type
        rows = torch.einsum("bdro,bo->bdr", self.outputs[which], y.to(kind)) + self.offset[which]
        if self.inputs is not None:
            rows = rows + torch.einsum("bdri,bi->bdr", self.inputs[which], x.to(kind))
        return rows.amax(dim=2).amin(dim=1)
