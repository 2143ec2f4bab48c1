"""Pooling with windows side by side, whose rows reach some elements of the operand only: those that a maximum chooses,
or those of a mean that the activation before it ever passes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from irverify.ir.ops import AveragePool
from irverify.ir.recording import recorded
from irverify.kernels.narrow import fetch, used
from irverify.passes.bent import Lines
from irverify.passes.forms import Columns, Form, spread
from irverify.passes.lines import Relaxation
from irverify.passes.maxima import Selected

SHARE = 0.5
"""More than this share of all elements is no gain."""


@dataclass(frozen=True)
class Narrow:
    """Rows over the windows of a pooling as rows over elements `index` of its operand, of a shape: `[columns]` of one
    example, `[examples, columns]` of all.

    Rows meet the `lines` around what is chosen first. `source`, of the shape of `index`, is the window of each element,
    or one after the last, which stands for zero; None where these are all windows in turn.
    """

    index: Tensor
    shape: tuple[int, ...]
    lines: Lines | None = None
    source: Tensor | None = None
    factor: float = 1.0

    def before(self, form: Form) -> tuple[Columns, Tensor | None]:
        """The rows over the operand, and their constants."""
        wide, constant = spread(form), None
        if self.lines is not None:
            wide, constant = self.lines.bend(wide)
        rows = wide.dense().flatten(1)
        if self.source is not None:
            rows = _fetched(rows * self.factor, self.source, form.owner)
        return Columns(rows, self.index, self.shape, form.owner), constant


def winning(maxima: Selected, examples: int | slice) -> Narrow | None:
    """To the elements that a maximum chooses: `y >= x`, and `y <= x` where the choice is certain, else `y <= ceiling`.
    None where windows may share elements, some ceiling is infinite, or gradients are asked for."""
    if not maxima.pool.windows.side_by_side or recorded(maxima.ceiling) or not bool(maxima.ceiling.isfinite().all()):
        return None
    certain = maxima.certain
    zeros = torch.zeros_like(certain)
    around = Relaxation(torch.ones_like(certain), zeros, certain, torch.where(certain > 0, zeros, maxima.ceiling))
    channels, *plane = maxima.operand
    before = torch.arange(channels, device=certain.device) * math.prod(plane)
    index = maxima.index[examples] + before.reshape(-1, *(1,) * len(plane))
    lines = Lines.of(around, examples).stored(len(maxima.operand))
    return Narrow(index.flatten(-1 - len(plane)), maxima.operand, lines)


def supporting(pool: AveragePool, lines: Lines, shape: tuple[int, ...]) -> Narrow | None:
    """To the elements of the operand, of a shape, that the lines around it ever pass on. None where that is no gain, or
    windows have elements that count for nothing."""
    if not pool.plain:
        return None
    windows, source = _windows(pool, shape, lines.slope.device)
    single = lines.slope.ndim == len(shape)
    index, own = _used(source, windows, lines, single=single)
    if index.shape[1] > SHARE * source.numel():
        return None
    return Narrow(index[0] if single else index, shape, None, own[0] if single else own, 1 / math.prod(pool.kernel))


def _windows(pool: AveragePool, shape: tuple[int, ...], device: torch.device) -> tuple[int, Tensor]:
    """How many windows there are, and that of each flat element of a shape, -1 where there is none."""
    channels, *plane = shape
    extents = [extent // k for extent, k in zip(plane, pool.kernel, strict=True)]
    count = channels * math.prod(extents)
    numbers = torch.arange(count, device=device).reshape(channels, *extents)
    for axis, k in enumerate(pool.kernel, 1):
        numbers = numbers.repeat_interleave(k, axis)
    source = torch.full(shape, -1, device=device)
    source[(slice(None), *(slice(extent) for extent in numbers.shape[1:]))] = numbers
    return count, source.reshape(-1)


def _used(source: Tensor, windows: int, lines: Lines, *, single: bool) -> tuple[Tensor, Tensor]:
    """The elements that are passed on and have a `source`, and this, `[examples, columns]` both. Examples with fewer
    elements than others have the first of all again, of no window, so that its coefficient is zero."""
    given = [lines.slope, lines.rise, lines.base, lines.top]
    found = used(source, windows, *(part if part is None else part[None] if single else part for part in given))
    if found is not None:
        return found
    flat = lines.used().reshape(-1, source.numel()) & (source >= 0)
    counts = flat.sum(1)
    index = flat.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : max(1, int(counts.max()))]
    behind = torch.arange(index.shape[1], device=index.device) >= counts[:, None]
    index = index.masked_fill(behind, 0)
    return index, source[index].masked_fill(behind, windows)


def _fetched(rows: Tensor, source: Tensor, owner: Tensor | None) -> Tensor:
    """The coefficients `[rows, windows]` at `source`, zero behind the last one."""
    found = None if recorded(rows) else fetch(rows, source.reshape(-1, source.shape[-1]), owner)
    if found is not None:
        return found
    rows = pad(rows, (0, 1))
    return rows[:, source] if owner is None else rows.gather(1, source[owner])
