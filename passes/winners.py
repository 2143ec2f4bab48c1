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
    def open(self) -> Tensor:
        """The windows with several candidates."""
        return (self.counts > 1).nonzero().flatten()

    def contested(self) -> Tensor:
        """The candidates of the open windows, `[open windows, most]`."""
        return self.places[self.open][:, : int(self.counts.max())]


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
        rank, open_ = self.builder.type(operand).rank, known.open
        flat = self.add(Reshape((self.builder.type(operand).size,)), operand, role="flat") if rank > 1 else operand
        settled = (known.counts == 1).nonzero().flatten()
        if not len(open_):
            name = self.add(Gather(known.places[:, 0], 0), flat, role="winners")
            return self.finish(Reshape(self.node.type.shape), name)
        chosen = self.add(Gather(known.places[settled, 0], 0), flat, role="winners")
        both = self.add(Concat(0), self._contest(flat, known), chosen, role="parts")
        order = places_among(torch.cat([open_, settled]), len(known.counts))
        return self.finish(Reshape(self.node.type.shape), self.add(Gather(order, 0), both, role="back"))

    def _contest(self, flat: str, known: Winners) -> str:
        """The maxima of the open windows."""
        contested = known.contested()
        count, most = contested.shape
        name = self.add(Gather(contested.reshape(-1), 0), flat, role=UNSTABLE)
        name = self.add(Reshape((1, count, most)), name, role="windows")
        pooling = MaxPool((1, most), (1, most), ((0, 0), (0, 0)), (1, 1))
        return self.add(Reshape((count,)), self.add(pooling, name, role="maxima"), role=OPEN)
