"""Where the live tensors of a graph are kept, so that each step reads them where they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from irverify.ir.graph import Graph
from irverify.ir.params import Param, leaves

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
            return lambda: getattr(owner, name)
        function, sources = parameter.function, [self.reader(source) for source in parameter.sources]
        return lambda: function(*(source() for source in sources))

    def dtype(self, otherwise: torch.dtype) -> torch.dtype:
        """The element type of the first leaf of a float type as it is now."""
        now = (getattr(*place) for place in self._places.values())
        return next((tensor.dtype for tensor in now if tensor.is_floating_point()), otherwise)

    def moved(self, parameters: Iterable[Param]) -> bool:
        """Whether one of these is another tensor now than the graph has."""
        found = (leaf for parameter in parameters for leaf in leaves(parameter))
        return any(getattr(*self._places[id(leaf)]) is not leaf for leaf in found)

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
