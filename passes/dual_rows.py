"""Bounds of elements of a value from its dual network: rows in groups that share slopes and radii.

A row picks one element of one example. Rows of an example, or of one position of a convolution in it, make a group: nu
is sent back for all rows of some groups at a time, and serves the lower and the upper bounds. Where few of these rows
are asked for, each is a group by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from irverify.ir.graph import Graph
from irverify.ir.kept import once_a_graph
from irverify.passes.dual_centers import ancestors, center_of, middle_of, radius_of
from irverify.passes.dual_composed import Composed
from irverify.passes.dual_gaps import inner, reaches, weighed
from irverify.passes.dual_sources import Source, Windowed, source_of
from irverify.regions import Region
from irverify.rounding import round_down, round_up

CHUNK = 2**21
"""How many bytes the widest value of a dual network may take on a CPU: little enough for its caches."""
CHUNK_OF_DEVICES = 2**27
"""The same on other devices."""
BLOCK = 2**26
"""How many bytes the slopes of the widest value may take, with windows around all positions of some examples."""
KEPT = 2**29
"""About so many bytes of what the rows of one value need for their gradients are kept; the rest is computed again."""
MOST = 0.5
"""From this share on all rows of groups are computed, else only those that are asked for."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DualBounds:
    """What the bounds of all values rest on: the graph, the regions of its inputs, and the runtime operands of dual
    networks by name, which grow as layers get their bounds; and the values at the centre, which are kept."""

    graph: Graph
    regions: Mapping[str, Region]
    operands: dict[str, Tensor]
    centers: dict[str, Tensor] = field(default_factory=dict)

    def of(self, target: str, asked: Tensor) -> Pair:
        """Lower and upper bounds of the elements of `target` that are true in `asked` `[batch, elements]`, in order."""
        boxes = all(region.is_box for region in self.regions.values())
        center = self.center(target).reshape(asked.shape)[asked]
        down, up = _Bounding(self, _source(self.graph, target, boxes=boxes), center.new_ones(())).of(asked)
        # A cast on the way leaves reaches of another type.
        return round_down(center - down, center.dtype), round_up(center + up, center.dtype)

    def center(self, target: str) -> Tensor:
        """The centre of a value, `[batch, *shape]`."""
        if target not in self.centers:
            needed = ancestors(self.graph, target) - self.centers.keys()
            for node in self.graph:
                if node.name in needed:
                    self.centers[node.name] = center_of(node, self.regions, self.operands, self.centers)
        return self.centers[target]


@dataclass(frozen=True)
class _Chunk:
    """Rows that are found together, of some groups of a block of examples."""

    groups: Tensor
    elements: Tensor
    asked: Tensor | None
    """`[groups, elements]`: which of all these rows are asked for. None: groups and elements are pairs."""

    @property
    def rows(self) -> int:
        return self.groups.shape[0] * (1 if self.asked is None else self.elements.shape[0])

    def asked_of(self, found: Tensor) -> Tensor:
        return found[:, 0] if self.asked is None else found[self.asked]


@dataclass(frozen=True)
class _Bounding:
    """How far the bounds of one value reach from its centre."""

    bounds: DualBounds
    source: Source
    one: Tensor

    def of(self, asked: Tensor) -> Pair:
        """Down and up of the elements that are true in `asked` `[batch, elements]`, in order."""
        grouped, places = self.source.grouped(asked), self.source.places
        sizes = [node.type.size * self.one.element_size() for node in self.source.network.path]
        left, room = KEPT // max(1, sum(sizes)), CHUNK if asked.device.type == "cpu" else CHUNK_OF_DEVICES
        step = max(1, BLOCK // max(1, max(sizes) * places))
        parts = list[Pair]()
        for start in range(0, asked.shape[0], step):
            block = _Block(self, start, slice(start, start + step))
            mine = grouped[start * places : (start + step) * places]
            if isinstance(self.source, Windowed) and self.source.composed is not None and len(block.radii) == 1:
                parts.append(block.at_once(self.source.composed, mine))
                continue
            for chunk in _chunks(mine, max(1, room // max(1, *sizes))):
                left -= chunk.rows
                again = torch.is_grad_enabled() and left < 0
                parts.append(block.again(chunk) if again else block.evaluate(chunk))
        if not parts:
            return self.one.new_zeros(0), self.one.new_zeros(0)
        down = self._in_order(torch.cat([down for down, _ in parts]), grouped, asked)
        if all(first is second for first, second in parts):
            return down, down
        return down, self._in_order(torch.cat([up for _, up in parts]), grouped, asked)

    def _in_order(self, found: Tensor, grouped: Tensor, asked: Tensor) -> Tensor:
        """From the order of groups to that of elements."""
        if self.source.places == 1:
            return found
        spread = found.new_zeros(grouped.shape).masked_scatter(grouped, found)
        return self.source.listed(spread)[asked]


class _Block:
    """What the rows of some examples see."""

    def __init__(self, bounding: _Bounding, start: int, examples: slice) -> None:
        self.bounding, self.start = bounding, start
        bounds, source = bounding.bounds, bounding.source
        labels = [f"{layer}.{part}" for layer in source.network.layers.values() for part in ("slope", "radius")]
        labels += [node.name for node in source.network.path if node.name in bounds.operands]
        self.operands = {
            label: source.table(bounds.operands[label][examples], label.rpartition(".")[0]) for label in labels
        }
        self.radii = {
            name: source.table(radius_of(region)[examples], name)
            for name, region in bounds.regions.items()
            if region.is_box and name in source.network.inputs
        }

    def again(self, chunk: _Chunk) -> Pair:
        """`evaluate`, and once more when gradients are asked for; what they need is not kept in between."""
        found: Pair = checkpoint(self.evaluate, chunk, use_reentrant=False, preserve_rng_state=False)
        return found

    def at_once(self, way: Composed, asked: Tensor) -> Pair:
        """Down and up of the rows that are true in `asked` `[groups, each]`: all rows of groups with such are found."""
        groups = asked.any(1).nonzero()[:, 0]
        elements = torch.arange(asked.shape[1], device=asked.device)
        rows = self.bounding.source.rows(self.bounding.one, self.bounding.bounds.operands, groups, elements)
        operands = {label: _taken(table, groups) for label, table in self.operands.items()}
        gap = way.gap(rows, operands, _taken(self.radii[way.input], groups))[asked[groups]]
        return gap, gap

    def evaluate(self, chunk: _Chunk) -> Pair:
        """Down and up of the rows that are asked for."""
        source = self.bounding.source
        examples = chunk.groups if source.places > 1 else chunk.groups + self.start
        find = source.pairs if chunk.asked is None else source.rows
        rows = find(self.bounding.one, self.bounding.bounds.operands, examples, chunk.elements)
        operands = {label: _taken(table, chunk.groups) for label, table in self.operands.items()}

        def reach(name: str, nu: Tensor) -> Pair:
            if name in self.radii:
                found = weighed(nu, _taken(self.radii[name], chunk.groups))
                return found, found
            return _reach_of_ball(self.bounding.bounds.regions[name].select(examples), nu)

        down, up = reaches(source.network, rows, operands, reach, chunk.groups.shape[0])
        first = chunk.asked_of(down)
        return first, first if up is down else chunk.asked_of(up)


def _reach_of_ball(region: Region, nu: Tensor) -> Pair:
    """What `nu^T x` can be more and less than at the centre, over regions `[groups]` that are no boxes: `eps |nu|_*`
    for a ball that is not clipped."""
    least, negated = region.lower_of(torch.cat([nu, -nu], dim=1)).chunk(2, dim=1)
    center = inner(nu, middle_of(region))
    return -negated - center, center - least


def _taken(table: Tensor, groups: Tensor) -> Tensor:
    """The rows of a table, a view where they follow each other."""
    count = groups.shape[0]
    if count == 0:
        return table[:0]
    first = int(groups[0])
    if int(groups[-1]) - first == count - 1 and bool((groups[1:] > groups[:-1]).all()):
        return table[first : first + count]
    return table.index_select(0, groups)


@once_a_graph
def _source(graph: Graph, target: str, *, boxes: bool) -> Source:
    """The dual network of a value."""
    return source_of(graph, graph[target], boxes=boxes)


def _chunks(asked: Tensor, room: int) -> Iterator[_Chunk]:
    """The true elements of `asked` `[groups, each]`, about `room` rows at a time."""
    most = int(asked.sum(1).max()) if asked.numel() else 0
    step = max(1, room // max(1, most))
    for start in range(0, asked.shape[0], step):
        part = asked[start : start + step]
        live, elements = part.any(1).nonzero()[:, 0], part.any(0).nonzero()[:, 0]
        if live.shape[0] == 0:
            continue
        wanted = part.index_select(0, live).index_select(1, elements)
        if bool(wanted.to(torch.float32).mean() < MOST):
            which, places = wanted.nonzero(as_tuple=True)
            pairs = zip((live[which] + start).split(room), elements[places].split(room), strict=True)
            yield from (_Chunk(groups, own, None) for groups, own in pairs)
        elif live.shape[0] > 1:
            yield _Chunk(live + start, elements, wanted)
        else:
            for own, mine in zip(elements.split(room), wanted.split(room, dim=1), strict=True):
                yield _Chunk(live + start, own, mine)
