"""Where the live tensors of a graph are kept, so that each step reads them where they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from irverify.ir.graph import Graph, with_parameters
from irverify.ir.params import Derived, Param, leaves

Place: TypeAlias = "tuple[nn.Module, str]"
"""A module and the name of its attribute."""


class Leaves:
    """The places of the tensors that the parameters of graphs are, or are derived from.

    A module that is moved to another type or device gets new buffers, and somebody may give it a new parameter: a
    place is read anew at every step.
    """

    def __init__(self, owner: nn.Module, constants: nn.Module) -> None:
        self._places: dict[int, Place] = {}
        self._kept: list[Tensor] = []
        self._constants = constants
        for part in owner.modules():
            for name, tensor in _tensors(part):
                if id(tensor) not in self._places:
                    self._remember(tensor, (part, name))

    def cover(self, graph: Graph) -> None:
        """Gives a place to every leaf of a graph that has none: a constant, which is no part of the state."""
        for leaf in graph.leaves:
            if id(leaf) not in self._places:
                name = f"constant{len(list(self._constants.buffers(recurse=False)))}"
                self._constants.register_buffer(name, leaf, persistent=False)
                self._remember(leaf, (self._constants, name))

    def place(self, parameter: Param) -> Place | None:
        """Where a parameter is kept; None for one that is derived."""
        return self._places[id(parameter)] if isinstance(parameter, Tensor) else None

    def reader(self, parameter: Param) -> Callable[[], Tensor]:
        """What gives the tensor that a parameter stands for now."""
        if isinstance(parameter, Tensor):
            owner, name = self._places[id(parameter)]
            return lambda: _held(owner, name)
        function, sources = parameter.function, [self.reader(source) for source in parameter.sources]
        return lambda: function(*(source() for source in sources))

    def dtype(self, otherwise: torch.dtype) -> torch.dtype:
        """The element type of the first leaf of a float type as it is now."""
        now = (getattr(*place) for place in self._places.values())
        return next((tensor.dtype for tensor in now if tensor.is_floating_point()), otherwise)

    def now(self, leaf: Tensor) -> Tensor:
        """The tensor that a leaf is now."""
        found: Tensor = getattr(*self._places[id(leaf)])
        return found

    def current(self, parameter: Param) -> Param:
        """The parameter, of the tensors that its leaves are now."""
        if isinstance(parameter, Tensor):
            return self.now(parameter)
        now = [self.current(source) for source in parameter.sources]
        same = all(new is old for new, old in zip(now, parameter.sources, strict=True))
        return parameter if same else Derived(parameter.function, *now)

    def _remember(self, tensor: Tensor, place: Place) -> None:
        self._places[id(tensor)] = place
        self._kept.append(tensor)  # as long as it is here, nobody else gets its identity


def _tensors(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module itself holds: parameters, buffers, plain attributes."""
    yield from part.named_parameters(recurse=False, remove_duplicate=False)
    yield from part.named_buffers(recurse=False, remove_duplicate=False)
    yield from ((name, held) for name, held in vars(part).items() if isinstance(held, Tensor))


class Holder(nn.Module):
    """The leaves of a graph that came without a module, as parameters (where they were such) and buffers."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        seen: set[int] = set()
        for label, parameter in graph.parameters().items():
            for number, leaf in enumerate(leaves(parameter)):
                if id(leaf) in seen:
                    continue
                seen.add(id(leaf))
                name = label.replace(".", "_") + (f"_{number}" if number else "")
                while hasattr(self, name):
                    name += "_"
                if isinstance(leaf, nn.Parameter):
                    self.register_parameter(name, leaf)
                else:
                    self.register_buffer(name, leaf)


class CurrentGraph:
    """A graph with its parameters as they are now, where modules were moved to another type or device: one and the same
    graph as long as they stay."""

    def __init__(self, graph: Graph, leaves: Leaves) -> None:
        """`leaves` has a place for each leaf of the graph."""
        self._first = self._last = graph
        self._leaves = leaves
        self._types = [leaf.dtype for leaf in graph.leaves]
        self._seen = graph.leaves, self._types

    def __call__(self) -> Graph:
        """The graph. Its inputs are of the type that the parameters have got."""
        tensors = tuple(map(self._leaves.now, self._first.leaves))
        types = [tensor.dtype for tensor in tensors]
        if types != self._seen[1] or any(new is not old for new, old in zip(tensors, self._seen[0], strict=True)):
            other = next((new for new, old in zip(types, self._types, strict=True) if new != old), None)
            self._last = with_parameters(self._first, self._leaves.current, other)
            self._seen = tensors, types
        return self._last


def _held(owner: nn.Module, name: str) -> Tensor:
    """The tensor of this name: a parameter from where modules keep them, which takes a fifth of the time."""
    kept = owner._parameters.get(name)
    found: Tensor = getattr(owner, name) if kept is None else kept
    return found
