"""Bounds of variables over a continuous model, by linear programs that several processes share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from irverify.backends.milp.cones import Cones
from irverify.backends.milp.expressions import activity
from irverify.backends.milp.model import Flags, Floats, Indices, MilpModel
from irverify.backends.milp.process import Pool
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.tasks import LpTask

FOREVER = 1e9
ROUNDING = 1e-10
"""By how much, relative to 1 + its magnitude, a bound from a linear program is moved outward. Weak duality with
directed rounding makes it rigorous for the rows as they stand; this covers the rounding of the rows themselves."""


@dataclass(frozen=True, eq=False)
class Wishes:
    """Which variables are to be bounded, and how: `targets` (sorted); `knots`, where a target is settled once its
    bounds do not have its knot strictly between them (NaN: never); `sides` `[targets, 2]`, whether the lower and the
    upper bound are asked for; `seen`, the least and the greatest value that each has had in an execution. With `signs`
    a side is asked only as long as it may settle its target."""

    targets: Indices
    knots: Floats
    sides: Flags
    seen: tuple[Floats, Floats]
    signs: bool = False

    @staticmethod
    def plain(targets: Indices, *, lower_only: bool = False) -> Wishes:
        """Bounds for their own sake."""
        count = len(targets)
        sides = np.ones((count, 2), dtype=np.bool_)
        sides[:, 1] = not lower_only
        return Wishes(targets, np.full(count, np.nan), sides, unseen(count))


def unseen(count: int) -> tuple[Floats, Floats]:
    """The range of nothing."""
    return np.full(count, np.inf), np.full(count, -np.inf)


@dataclass
class LinearPrograms:
    """Runs linear programs until a deadline (of `time.time`), and counts them."""

    pool: Pool
    deadline: float = FOREVER
    solved: int = 0
    finished: bool = True

    def bounds(self, model: MilpModel, wishes: Wishes) -> tuple[Floats, Floats]:
        """Bounds of the targets, from those in `model` on; rigorous, see `LpTask`."""
        targets = wishes.targets
        old = model.lower[targets], model.upper[targets]
        if not targets.size:
            return old
        if time.time() >= self.deadline:
            self.finished = False
            return old
        reduced = reduce(model, targets)
        cones = Cones(reduced.model)
        places = np.searchsorted(reduced.kept, targets)
        simple, *exact = box_sums(cones, places)
        asked = np.flatnonzero(wishes.sides.any(axis=1) & ~simple)
        promise = _promise(*old, wishes.knots)
        parts: list[Indices] = []

        def tasks() -> Iterator[LpTask]:
            for group, cone, kept in _parts(cones, places[asked], 2 * len(self.pool.workers)):
                which = asked[np.searchsorted(places[asked], group)]
                which = which[np.argsort(promise[which], kind="stable")]  # what is nearest to settling first
                own = np.searchsorted(kept, places[which])
                parts.append(which)
                yield LpTask(
                    cone, own, cone.lower[own], cone.upper[own], wishes.knots[which], wishes.sides[which],
                    wishes.signs, self.deadline,
                )  # fmt: skip

        lower, upper = old[0].copy(), old[1].copy()
        for which, answer in zip(parts, self.pool.bounds(tasks()), strict=False):
            lower[which], upper[which] = answer.lower, answer.upper
            self.solved, self.finished = self.solved + answer.solved, self.finished and answer.finished
        lower, upper = lower - ROUNDING * (1 + np.abs(lower)), upper + ROUNDING * (1 + np.abs(upper))
        lower[simple], upper[simple] = exact
        return np.maximum(lower, old[0]), np.minimum(upper, old[1])


def _promise(lower: Floats, upper: Floats, knots: Floats) -> Floats:
    """How far the nearer bound is from settling, relative to the width."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.minimum(knots - lower, upper - knots) / (upper - lower))


def box_sums(cones: Cones, targets: Indices) -> tuple[Flags, Floats, Floats]:
    """Which targets are sums of variables that nothing ties together, and the bounds that intervals give these: no
    program gives better ones."""
    model, rows = cones.model, cones.model.rows
    found, own = np.zeros(len(targets), dtype=np.bool_), np.zeros(len(targets), dtype=np.int64)
    if not cones.rows_of(np.array([-1])).size:
        tied = np.bincount(model.owners[model.owners >= 0], minlength=len(model.lower)) > 0
        for index, target in enumerate(targets.tolist()):
            defining = cones.rows_of(np.array([target]))
            if len(defining) == 1:
                entries = slice(rows.indptr[defining[0]], rows.indptr[defining[0] + 1])
                itself = rows.indices[entries] == target
                one = bool((rows.data[entries][itself] == -1).all())
                equal = model.row_lower[defining[0]] == model.row_upper[defining[0]]
                found[index] = one and equal and not tied[rows.indices[entries][~itself]].any()
                own[index] = defining[0]
    sums = rows[own[found]]
    sums.data = np.where(sums.indices == np.repeat(targets[found], np.diff(sums.indptr)), 0.0, sums.data)
    return found, *activity(sums, -model.row_lower[own[found]], model.lower, model.upper)


def _parts(cones: Cones, targets: Indices, wanted: int) -> Iterator[tuple[Indices, MilpModel, Indices]]:
    """Targets that share a cone, their cone, and its variables, in `wanted` parts or more. What needs most of the model
    anyway is put together, so that one program after the other starts from the last one's basis."""
    groups = cones.groups(targets)
    if not groups:
        return
    pieces = math.ceil(wanted / len(groups))
    large: list[Indices] = []
    for group in groups:
        cone, kept = cones.cut(group)
        if len(kept) > len(cones.model.lower) / 2:
            large.append(group)
            continue
        yield from ((group[start::pieces], cone, kept) for start in range(min(pieces, len(group))))
    if large:
        together = np.sort(np.concatenate(large))
        cone, kept = cones.cut(together)
        yield from ((together[start::wanted], cone, kept) for start in range(min(wanted, len(together))))
