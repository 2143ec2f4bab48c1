"""Work on some examples of a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCK = 2**20
"""How many elements of the largest rows a block has at most on a CPU, if that are more than LEAST examples."""
LEAST = 8
"""With fewer examples, weights would be read too often."""


class InBlocks(nn.Module):
    """Code whose results have an entry for each example, called with as many examples as stay in a processor's cache;
    on other devices and in compiled programs with all of them."""

    def __init__(self, code: nn.Module, size: int) -> None:
        """`size`: elements of the largest value for each example."""
        super().__init__()
        self._code, self._size = code, size

    def forward(self, rows: Tensor, shared: Sequence[Tensor], each: Sequence[Tensor]) -> Tensor:
        batch, step = rows.shape[0], max(LEAST, BLOCK // self._size)
        if batch <= step or rows.device.type != "cpu" or torch.compiler.is_compiling():
            whole: Tensor = self._code(rows, shared, each)[0]
            return whole.reshape(batch, -1)
        step = -(-batch // -(-batch // step))  # as many blocks, of one size
        parts = zip(rows.split(step), zip(*(part.split(step) for part in each), strict=True), strict=True)
        return torch.cat([self._code(some, shared, part)[0] for some, part in parts]).reshape(batch, -1)
