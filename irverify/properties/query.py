"""Queries: what a VNN-LIB file asks. Is there an input in one of some boxes at which a property is violated?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from irverify.errors import PropertyError, RegionError
from irverify.properties.rows import Property
from irverify.regions import Box
from irverify.rounding import fraction_above, fraction_below, nearest_float, round_down, round_up


@dataclass(frozen=True)
class Declaration:
    """A tensor that a query declares: its name, element type as written (`real`, `float32`, ...) and shape.

    `tensor` names a value of the ONNX model where the query says which one it means (hidden nodes).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    tensor: str | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Case:
    """One box of a query and the property whose violation is sought there.

    `lower` and `upper` are the exact bounds of the flattened inputs, one input after the other, closed; strict input
    bounds are rows of the property as well. The query is satisfied in the box where `prop` is violated.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    prop: Property
    inputs: tuple[Declaration, ...]

    def __post_init__(self) -> None:
        count = sum(declaration.size for declaration in self.inputs)
        if len(self.lower) != count or len(self.upper) != count:
            raise RegionError(f"expected {count} bounds, got {len(self.lower)} lower and {len(self.upper)} upper ones")
        for index, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if low > high:
                message = f"crossed bounds, lower {float(low)!r}, upper {float(high)!r}"
                raise RegionError(message, where=element_name(self.inputs, index))

    @cached_property
    def regions(self) -> tuple[Box, ...]:
        """The box as float64 regions, one for each input, [1, *shape], rounded outward: for bounds."""
        lower = torch.tensor([fraction_below(low) for low in self.lower], dtype=torch.float64)
        upper = torch.tensor([fraction_above(high) for high in self.upper], dtype=torch.float64)
        return self._boxes(lower, upper)

    def inner(self, dtype: torch.dtype) -> tuple[Box, ...]:
        """The box of all floats of type `dtype` inside, one for each input, [1, *shape]: for attacks.

        A coordinate whose interval holds no float of that type (a fixed input such as 0.1) gets the nearest float: that
        is what the model is run on, and it stands for the exact value (see `exact`).
        """
        return self._boxes(*self._inner(dtype))

    @cached_property
    def _known(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        """The inner boxes computed so far."""
        return {}

    def _inner(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in self._known:
            self._known[dtype] = self._rounded_inward(dtype)
        return self._known[dtype]

    def _rounded_inward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        low64 = torch.tensor([fraction_above(low) for low in self.lower], dtype=torch.float64)
        high64 = torch.tensor([fraction_below(high) for high in self.upper], dtype=torch.float64)
        lower, upper = round_up(low64, dtype), round_down(high64, dtype)
        for index in torch.nonzero(~(lower <= upper)).flatten().tolist():
            middle = nearest_float((self.lower[index] + self.upper[index]) / 2)
            lower[index] = upper[index] = torch.tensor(middle, dtype=torch.float64).to(dtype)
        return lower, upper

    def _boxes(self, lower: Tensor, upper: Tensor) -> tuple[Box, ...]:
        sizes = [declaration.size for declaration in self.inputs]
        parts = zip(lower.split(sizes), upper.split(sizes), self.inputs, strict=True)
        return tuple(Box(low.view(1, *part.shape), high.view(1, *part.shape)) for low, high, part in parts)

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Whether the flattened exact point lies in the box, with zero tolerance."""
        if len(x) != len(self.lower):
            raise RegionError(f"expected a point of {len(self.lower)} numbers, got {len(x)}")
        return all(low <= value <= high for low, value, high in zip(self.lower, x, self.upper, strict=True))

    def exact(self, inputs: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[Fraction, ...] | None:
        """The exact point of the box that tensors (one for each input, of type `dtype`, else their own) stand for.

        A float inside its interval stands for itself. Where the interval holds no float of that type, the nearest float
        stands for the nearer end of the interval, which a reader rounds to that same float. Everything else lies
        outside: None.
        """
        kind = dtype or inputs[0].dtype
        flat = torch.cat([part.detach().reshape(-1).cpu().double() for part in inputs])
        if len(flat) != len(self.lower):
            raise RegionError(f"expected tensors of {len(self.lower)} numbers, got {len(flat)}")
        values, lower, upper = flat.tolist(), *(side.double().tolist() for side in self._inner(kind))
        point = []
        for index, value in enumerate(values):
            if not lower[index] <= value <= upper[index]:
                return None
            point.append(min(max(Fraction(value), self.lower[index]), self.upper[index]))
        return tuple(point)


@dataclass(frozen=True, eq=False)
class Query:
    """What a VNN-LIB file asks: is there a case with an input in its box that violates its property?

    `inputs` and `outputs` are declared in the order of the network; rows of properties read the inputs, and the outputs
    followed by all `hidden` values, flattened. `network` is the name that the file gives the network (2.0), `version`
    the version of the format, `source` where it was read.
    """

    cases: tuple[Case, ...]
    inputs: tuple[Declaration, ...]
    outputs: tuple[Declaration, ...]
    hidden: tuple[Declaration, ...] = ()
    network: str | None = None
    version: str = "1.0"
    source: str = "query"

    @property
    def n_in(self) -> int:
        return sum(declaration.size for declaration in self.inputs)

    @property
    def n_out(self) -> int:
        """All outputs and hidden values."""
        return sum(declaration.size for declaration in (*self.outputs, *self.hidden))

    def fitted(self, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> Query:
        """The query for a network with inputs and outputs of these shapes (no batch axis, hidden values last).

        The regions of its cases have the shapes of the network. What has to agree is the number of elements of each
        input and output; version 1.0 declares scalars only, so that their sum decides. PropertyError where they differ.
        """
        pairs = (("input", self.inputs, inputs), ("output", (*self.outputs, *self.hidden), outputs))
        for kind, declared, shapes in pairs:
            wanted, found = [part.size for part in declared], [prod(shape) for shape in shapes]
            if self.version == "1.0":
                wanted, found = [sum(wanted)], [sum(found)]
            if wanted != found:
                says = ", ".join(f"{part.name} {list(part.shape)}" for part in declared)
                message = f"the query declares the {kind}s {says}, the network has {[list(shape) for shape in shapes]}"
                raise PropertyError(message, where=self.source)
        parts = tuple(Declaration(f"input {number}", "real", tuple(shape)) for number, shape in enumerate(inputs))
        return replace(self, cases=tuple(replace(case, inputs=parts) for case in self.cases))

    def witness(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], dtype: torch.dtype | None = None
    ) -> tuple[Fraction, ...] | None:
        """The exact input point that answers the query, where a model run on `inputs` (in `dtype`, else their own type)
        gave `outputs` (hidden values last); None where no case is satisfied."""
        results = torch.cat([part.detach().reshape(-1).cpu().double() for part in outputs])
        for case in self.cases:
            point = case.exact(inputs, dtype)
            if point is not None and case.prop.violated(point, results):
                return point
        return None


def element_name(declarations: Sequence[Declaration], index: int) -> str:
    """The name of the element at a place of the flattened tensors, such as `X[0,3]`."""
    for declaration in declarations:
        if index < declaration.size:
            break
        index -= declaration.size
    place = []
    for size in reversed(declaration.shape):
        index, at = divmod(index, size)
        place.append(str(at))
    return f"{declaration.name}[{','.join(reversed(place))}]"
