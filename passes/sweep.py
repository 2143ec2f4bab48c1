"""Both bounds of many elements of a value, for one example or several: backward rows that cost only what they reach.

The rows are those of `backward`, and so are the bounds, up to rounding. What makes them cheap: rows start as rows of a
weight, not as products with one; over convolutions they are windows as long as these are small; elements of a value
that no line lets through are left out of matrix products; and on the way, wherever bounds of the values that have been
reached decide about an element, its rows go no further. Rows of several examples stay together as long as they are
windows, which say what each meets; planes are cheaper for one example at a time.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from copy import copy
from typing import ClassVar

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Conv, Linear
from irverify.ir.ops.memory import settled
from irverify.ir.recording import recorded
from irverify.kernels.adjoint import TALL
from irverify.kernels.bounds import meet
from irverify.passes.adjoints import before, before_reshape, constants, row_size
from irverify.passes.bent import Lines
from irverify.passes.forms import Dense, Form, Patches, Rows, Twice, Units, alone, joined, minimum, shared, spread
from irverify.passes.needs import Need
from irverify.passes.onward import Onward
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Affine, Relaxed, SpecRows
from irverify.passes.straight import straight, way, with_way
from irverify.passes.view import View
from irverify.rounding import round_down

PROBE = 24
"""Of many elements so many are looked at first, to see whether a look at all is worth while."""
WORTH = 0.06
"""The share of them that must be decided for it, and of all that sweeps of the same examples have looked at;"""
WORTH_FLAT = 0.2
"""over a value of one axis, whose layers are products and take little time for a row."""
LITTLE = 2**17
"""Rows that take no more bytes over any value are not looked at: the steps ahead take as long for some of them."""
NARROW = 512
"""Bytes of a row up to which one call over rows of all examples costs less than one for each example."""
FEW = 24
"""Examples with fewer elements than this stay together over whole planes as well,"""
LONG = 2**19
"""unless the rows of one take so many bytes."""
PART = 2**18
"""Rows go through a residual block in parts of about so many bytes, which stay in a cache."""


def much(size: int) -> bool:
    """Whether rows of so many bytes, over the largest value, may be looked at on their way."""
    return size > LITTLE


class Sweep:
    """The rows `v_j` and `-v_j` for `elements` j `[pairs]` of the flat value `target`, on their way to the inputs.

    `bounds` are those of the whole flat value, tightened in place; into `lean`, like one of them, goes the sum of both
    bounds that the rows of an element have by themselves (see `relaxed`). Where `need` is given to `run`, elements that
    it does not hold for any more are dropped on the way, at the values `stations`. With `sides` `[pairs]`, 1 or -1,
    each element has the row `v_j` or `-v_j` only. With `owner` `[pairs]`, ascending, the elements are of several
    examples, `bounds` of all, `[batch, size]`, and so is the view. Rows that would take more than `limit` bytes of
    coefficients over one value are taken further one part after the other.
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
        limit: int | None = None,
        lean: Tensor | None = None,
    ) -> None:
        self.view = view
        self.elements = elements
        self.bounds = bounds
        self.sides = sides
        self.owner = owner
        self.limit = limit
        self.lean = lean
        shape = view.context.graph[target].type.shape
        self.pending: dict[str, Rows] = {target: Units(elements, shape, bounds.lower, owner)}
        self.constant = bounds.lower.new_zeros(elements.shape[0])
        self.signed = False
        self._spare: dict[str, Rows] = {}
        """Rows over some values that nobody but `pending` has: who takes them further may write over them."""
        self._frees = not (self._noted or recorded(*bounds))  # a derivative reads what was looked at on the way, too
        self._apart = owner is None
        self._passed = 0
        self._screened = ""
        self._need: Need | None = None
        self._stations: frozenset[str] = frozenset()

    def run(self, need: Need | None, stations: frozenset[str]) -> None:
        """Tightens the bounds."""
        self._need, self._stations = need, stations
        ways = with_way(self.view.context.graph)
        for node in reversed(self.view.context.graph.nodes):
            if node.name not in self.pending:
                continue
            if need is not None and self.signed and node.name in stations and node.name != self._screened:
                # At the first station bounds of what lies there say no more than the interval of the target does.
                self._passed += 1
                self._screened = node.name
                if self._passed > 1 and not self._screen(need):
                    return
            if node.name in ways and len(self.pending) == 1 and self._unseen(node.name) and self._straight(node.name):
                break
            if (parts := self._parts(node)) is not None:
                for part in parts:
                    part.run(need, stations)
                return
            self._step(node)
        self._sign()
        self._meet(self.elements, self.owner, self.sides, self.constant, self.lean)

    def _unseen(self, name: str) -> bool:
        """Whether nobody looks at the rows over a value any more on their way through dense layers to an input."""
        if self._need is None or not self._pays(PROBE, WORTH_FLAT):
            return True
        onward = way(self.view.context.graph, name)
        assert onward is not None
        ahead = len(onward.nodes & self._stations - {name})
        return not ahead or self._passed + ahead < 2  # at the first station there is nothing to see

    def _straight(self, name: str) -> bool:
        """Takes the rows over a value to the inputs in one go; whether that could be done."""
        if self.sides is not None and not isinstance(self.pending[name], Units):
            self._sign()
        elif self.sides is not None and not self.signed:
            return False
        found = straight(self.view, name, self._whole(name), self.constant, twice=not self.signed)
        if found is None:
            return False
        self.constant, self.signed = found, True
        return True

    def _parts(self, node: Node) -> Iterator[Sweep] | None:
        """Sweeps that take the rows over a node further instead of this one; None where it can by itself."""
        form, context = self.pending[node.name], self.view.context
        form = form.half if isinstance(form, Twice) else form
        most = self._count * self.view.widest * self.constant.element_size()
        if self._apart and (self.limit is None or most <= self.limit) and not isinstance(form, Patches):
            return None  # windows may take more than whole planes
        if node.name in context.shortcuts:
            size, plane = row_size(None, [node.type.shape], form)
        elif (pooled := self.view.pooled(node.name, self._count)) is not None:
            size, plane = max(node.type.size, context.graph[pooled.to].type.size), False
        elif (narrow := self.view.narrow(node.name, self._count)) is not None:
            size, plane = max(node.type.size, narrow.index.shape[-1]), False
        else:
            shapes = [context.graph[name].type.shape for name in node.inputs] or [node.type.shape]
            size, plane = row_size(node.op, shapes, form)
        if plane and not self._apart:
            assert self.owner is not None
            self._apart = True
            width = size * self.constant.element_size()
            few = FEW if width > NARROW else math.inf
            counts = torch.bincount(self.owner).tolist()
            alone = {example for example, count in enumerate(counts) if count >= few or count * width >= LONG}
            if alone:
                return self._by_example(counts, alone)
        if self.limit is None or self.elements.shape[0] < 2:
            return None
        rows = self._count
        most = max(1, self.limit // max(1, size * self.constant.element_size()))
        if rows <= most:
            return None
        pairs = torch.arange(self.elements.shape[0], device=self.elements.device)
        return (self._part(some) for some in pairs.split(max(1, most if self.sides is not None else most // 2)))

    @property
    def _count(self) -> int:
        """How many rows there are once their signs are apart."""
        return self.elements.shape[0] * (1 if self.sides is not None else 2)

    def _by_example(self, counts: Sequence[int], alone: Container[int]) -> Iterator[Sweep]:
        """A sweep for each example that goes alone, and one for all others; owners are in ascending order, so many
        elements each."""
        pairs = torch.arange(self.elements.shape[0], device=self.elements.device).split(counts)
        others = [part for example, part in enumerate(pairs) if example not in alone and part.shape[0]]
        if others:
            yield self._part(torch.cat(others))
        for example, part in enumerate(pairs):
            if example in alone:
                yield self._part(part)._of(example)

    def _part(self, pairs: Tensor) -> Sweep:
        """The elements at these places alone, as far as they have come."""
        part = copy(self)
        part._keep(pairs)
        return part

    def _of(self, example: int) -> Sweep:
        """The same, seen as the one example that all elements are of."""
        self.view = self.view.single(example)
        self.bounds = Interval(*(side[example] for side in self.bounds))
        self.lean = None if self.lean is None else self.lean[example]
        self.owner = None
        self.pending, self._spare = {name: alone(form, example) for name, form in self.pending.items()}, {}
        return self

    def lower_bounds(self) -> Tensor:
        """Lower bounds of the rows and then of their negatives, `[2 pairs]`; nothing is tightened. Differentiable."""
        for node in reversed(self.view.context.graph.nodes):
            if node.name in self.pending:
                self._step(node)
        self._sign()
        return self.constant

    def _pays(self, least: int, share: float) -> bool:
        """Whether it is worth while to look which elements are decided; see `Looks.pay`."""
        large = much(self._count * self.view.widest * self.constant.element_size())
        return large and self.view.looks.pay(least, share)

    def _screen(self, need: Need) -> bool:
        """Drops the elements that bounds of the values reached so far decide, as long as that pays; whether any are
        left."""
        count, looks = self.elements.shape[0], self.view.looks
        flat = len(self.view.context.graph[self._screened].type.shape) == 1
        share = WORTH_FLAT if flat else WORTH
        if not self._pays(PROBE if flat else 2 * PROBE, share):
            return True
        if count >= 8 * PROBE:
            probe = torch.arange(0, count, count // PROBE, device=self.elements.device)
            decided = len(probe) - int(self._open(need, probe).sum())
            looks.note(len(probe), decided)
            if not decided > share * len(probe):
                return True
        kept = self._open(need, None).nonzero().flatten()
        looks.note(count, count - kept.shape[0])
        if kept.shape[0] < count:
            self._keep(kept)
        return kept.shape[0] > 0

    def _keep(self, pairs: Tensor) -> None:
        """Leaves only the elements at these places."""
        rows = self._rows(pairs)
        self.elements = self.elements.index_select(0, pairs)
        self.sides = None if self.sides is None else self.sides[pairs]
        self.owner = None if self.owner is None else self.owner[pairs]
        self.constant = self.constant.index_select(0, rows)
        self.pending, self._spare = {name: form.select(rows) for name, form in self.pending.items()}, {}

    def _rows(self, pairs: Tensor) -> Tensor:
        """The rows of the elements at these places."""
        if self.sides is not None or not self.signed:
            return pairs
        return torch.cat([pairs, pairs + self.elements.shape[0]])

    def _open(self, need: Need, pairs: Tensor | None) -> Tensor:
        """Which of the elements (of those at these places) bounds of the values reached so far, which are met, do not
        decide."""
        found, pending = self.constant, list(self.pending.items())
        elements, owner, sides = self.elements, self.owner, self.sides
        if pairs is not None:
            rows = self._rows(pairs)
            found, pending = found[rows], [(name, form.select(rows)) for name, form in pending]
            elements, sides = elements[pairs], None if sides is None else sides[pairs]
            owner = None if owner is None else owner[pairs]
        for name, form in pending:
            found = found + minimum(spread(form), *self.view.box(name))
        return need(*self._meet(elements, owner, sides, found))

    def _meet(
        self,
        elements: Tensor,
        owner: Tensor | None,
        sides: Tensor | None,
        found: Tensor,
        lean: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Intersects the bounds with lower bounds of the rows of elements; NaN says nothing. What is known of these
        elements then."""
        lower, upper = self.bounds
        found = round_down(found, lower.dtype)  # a cast on the way leaves rows of another type
        if not recorded(lower, upper, found):
            known = meet(lower, upper, found, elements, owner, sides, lean)
            if known is not None:
                return known
        places = elements if owner is None else (owner, elements)
        if sides is None:
            low, high = found.chunk(2)
        else:
            low, high = found.masked_fill(sides < 0, -math.inf), found.masked_fill(sides > 0, -math.inf)
        if lean is not None:
            lean[places] = low - high if sides is None else lean[places] + sides * found
        lower[places] = torch.fmax(lower[places], low)
        upper[places] = torch.fmin(upper[places], -high)
        return lower[places], upper[places]

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
        if onward.around and onward.node in self._stations:
            self._passed += 1
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
        self._passed += second.node in self._stations
        self._skipped(first.to)
        return True

    def _next(self, onward: Onward) -> Onward | None:
        """How rows pass on from where one takes them, over an activation and a convolution: where their signs differ
        already, no other rows come there, and nobody looks at them or notes them."""
        name, context = onward.to, self.view.context
        if not self.signed or self._noted or name in self._stations or name in context.shortcuts:
            return None
        if len(context.graph.users(name)) > 1:
            return None
        found = self.view.onward(name)
        return found if found is not None and found.around and self._may_pass(found) else None

    def _skipped(self, name: str) -> None:
        """Rows have passed a node on their way over another."""

    def _may_pass(self, onward: Onward) -> bool:
        """Whether rows need not stop at a convolution on their way."""
        if self.limit is not None:
            size = self.view.context.graph[onward.to].type.size * self.constant.element_size()
            if self._count * size > self.limit:
                return False
        look = self._need is not None and onward.node in self._stations and self._passed > 0
        return not (look and self._pays(2 * PROBE, WORTH))

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
