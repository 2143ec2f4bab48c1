"""Maximum pooling whose winners are known: windows become selections of one element.

Over a region an element j of a window cannot exceed element i where `u_j <= l_i`. What is left in some example are the
window's candidates: with one, the window's value is that element, everywhere on the regions. Windows with several stay
a maximum, of their candidates only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops import Concat, Gather, MaxPool, Reshape
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.types import TensorType
from irverify.passes.stand_ins import OPEN, UNSTABLE, StandIn, places_among
from irverify.pipeline.facts import Bounds


@dataclass(frozen=True)
class Winners:
    """The candidates of each window, `[windows, most]`, as places of the flat operand: `counts` `[windows]` of them,
    and the first one again behind these."""

    places: Tensor
    counts: Tensor

    @property
    def any(self) -> bool:
        """Some winner is known."""
        return bool((self.counts == 1).any())

    @property
    def contests(self) -> list[tuple[Tensor, Tensor]]:
        """The windows with several candidates, `[windows]`, and these, `[windows, candidates]`; as many in each."""
        found = []
        for count in self.counts[self.counts > 1].unique().tolist():
            windows = (self.counts == count).nonzero().flatten()
            found.append((windows, self.places[windows, :count]))
        return found


def winners(op: MaxPool, operand: TensorType, bounds: Bounds) -> Winners:
    """The candidates of all windows, from bounds `[batch, *shape]` of the operand; NaN excludes nothing."""
    table = window_places(op, operand).to(bounds.lower.device)
    lower, upper = (_of_windows(side, table) for side in (bounds.lower, bounds.upper))
    best = lower.amax(2, keepdim=True)  # NaN where one of them is
    beaten = upper <= best
    beaten.scatter_(2, lower.nan_to_num(nan=-torch.inf).argmax(2, keepdim=True), False)
    candidates = (~beaten).any(0) & (table >= 0)
    order = (~candidates).int().argsort(dim=1, stable=True)
    counts = candidates.sum(1)
    places = table.gather(1, order)
    behind = torch.arange(places.shape[1], device=places.device) >= counts[:, None]
    return Winners(torch.where(behind, places[:, :1], places), counts)


def window_places(op: MaxPool, operand: TensorType) -> Tensor:
    """The places of each window's elements in the flat operand, `[windows, elements]`; -1 for padding."""
    extents = op.infer(operand).shape[1:]
    numbers = torch.arange(operand.size, dtype=torch.float64).reshape(1, *operand.shape)
    padded = pad_spatial(numbers, op.padding, -1.0).long()
    taps = []
    for tap in itertools.product(*map(range, op.kernel)):
        axes = zip(tap, op.dilation, op.stride, extents, strict=True)
        cut: list[slice] = [slice(None)]
        cut += [slice(k * wide, k * wide + (n - 1) * pace + 1, pace) for k, wide, pace, n in axes]
        taps.append(padded[0][tuple(cut)])
    return torch.stack([tap.reshape(-1) for tap in taps], 1)


def _of_windows(side: Tensor, table: Tensor) -> Tensor:
    """`[batch, windows, elements]`; minus infinity for padding."""
    found = side.flatten(1)[:, table.clamp(min=0)]
    return torch.where(table >= 0, found, -torch.inf)


class Selection(StandIn):
    """What stands for one maximum pooling."""

    def value(self, operand: str, known: Winners) -> str:
        rank, contests = self.builder.type(operand).rank, known.contests
        flat = self.add(Reshape((self.builder.type(operand).size,)), operand, role="flat") if rank > 1 else operand
        settled = (known.counts == 1).nonzero().flatten()
        if not contests:
            name = self.add(Gather(known.places[:, 0], 0), flat, role="winners")
            return self.finish(Reshape(self.node.type.shape), name)
        chosen = self.add(Gather(known.places[settled, 0], 0), flat, role="winners")
        maxima = [self._maxima(flat, places) for _, places in contests]
        both = self.add(Concat(0), *maxima, chosen, role="parts")
        order = places_among(torch.cat([*(windows for windows, _ in contests), settled]), len(known.counts))
        return self.finish(Reshape(self.node.type.shape), self.add(Gather(order, 0), both, role="back"))

    def _maxima(self, flat: str, places: Tensor) -> str:
        """The maxima of windows with as many candidates; called after their number."""
        windows, count = places.shape
        name = self.add(Gather(places.reshape(-1), 0), flat, role=f"{UNSTABLE}{count}")
        name = self.add(Reshape((1, windows, count)), name, role="windows")
        pooling = MaxPool((1, count), (1, count), ((0, 0), (0, 0)), (1, 1))
        return self.add(Reshape((windows,)), self.add(pooling, name, role="maxima"), role=f"{OPEN}{count}")
