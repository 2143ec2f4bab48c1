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

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.recording import recorded
from irverify.kernels.bounds import meet
from irverify.passes.adjoints import row_size
from irverify.passes.forms import Patches, Twice, Units, alone, minimum, spread
from irverify.passes.needs import Need
from irverify.passes.onward import Onward
from irverify.passes.passage import Passage
from irverify.passes.propagate import Interval
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


def much(size: int) -> bool:
    """Whether rows of so many bytes, over the largest value, may be looked at on their way."""
    return size > LITTLE


class Sweep(Passage):
    """Rows over elements of a value that tighten its `bounds` in place; where they are of several examples, these are
    of all, `[batch, size]`.

    Into `lean`, like one of them, goes the sum of both bounds that the rows of an element have by themselves (see
    `relaxed`). Where `need` is given to `run`, elements that it does not hold for any more are dropped on the way, at
    the values `stations`. Rows that would take more than `limit` bytes of coefficients over one value are taken further
    one part after the other.
    """

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
        super().__init__(view, target, elements, bounds, sides, owner)
        self.bounds = bounds
        self.limit = limit
        self.lean = lean
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

    def _skipped(self, name: str) -> None:
        self._passed += name in self._stations

    def _looked_at(self, name: str) -> bool:
        return name in self._stations

    def _may_pass(self, onward: Onward) -> bool:
        if self.limit is not None:
            size = self.view.context.graph[onward.to].type.size * self.constant.element_size()
            if self._count * size > self.limit:
                return False
        look = self._need is not None and onward.node in self._stations and self._passed > 0
        return not (look and self._pays(2 * PROBE, WORTH))
