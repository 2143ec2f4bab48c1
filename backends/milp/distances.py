"""How far an input is from the middle of its region, as a variable of an encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from irverify.backends.milp.encoding import Encoding
from irverify.backends.milp.expressions import EPSILON, concatenated
from irverify.backends.milp.model import Floats, Indices, ModelBuilder, Terms
from irverify.backends.milp.names import Norm, norm_of
from irverify.errors import UsageError
from irverify.regions import L1, L2, Region
from irverify.regions.balls import Ball


@dataclass(frozen=True, eq=False)
class Nearest:
    """The objective of the nearest input that violates a property, in `norm` around `center`.

    linf and l1 are linear and exact. l2 is replaced by max(|d|_inf, |d|_1 / sqrt(n)) <= |d|_2, n the number of inputs
    that can move: the optimum is a lower bound of the distance of the nearest input, and the distance of the input
    found is an upper bound. None as norm is that of the region (linf for boxes), as centre that of its balls (the
    middle of a box); a centre has one array or tensor for each input of the network.
    """

    norm: Norm | None = None
    center: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.norm is not None:
            norm_of(self.norm)


def distance(encoding: Encoding, nearest: Nearest) -> int:
    """Appends the rows of a distance, and returns the variable that, minimised, is that distance."""
    builder, values = encoding.builder, [encoding.values[node.name] for node in encoding.graph.inputs]
    x = concatenated(values).columns  # inputs are variables as they stand
    center = _center(encoding, nearest, [len(value) for value in values])
    lower, upper = (side[x] for side in builder.bounds())
    moving = np.flatnonzero((lower < upper) | (lower != center))
    x, center = x[moving], center[moving]
    reach = np.maximum(np.abs(lower[moving] - center), np.abs(upper[moving] - center))
    apart = builder.variables("apart", 0.0, reach, labels=moving, value=lambda point: np.abs(point[x] - center))
    for role, sign in (("above", 1.0), ("below", -1.0)):
        builder.rows(
            f"apart.{role}", [Terms(apart), Terms(x, -sign)], -sign * center, np.inf, owner=apart, labels=moving
        )
    return _total(builder, nearest.norm or _norm_of(encoding.regions[0]), apart, reach)


def _total(builder: ModelBuilder, norm: Norm, apart: Indices, reach: Floats) -> int:
    """The variable of the norm of some absolute differences."""
    count = len(apart)
    factor = {"linf": 0.0, "l1": 1.0, "l2": 1 / max(1.0, float(np.sqrt(count)) * (1 + 4 * EPSILON))}[norm]

    def size(d: Floats) -> float:
        return max(factor * float(d.sum()), 0.0 if norm == "l1" else float(d.max(initial=0.0)))

    total = builder.variables("distance", 0.0, [size(reach)], value=lambda point: np.array([size(point[apart])]))
    if norm != "l1":
        same = np.repeat(total, count)
        builder.rows("distance.each", [Terms(same), Terms(apart, -1.0)], np.zeros(count), np.inf, owner=same)
    if norm != "linf":
        row = sparse.csr_array(np.full((1, count), -factor))
        builder.rows("distance.sum", [Terms(total), Terms(apart, row)], [0.0], np.inf, owner=total)
    return int(total[0])


def _norm_of(region: Region) -> Norm:
    return "l1" if isinstance(region, L1) else "l2" if isinstance(region, L2) else "linf"


def _center(encoding: Encoding, nearest: Nearest, sizes: list[int]) -> Floats:
    given = nearest.center
    if given is None:
        given = [part.x if isinstance(part, Ball) else part.center for part in encoding.regions]
    flat = [torch.as_tensor(part).detach().cpu().double().reshape(-1).numpy() for part in given]
    if [len(part) for part in flat] != sizes or not all(bool(np.isfinite(part).all()) for part in flat):
        raise UsageError(f"expected a finite centre of {sizes} elements, got {[len(part) for part in flat]}")
    return np.concatenate(flat)
