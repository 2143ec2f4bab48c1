"""What the importer knows about a value of the model: its elements (no input reaches it), or its place in the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from irverify.errors import GraphError, UnsupportedError

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = Literal["float", "int", "bool"]


class Refused(UnsupportedError):
    """A node that cannot be expressed; the importer collects these and reports them together."""


class BatchMixing(Refused):
    """A node that treats axis 0 as something else than a batch axis."""


class BatchExtent:
    """The unknown number of examples, where it stands as an extent among the numbers of a shape.

    It can be moved about (Gather, Concat, Slice, ...) but not computed with: a shape in which it has been multiplied or
    compared does not belong to one example any more.
    """

    def __repr__(self) -> str:
        return "batch"

    def __int__(self) -> NoReturn:
        raise BatchMixing("it computes with the number of examples, which is not known")

    __index__ = __float__ = __bool__ = __int__


BATCH = BatchExtent()


@dataclass(eq=False)
class Known:
    """A tensor that does not depend on any input. Shapes may hold `BATCH`; `array` then has object elements."""

    array: Array
    name: str
    """Of the initialiser or value, for messages."""
    _tensor: list[Tensor] = field(default_factory=list)

    @property
    def symbolic(self) -> bool:
        """Whether the number of examples stands in it."""
        return bool(self.array.dtype == object)

    def numbers(self) -> Array:
        """The elements as numbers. Raises BatchMixing where the number of examples stands among them."""
        return self.array.astype(numpy.int64) if self.symbolic else self.array

    def integers(self) -> list[Any]:
        """The elements of a vector of whole numbers, `BATCH` among them where it stands there."""
        return list(self.array.reshape(-1).tolist())

    def tensor(self) -> Tensor:
        """The elements as a parameter: one tensor, shared by all users. Raises GraphError unless all are finite."""
        if not self._tensor:
            array = self.numbers()
            if array.dtype.kind == "f" and not numpy.isfinite(array).all():
                count = int((~numpy.isfinite(array)).sum())
                raise GraphError(f"expected finite numbers in {self.name!r}, got {count} that are NaN or infinite")
            self._tensor.append(torch.from_numpy(numpy.array(array, order="C")))
        return self._tensor[0]


@dataclass(frozen=True)
class Value:
    """A value of the graph that is being built.

    Truth values and whole numbers that depend on an input are floating-point values in the graph; `kind` tells what the
    model says they are.
    """

    name: str
    kind: Kind = "float"


Operand: TypeAlias = Known | Value


def known(elements: Any, name: str, dtype: Any = numpy.int64) -> Known:
    """A known tensor; one with `BATCH` among its elements is symbolic."""
    array = numpy.array(elements, dtype=object)
    return Known(array if any(item is BATCH for item in array.flat) else array.astype(dtype), name)
