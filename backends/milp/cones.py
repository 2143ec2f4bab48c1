"""The part of a model that some variables depend on: small linear programs instead of one large one."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from irverify.backends.milp.model import Flags, Indices, MilpModel


class Cones:
    """Cuts cones out of one model.

    The cone of some variables holds the rows that define them (see `MilpModel.owners`), the variables in these rows,
    the rows that define those, and so on, and every row without an owner. Rows left out only define variables in terms
    of others, so that bounds over the cone hold for the model, and are as tight for relaxations of networks, where
    each of them can be kept whatever the variables of the cone are.
    """

    def __init__(self, model: MilpModel) -> None:
        self.model = model
        self._order = np.argsort(model.owners, kind="stable")
        count = len(model.lower)
        self._starts = np.searchsorted(model.owners[self._order], np.arange(-1, count + 1))
        self._free = self._order[: self._starts[1]]

    def rows_of(self, variables: Indices) -> Indices:
        """The rows that define these variables."""
        return self._order[_ranges(self._starts[variables + 1], self._starts[variables + 2])]

    def cut(self, targets: Indices) -> tuple[MilpModel, Indices]:
        """The cone of `targets` as a model, and the variables (of the whole model, sorted) that it has kept."""
        model = self.model
        inside = np.zeros(len(model.lower), dtype=bool)
        rows = [self._free]
        fresh = np.union1d(targets, self._columns(self._free))
        while fresh.size:
            inside[fresh] = True
            defining = self.rows_of(fresh)
            rows.append(defining)
            columns = self._columns(defining)
            fresh = np.unique(columns[~inside[columns]])
        return _submodel(model, np.sort(np.concatenate(rows)), inside), np.flatnonzero(inside)

    def groups(self, targets: Indices) -> list[Indices]:
        """`targets` by what their defining rows are made of, such as the channels of a convolution at one place."""
        indptr, indices = self.model.rows.indptr, self.model.rows.indices
        alike: dict[bytes, list[int]] = {}
        for target in targets.tolist():
            rows = self.rows_of(np.array([target]))
            columns = np.sort(indices[_ranges(indptr[rows], indptr[rows + 1])])
            alike.setdefault(columns[columns != target].tobytes(), []).append(target)
        return [np.array(group) for group in alike.values()]

    def _columns(self, rows: Indices) -> Indices:
        indptr, indices = self.model.rows.indptr, self.model.rows.indices
        return np.asarray(indices[_ranges(indptr[rows], indptr[rows + 1])], dtype=np.int64)


def _ranges(starts: Indices, stops: Indices) -> Indices:
    """All numbers of `range(starts[k], stops[k])` for each k, one after the other."""
    counts = (stops - starts).astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    return np.arange(total) - np.repeat(ends - counts - starts, counts)


def _submodel(model: MilpModel, rows: Indices, inside: Flags) -> MilpModel:
    """Some rows of a model over the variables that they need."""
    part = model.rows[rows]
    number = np.cumsum(inside) - 1
    shape = (len(rows), int(inside.sum()))
    matrix = sparse.csr_array((part.data, number[part.indices], part.indptr), shape=shape)
    owners = model.owners[rows]
    return MilpModel(
        rows=matrix,
        row_lower=model.row_lower[rows],
        row_upper=model.row_upper[rows],
        lower=model.lower[inside],
        upper=model.upper[inside],
        integer=model.integer[inside],
        objective=model.objective[inside],
        owners=np.where(owners < 0, -1, number[owners]),
    )
