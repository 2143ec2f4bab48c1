"""A ReLU of which some elements are 0 or the identity for good."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from irverify.errors import ShapeError

PIECE = "piece"


class MaskedReLU(nn.Module):
    """Element by element relu(x) where `piece` is -1, 0 where it is 0, x where it is 1; `piece` is int8, `[*shape]`, x
    is `[batch, *shape]`.

    Only the elements with -1 go through a ReLU at all, so that a graph of the network has no others: bounds, encodings
    and files are those of a smaller network. `piece` alone is part of the state.
    """

    piece: Tensor
    through: Tensor
    """Places of the elements that go through the ReLU, in an example as one row; `past`: of those that go past it."""
    past: Tensor
    places: Tensor
    """Where each element is found in these two and a zero behind them."""

    def __init__(self, piece: Tensor) -> None:
        super().__init__()
        self.register_buffer(PIECE, piece.to(torch.int8))
        for name in ("through", "past", "places"):
            self.register_buffer(name, None, persistent=False)
        self.settle(self.piece)

    def settle(self, piece: Tensor) -> None:
        """Takes other pieces, `[*shape]`."""
        self.piece = piece.to(torch.int8)
        flat = self.piece.flatten()
        self.through, self.past = ((flat == kind).nonzero().flatten() for kind in (-1, 1))
        order = torch.cat([self.through, self.past])
        self.places = torch.full_like(flat, len(order), dtype=torch.int64)
        self.places[order] = torch.arange(len(order), device=order.device)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.piece.shape:
            raise ShapeError(f"expected inputs [batch, {', '.join(map(str, self.piece.shape))}], got {list(x.shape)}")
        count, through, past = self.piece.numel(), len(self.through), len(self.past)
        if through == count:
            return relu(x)
        if past == count:
            return x
        if through + past == 0:
            return x * 0.0
        flat = x.flatten(1)
        parts = [flat.index_select(1, self.past)] if past else []
        if through:
            parts.insert(0, relu(flat.index_select(1, self.through)))
        joined = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if through + past < count:
            joined = pad(joined, (0, 1))
        return joined.index_select(1, self.places).reshape(x.shape)

    def extra_repr(self) -> str:
        dead, linear = int((self.piece == 0).sum()), int((self.piece == 1).sum())
        return f"{self.piece.numel()} elements: {dead} zero, {linear} identity"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.settle(self.piece)
