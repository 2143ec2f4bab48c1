"""What rows over values meet on their way to the inputs: lines around nonlinear values, poolings, and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import AveragePool, Elementwise, MaxPool, Reshape
from irverify.ir.ops.memory import planes_prefer_last
from irverify.ir.recording import recorded
from irverify.kernels.adjoint import CHIP, SHORT
from irverify.kernels.bounds import middle
from irverify.kernels.native import watched
from irverify.passes.backward import Context
from irverify.passes.bent import ColumnLines, Lines, stored
from irverify.passes.forms import Columns, Form
from irverify.passes.lines import Drawn
from irverify.passes.maxima import Selected
from irverify.passes.narrow import Narrow, supporting, winning
from irverify.passes.onward import Onward, onward
from irverify.passes.pooled import Pooled, pooled
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Relaxation

PLANES = 3
"""The axes of a value `[channels, height, width]`, which stands in memory in another order where rows meet it."""
LARGE = 2**19
"""From so many coefficients over the operand of a pooling on rows have some of them only."""


@once_a_graph
def poolings(graph: Graph) -> frozenset[str]:
    """The poolings over windows."""
    return frozenset(node.name for node in graph if isinstance(node.op, MaxPool | AveragePool))


@once_a_graph
def widest(graph: Graph) -> int:
    """How many elements the largest value has."""
    return max(node.type.size for node in graph)


@dataclass
class Looks:
    """At how many elements sweeps have looked on their way, and how many of them were decided there."""

    elements: int = 0
    decided: int = 0

    def note(self, elements: int, decided: int) -> None:
        self.elements += elements
        self.decided += decided

    def pay(self, least: int, share: float) -> bool:
        """Whether more than this share was decided; nobody knows before `least` elements."""
        return self.elements < least or self.decided > share * self.elements


class View:
    """What rows of one example meet, or with `example` None those of any: lines, and intervals of the values before the
    target."""

    def __init__(self, context: Context, example: int | None, intervals: Mapping[str, Interval]) -> None:
        self.context = context
        self.example = example
        self._chosen: int | slice = slice(None) if example is None else example
        self._intervals = intervals
        self._lines: dict[str, Lines | None] = {}
        self._stored: dict[str, Lines | None] = {}
        self._columns: dict[str, tuple[Tensor, ColumnLines]] = {}
        self._narrow: dict[str, Narrow | None] = {}
        self._pooled: dict[str, Pooled | None] = {}
        self._onward: dict[str, Onward | None] = {}
        self._boxes: dict[str, tuple[Tensor, Tensor]] = {}
        self._supports: dict[str, Tensor | None] = {}
        self._single: dict[int, View] = {}
        self.looks = Looks()
        self.widest = widest(context.graph)
        self._poolings = poolings(context.graph)

    def single(self, example: int) -> View:
        """The view of one of all examples; made once."""
        if example not in self._single:
            self._single[example] = View(self.context, example, self._intervals)
        return self._single[example]

    def lines(self, name: str, form: Form | None = None) -> Lines | None:
        """The lines around a node, or around what a shortcut leads over, for rows of this form; None where it has none
        of the plain kind."""
        if isinstance(form, Columns) and (lines := self._plain(name)) is not None:
            index, kept = self._columns.get(name, (None, None))
            if kept is None or index is not form.index:
                kept = lines.at(form)
                self._columns[name] = form.index, kept
            return kept
        return self._met(name)

    def _met(self, name: str) -> Lines | None:
        """The lines as rows over all elements or windows meet them."""
        if name not in self._stored:
            relaxed = self._relaxation(name)
            self._stored[name] = None if relaxed is None else Lines.met(relaxed, self._chosen)
        return self._stored[name]

    def _plain(self, name: str) -> Lines | None:
        """The lines in the order of the value's axes."""
        if len(self.context.graph[name].type.shape) != PLANES:
            return self._met(name)
        if name not in self._lines:
            drawn = self._stored[name] if isinstance(self.context.relaxed.get(name), Drawn) else None
            relaxed = self._relaxation(name)
            found = None if relaxed is None else Lines.of(relaxed, self._chosen)
            self._lines[name] = found if drawn is None else drawn.ordered()
        return self._lines[name]

    def draw(self, name: str) -> None:
        """Makes the lines around a node, where it has plain ones, in place of all that they are made from; for who
        knows that no other view's rows meet it."""
        if self._met(name) is not None:
            self.context.relaxed[name] = Drawn()

    def _relaxation(self, name: str) -> Relaxation | None:
        """The lines of all examples around a node, or around what a shortcut leads over, where they are plain."""
        shortcut = self.context.shortcuts.get(name)
        relaxed = self.context.relaxed.get(name) if shortcut is None else shortcut.lines
        return relaxed if isinstance(relaxed, Relaxation) and relaxed.finite else None

    def pooled(self, name: str, rows: int) -> Pooled | None:
        """How so many rows pass a pooling together with what it reads; None where they do not."""
        if name not in self._poolings or rows < SHORT or not CHIP or watched():
            return None
        if name not in self._pooled:
            chosen = slice(None) if self.example is None else slice(self.example, self.example + 1)
            self._pooled[name] = pooled(self.context, self.context.graph[name], chosen)
        return self._pooled[name]

    def onward(self, name: str) -> Onward | None:
        """How rows over all elements of a value pass a convolution and the lines around it; None where they do not."""
        if name not in self._onward:
            elementwise = isinstance(self.context.graph[name].op, Elementwise)
            lines = self.lines(name) if elementwise else None
            self._onward[name] = None if elementwise and lines is None else onward(self.context, name, lines)
        return self._onward[name]

    def narrow(self, name: str, rows: int) -> Narrow | None:
        """How rows pass a pooling to some elements of its operand; None where so few of them, over all elements, take
        less time, or it is no such node."""
        if name not in self._poolings or watched():
            return None
        node = self.context.graph[name]
        if name not in self._narrow:
            if rows * self.context.graph[node.inputs[0]].type.size < LARGE:
                return None
            self._narrow[name] = self._narrowed(node)
        return self._narrow[name]

    def _narrowed(self, node: Node) -> Narrow | None:
        relaxed = self.context.relaxed.get(node.name)
        if isinstance(relaxed, Selected):
            return winning(relaxed, self._chosen)
        lines = self._plain(node.inputs[0])
        if lines is None or not isinstance(node.op, AveragePool):
            return None
        return supporting(node.op, lines, self.context.graph[node.inputs[0]].type.shape)

    def box(self, name: str) -> tuple[Tensor, Tensor]:
        """Centre and radius of the bounds of a value."""
        if name not in self._boxes:
            behind = (end.interval for end in self.context.shortcuts.values() if end.operand == name)
            lower, upper = (side[self._chosen] for side in next(behind, self._intervals[name]))
            rank, found = len(self.context.graph[name].type.shape), None
            if not recorded(lower, upper):
                found = middle(lower, upper, last=rank == PLANES and planes_prefer_last(lower))
            self._boxes[name] = found or (stored((lower + upper) / 2, rank), stored((upper - lower) / 2, rank))
        return self._boxes[name]

    def known(self, name: str) -> Tensor:
        """A value that is known exactly."""
        return self.context.known[name][self._chosen]

    def support(self, name: str) -> Tensor | None:
        """The flat elements of a value that rows over it can pass on from; None where all may."""
        while self.example is not None and name not in self.context.known:
            node = self.context.graph[name]
            if not isinstance(node.op, Reshape) or name in self.context.shortcuts:
                lines = self._plain(name)
                if lines is None:
                    return None
                if name not in self._supports:
                    found = lines.support()
                    self._supports[name] = None if found.shape[0] == node.type.size else found
                return self._supports[name]
            (name,) = node.inputs
        return None

    def gathered(self, tensor: Tensor, owner: Tensor | None = None) -> Tensor:
        """A tensor `[batch, ...]` for each row, or `[1, ...]` for all of one example."""
        if self.example is None:
            return tensor if owner is None else tensor.index_select(0, owner)
        return tensor[self.example : self.example + 1]
