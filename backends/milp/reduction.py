"""Substituting affine values that only other affine values read, as a solver's presolve does not dare to.

Stable neurons are such values. On convolutional networks most are, and without them a program is many times smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from irverify.backends.milp.model import Block, Flags, Floats, Indices, MilpModel

GROWTH = 1.25
"""A block of variables is substituted where the number of entries grows by no more than this factor."""
SAMPLE = 64
"""Rows from which that growth is estimated."""


@dataclass(frozen=True, eq=False)
class Definition:
    """`x[variables] = matrix x + shift`, in terms of variables of earlier blocks."""

    variables: Indices
    matrix: sparse.csr_array
    shift: Floats


@dataclass(frozen=True, eq=False)
class Reduced:
    """`model` has the variables `kept` of another one with `size` variables; `definitions` say what the others are."""

    model: MilpModel
    kept: Indices
    size: int
    definitions: tuple[Definition, ...]

    def expand(self, x: Floats) -> Floats:
        """The point of the original model for a point of the reduced one."""
        full = np.zeros(self.size)
        full[self.kept] = x
        for part in self.definitions:
            full[part.variables] = part.matrix @ full + part.shift
        return full


def reduce(model: MilpModel, keep: Indices | None = None) -> Reduced:
    """The same problem with variables substituted that one equality row defines and no inequality reads, and with those
    dropped that nothing reads. Variables in `keep` and in the objective stay, and so do all that no row defines.

    The bounds of a substituted variable are dropped: in an encoded network they follow from the rest.
    """
    search = _Search(model, keep)
    for block in model.variable_blocks:
        search.visit(block)
    return search.result()


class _Search:
    """Goes through the blocks in order; each one's variables are defined by variables of earlier blocks."""

    def __init__(self, model: MilpModel, keep: Indices | None) -> None:
        self.model = model
        self.rows = model.rows
        self.columns = model.rows.tocsc()
        size = len(model.lower)
        self.candidates, self.own_row = _candidates(model, keep)
        self.gone = np.zeros(size, dtype=bool)
        self.live = _live(model, self.candidates, self.own_row)
        # Row v says what variable v is in terms of the variables that stay, once it is substituted; else it is empty.
        self.solved = sparse.csr_array((size, size))
        self.shift = np.zeros(size)
        self.definitions: list[Definition] = []

    def visit(self, block: Block) -> None:
        """Substitutes the candidates of one block, or only those that nothing reads."""
        members = np.arange(block.start, block.stop)[self.candidates[block.span]]
        dead, live = members[~self.live[members]], members[self.live[members]]
        if live.size:
            definition = self._definition(live)
            solved = self._substituted(definition.matrix)
            if not self._grows(live, solved):
                self.shift[live] = definition.shift + definition.matrix @ np.where(self.gone, self.shift, 0.0)
                self.solved = sparse.csr_array(self.solved + _spread(solved, live, len(self.gone)))
                self._remove(definition)
        if dead.size:
            self._remove(self._definition(dead))

    def _remove(self, definition: Definition) -> None:
        self.gone[definition.variables] = True
        self.definitions.append(definition)

    def _definition(self, members: Indices) -> Definition:
        """What the rows of some variables say about them."""
        rows = self.own_row[members]
        own = self.rows[rows]
        itself = own.indices == np.repeat(members, np.diff(own.indptr))
        at_self = own.data[itself]
        rest = own.copy()
        rest.data = np.where(itself, 0.0, -own.data / np.repeat(at_self, np.diff(own.indptr)))
        rest.eliminate_zeros()
        return Definition(members, rest, self.model.row_lower[rows] / at_self)

    def result(self) -> Reduced:
        model, kept = self.model, np.flatnonzero(~self.gone)
        rows = np.ones(len(model.row_lower), dtype=bool)
        rows[self.own_row[self.gone]] = False
        remaining = self.rows[np.flatnonzero(rows)]
        moved = remaining @ np.where(self.gone, self.shift, 0.0)
        matrix = sparse.csr_array(self._substituted(remaining)[:, kept])
        number = np.cumsum(~self.gone) - 1
        owners = model.owners[rows]
        program = replace(
            model,
            rows=matrix,
            row_lower=model.row_lower[rows] - moved,
            row_upper=model.row_upper[rows] - moved,
            lower=model.lower[kept],
            upper=model.upper[kept],
            integer=model.integer[kept],
            objective=model.objective[kept],
            owners=np.where(owners < 0, -1, number[owners]),
            variable_blocks=_kept_blocks(model.variable_blocks, ~self.gone),
            row_blocks=_kept_blocks(model.row_blocks, rows),
        )
        return Reduced(program, kept, len(number), tuple(self.definitions))

    def _substituted(self, rows: sparse.csr_array) -> sparse.csr_array:
        """Rows over all variables without those that are substituted."""
        leaving = self.gone[rows.indices]
        if not bool(leaving.any()):
            return rows
        return sparse.csr_array(_entries(rows, ~leaving) + _entries(rows, leaving) @ self.solved)

    def _grows(self, members: Indices, solved: sparse.csr_array) -> bool:
        """Whether the readers of some variables would become too large, estimated from some of them."""
        part = sparse.csr_array(self.columns[:, members])
        counts = np.diff(part.indptr)
        counts[self.own_row[members]] = 0
        readers = np.flatnonzero(counts)
        if not readers.size:
            return False
        sample = readers[np.linspace(0, len(readers) - 1, min(SAMPLE, len(readers))).astype(np.int64)]
        before = counts[readers].sum() + solved.nnz
        after = (part[sample] @ solved).nnz * len(readers) / len(sample)
        return bool(after > GROWTH * before)


def _candidates(model: MilpModel, keep: Indices | None) -> tuple[Flags, Indices]:
    """Which variables may be substituted, and the row that defines each."""
    size = len(model.lower)
    owned = model.owners >= 0
    equal = (model.row_lower == model.row_upper) & owned
    own_row = np.full(size, -1)
    own_row[model.owners[equal]] = np.flatnonzero(equal)
    alone = np.bincount(model.owners[owned], minlength=size) == 1
    read = np.zeros(size, dtype=bool)
    read[model.rows[np.flatnonzero(~equal)].indices] = True
    candidates = (own_row >= 0) & alone & ~read & ~model.integer & (model.objective == 0)
    if keep is not None:
        candidates[keep] = False
    return candidates, own_row


def _live(model: MilpModel, candidates: Flags, own_row: Indices) -> Flags:
    """Which candidates are read, over other candidates perhaps, by something that stays."""
    staying = np.ones(len(model.row_lower), dtype=bool)
    staying[own_row[candidates]] = False
    live = np.zeros(len(candidates), dtype=bool)
    fresh = np.unique(model.rows[np.flatnonzero(staying)].indices)
    while fresh.size:
        live[fresh] = True
        reached = np.unique(model.rows[own_row[fresh[candidates[fresh]]]].indices)
        fresh = reached[~live[reached]]
    return live


def _entries(rows: sparse.csr_array, which: Flags) -> sparse.csr_array:
    """Rows with only some of their entries."""
    result = rows.copy()
    result.data = np.where(which, rows.data, 0.0)
    result.eliminate_zeros()
    return result


def _spread(rows: sparse.csr_array, numbers: Indices, size: int) -> sparse.csr_array:
    """A matrix of `size` rows that has `rows` at `numbers`, sorted, and nothing elsewhere."""
    counts = np.zeros(size, dtype=rows.indptr.dtype)
    counts[numbers] = np.diff(rows.indptr)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((rows.data, rows.indices, indptr), shape=(size, rows.shape[1]))


def _kept_blocks(blocks: tuple[Block, ...], kept: Flags) -> tuple[Block, ...]:
    result, start = [], 0
    for block in blocks:
        labels = block.labels[kept[block.span]]
        result.append(Block(block.name, start, labels))
        start += len(labels)
    return tuple(result)
