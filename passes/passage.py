"""Rows over elements of a value on their way backwards, through one node after the other, in whatever form they take;
their negatives come along, and are made where lines tell them from the rows. Rows that nobody else has are written
over."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Conv, Linear
from irverify.ir.ops.memory import settled
from irverify.ir.recording import recorded
from irverify.kernels.adjoint import TALL
from irverify.passes.adjoints import before, before_reshape, constants
from irverify.passes.bent import Lines
from irverify.passes.forms import Dense, Form, Rows, Twice, Units, joined, minimum, shared, spread
from irverify.passes.onward import Onward
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Affine, Relaxed, SpecRows
from irverify.passes.view import View

PART = 2**18
"""Rows go through a residual block in parts of about so many bytes, which stay in a cache."""


class Passage:
    """The rows `v_j` and `-v_j` for `elements` j `[pairs]` of the flat value `target`, which has these `bounds`, on
    their way to the inputs.

    With `sides` `[pairs]`, 1 or -1, each element has the row `v_j` or `-v_j` only. With `owner` `[pairs]`, ascending,
    the elements are of several examples, and so is the view.
    """

    _noted: ClassVar[bool] = False
    """Whether somebody notes rows on their way, and reads them later."""

    def __init__(
        self,
        view: View,
        target: str,
        elements: Tensor,
        bounds: Interval,
        sides: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> None:
        self.view = view
        self.elements = elements
        self.sides = sides
        self.owner = owner
        shape = view.context.graph[target].type.shape
        self.pending: dict[str, Rows] = {target: Units(elements, shape, bounds.lower, owner)}
        self.constant = bounds.lower.new_zeros(elements.shape[0])
        self.signed = False
        self._spare: dict[str, Rows] = {}
        """Rows over some values that nobody but `pending` has: who takes them further may write over them."""
        self._frees = not (self._noted or recorded(*bounds))  # a derivative reads what was looked at on the way, too

    def lower_bounds(self) -> Tensor:
        """Lower bounds of the rows and then of their negatives, `[2 pairs]`; nothing is tightened. Differentiable."""
        for node in reversed(self.view.context.graph.nodes):
            if node.name in self.pending:
                self._step(node)
        self._sign()
        return self.constant

    @property
    def _count(self) -> int:
        """How many rows there are once their signs are apart."""
        return self.elements.shape[0] * (1 if self.sides is not None else 2)

    def _sign(self) -> None:
        """From here on the rows and their negatives go different ways."""
        if self.signed:
            return
        self.signed, self._spare = True, {}
        sides = self.sides
        pending = [(name, form) for name, form in self.pending.items() if not isinstance(form, Twice)]  # all of them
        if sides is None:
            self.constant = torch.cat([self.constant, -self.constant])
            self.pending.update((name, Twice(form)) for name, form in pending)
        elif bool((sides < 0).any()):
            self.constant = self.constant * sides
            self.pending.update((name, form.times(sides)) for name, form in pending)

    def _whole(self, name: str) -> Form:
        """All rows over a value."""
        form = self.pending[name]
        if isinstance(form, Twice):
            form = self.pending[name] = form.whole()
        return form

    def _step(self, node: Node) -> None:
        """Takes the rows over a node to its operands."""
        context = self.view.context
        if node.name in context.known:
            self.constant = self.constant + self._whole(node.name).dot(self.view.known(node.name))
            del self.pending[node.name]
            return
        if node.name in context.shortcuts:
            self._cut_short(node)
            return
        relaxed = context.relaxed.get(node.name)  # nothing for an input
        rows_of_matrix = isinstance(relaxed, SpecRows) and isinstance(self.pending[node.name], Units)
        pooled = self.view.pooled(node.name, self._count)
        if pooled is not None or not (rows_of_matrix or isinstance(relaxed, Affine)):
            self._sign()
        spare = self._spare.pop(node.name, None)
        if pooled is None and self._twice(node, relaxed):
            return
        made = self._frees and isinstance(self.pending[node.name], Twice)
        form = self._whole(node.name)
        del self.pending[node.name]
        if relaxed is None:
            self.constant = self.constant + self._over_inputs(node.name, form)
            return
        if pooled is not None and (found := pooled.before(form)) is not None:
            self.constant = self.constant + found[1]
            self._add(pooled.to, found[0], own=True)
            return
        self._pass(node, relaxed, form, mine=made or spare is form)

    def _pass(self, node: Node, relaxed: Relaxed, form: Form, *, mine: bool) -> None:
        """Takes rows that were over a node to its operands. `mine`: nobody has them but who waits for others."""
        looked_at = self.pending.items() if mine or self._spare else ()
        sharing = [name for name, other in looked_at if shared(form, other)]
        spent = mine and not sharing
        if type(form) is Dense:
            if mine and len(sharing) == 1 and self._in_parts(node.name, form, sharing[0]):
                return
            if self._at_once(node.name, form, spent=spent):
                return
        lines = self.view.lines(node.name, form)
        own = lines is not None or isinstance(node.op, Conv | Linear)  # rows that nobody else holds
        for name in () if own else sharing:  # what is passed on may be a view of these
            self._spare.pop(name, None)
        parts, constant = self._through(node, relaxed, lines, form, spent=spent)
        if constant is not None:
            self.constant = self.constant + constant
        for operand, part in zip(node.inputs, parts, strict=False):  # some operands are passed nothing
            summed = operand in self.pending
            self._add(operand, part, own=own)
            made = self.pending[operand]
            if self._frees and (lines is not None or (mine and part is form and (summed or made is form))):
                self._spare[operand] = made  # what is settled may be a view of the form

    def _twice(self, node: Node, relaxed: Relaxed | None) -> bool:
        """Takes rows, and with them their negatives, which are not there yet, over a node; whether it was done."""
        rows = self.pending[node.name]
        if not isinstance(rows, Twice):
            return False
        half = rows.half
        if type(half) is Dense and relaxed is not None and self._at_once(node.name, half, twice=True):
            del self.pending[node.name]
            return True
        if not isinstance(relaxed, Affine):
            return False
        del self.pending[node.name]
        parts, constant = self._through(node, relaxed, None, half)
        if constant is not None:
            self.constant = self.constant + torch.cat([constant, -constant])
        for operand, part in zip(node.inputs, parts, strict=False):
            self._add(operand, Twice(part), own=isinstance(node.op, Conv | Linear))
        return True

    def _at_once(self, name: str, form: Dense, *, spent: bool = False, twice: bool = False) -> bool:
        """Takes rows over a value, where that is possible, through the convolution that makes it or that an activation
        reads; whether it was. Those that are `spent` may be written over; with `twice` their negatives go with them."""
        onward = self.view.onward(name)
        if onward is None or (onward.around and not self._may_pass(onward)):
            return False
        found = onward.before(form, spent=spent, twice=twice and onward.around)
        if found is None:
            return False
        if onward.around:
            self._skipped(onward.node)
        part: Rows
        part, constant = found
        if twice and not onward.around:
            part, constant = Twice(found[0]), torch.cat([constant, -constant])
        self.constant = self.constant + constant
        waiting = self.pending.get(onward.to)
        made = part if waiting is None else joined(waiting, part, own=True)
        self.pending[onward.to] = made  # as rows should stand
        if self._frees:
            self._spare[onward.to] = made
        return True

    def _in_parts(self, name: str, form: Dense, twin: str) -> bool:
        """Takes rows some at a time through two convolutions and the activation between them, where that is possible,
        to a value over which the same rows wait, and adds them to these: a residual block. Whether it was done."""
        count, size = form.coefficients.shape[0], form.coefficients.nbytes
        parts = min(size // PART, count // (TALL * torch.get_num_threads()))
        alone = form.owner is None and self.pending[twin] is form
        first = self.view.onward(name) if parts > 1 and alone else None
        second = None if first is None or first.around else self._next(first)
        if first is None or second is None or second.to != twin:
            return False
        constants: list[Tensor] = []
        for rows in form.coefficients.tensor_split(parts):
            between = first.before(Dense(rows), spent=False)
            found = None if between is None else second.before(between[0], spent=True)
            if between is None or found is None:
                if constants:
                    raise MemoryError("no memory for rows of a residual block")
                return False
            constants.append(between[1] + found[1])
            rows.add_(found[0].coefficients)
        self.constant = self.constant + torch.cat(constants)
        self._skipped(first.to)
        self._skipped(second.node)
        return True

    def _next(self, onward: Onward) -> Onward | None:
        """How rows pass on from where one takes them, over an activation and a convolution: where their signs differ
        already, no other rows come there, and nobody looks at them or notes them."""
        name, context = onward.to, self.view.context
        if not self.signed or self._noted or self._looked_at(name) or name in context.shortcuts:
            return None
        if len(context.graph.users(name)) > 1:
            return None
        found = self.view.onward(name)
        return found if found is not None and found.around and self._may_pass(found) else None

    def _skipped(self, name: str) -> None:
        """Rows have passed a node that they never stood over."""

    def _may_pass(self, onward: Onward) -> bool:
        """Whether rows need not stop at a convolution on their way."""
        return True

    def _looked_at(self, name: str) -> bool:
        """Whether rows over a value are looked at."""
        return False

    def _through(
        self, node: Node, relaxed: Relaxed, lines: Lines | None, form: Form, *, spent: bool = False
    ) -> tuple[tuple[Form, ...], Tensor | None]:
        """Rows over a node as rows over its operands, and their constants; None is zero. Those that are `spent` may be
        written over."""
        narrow = self.view.narrow(node.name, self._count)
        if narrow is not None:
            columns, constant = narrow.before(form)
            return (columns,), constant
        if isinstance(relaxed, Affine):
            parts, offset = before(node, relaxed, form, self.view.support), relaxed.offset
            if parts is not None:
                return parts, None if offset is None else constants(form, offset, node.type.shape)
        elif lines is not None:
            bent, constant = lines.bend(spread(form), spent=spent)
            return (bent,), constant
        elif isinstance(relaxed, SpecRows) and isinstance(form, Units):
            owner = self.view.example or 0 if form.owner is None else form.owner
            rows, constant = relaxed.rows(form.elements, owner)
            return (Dense(rows, form.owner),), constant
        dense, constant = relaxed.through(form.dense(), lambda tensor: self.view.gathered(tensor, form.owner))
        return tuple(Dense(part, form.owner) for part in dense), constant

    def _add(self, operand: str, part: Rows, *, own: bool = False) -> None:
        if isinstance(part, Twice):
            part = Twice(self._settled(operand, part.half))
        else:
            part = self._settled(operand, part)
        self._spare.pop(operand, None)
        self.pending[operand] = joined(self.pending[operand], part, own=own) if operand in self.pending else part

    def _settled(self, operand: str, part: Form) -> Form:
        """Rows in an order in memory that those over a value may have."""
        if isinstance(part, Dense) and self.view.pooled(operand, self._count) is None:  # which takes either order
            coefficients = settled(part.coefficients)
            part = part if coefficients is part.coefficients else part.with_coefficients(coefficients)
        return part

    def _cut_short(self, node: Node) -> None:
        """Takes the rows over a node to where its shortcut leads."""
        self._sign()
        operand, form = self.view.context.shortcuts[node.name].operand, spread(self.pending.pop(node.name))
        lines = self.view.lines(node.name, form)
        assert lines is not None
        passed: Form
        passed, constant = lines.bend(form)
        shape = self.view.context.graph[operand].type.shape
        if shape != node.type.shape:
            reshaped = before_reshape(passed, shape)
            passed = Dense(passed.dense().reshape(-1, *shape), passed.owner) if reshaped is None else reshaped
        if constant is not None:
            self.constant = self.constant + constant
        self._add(operand, passed)

    def _over_inputs(self, name: str, form: Form) -> Tensor:
        region = self.view.context.regions[name]
        if region.is_box:
            return minimum(spread(form), *self.view.box(name))
        if form.owner is not None:
            return region.select(form.owner).lower_of(form.dense()[:, None])[:, 0]
        chosen = region if self.view.example is None else region.select(self.view.example)
        return chosen.lower_of(form.dense()[None])[0]
