"""Losses as modules, and sums of named ones with weights that follow schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from irverify.backends.torch.losses.base import Model
from irverify.backends.torch.schedules import Schedule
from irverify.errors import UsageError

TermLike: TypeAlias = Callable[[Tensor, Tensor, "float | Tensor"], Tensor]
"""`term(x, y, eps)`: a scalar."""
Weight: TypeAlias = float | Schedule


class Term(nn.Module):
    """A loss or regulariser of one model as a module: `forward(x, y, eps)` is `function(model, x, y, eps, **options)`,
    of which the function gets what it takes.

    Where the model is a module, it is a submodule: its parameters are those of the term.
    """

    def __init__(self, function: Callable[..., Tensor], model: Model, **options: object) -> None:
        super().__init__()
        parameters = inspect.signature(function).parameters
        unknown = [name for name in options if name not in parameters or name in ("x", "y", "eps")]
        if unknown:
            known = ", ".join(list(parameters)[1:])
            raise UsageError(f"{function.__name__} takes {known}, got {', '.join(unknown)}")
        self.function = function
        self.model = model
        self.options = options
        self._taken = [name for name in ("x", "y", "eps") if name in parameters]

    def forward(self, x: Tensor, y: Tensor, eps: float | Tensor) -> Tensor:
        given = {"x": x, "y": y, "eps": eps}
        return self.function(self.model, **{name: given[name] for name in self._taken}, **self.options)

    def extra_repr(self) -> str:
        return ", ".join([self.function.__name__, *(f"{name}={value}" for name, value in self.options.items())])


class Summed(NamedTuple):
    """The total, and the value of each term that took part, before its weight."""

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]


class Sum(nn.Module):
    """`sum_i weight_i(t) term_i(x, y, eps)`: named terms, each with a weight, a number or a schedule.

    `Sum({"clean": (1.0, term), "rs": (Switch(1.2e-4, at=56), other)})`. A term whose weight is 0 is not computed.
    """

    def __init__(self, terms: Mapping[str, tuple[Weight, TermLike]]) -> None:
        super().__init__()
        if not terms:
            raise UsageError("expected at least one term, got none")
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = {name: term for name, (_, term) in terms.items()}
        for name, term in self.terms.items():
            if isinstance(term, nn.Module):
                self.add_module(name, term)

    def forward(self, x: Tensor, y: Tensor, eps: float | Tensor, time: float = 0.0) -> Summed:
        """The sum at a `time`, in the unit of the schedules (steps, or epochs)."""
        weights = {
            name: float(weight(time)) if callable(weight) else float(weight) for name, weight in self.weights.items()
        }
        found = {name: self.terms[name](x, y, eps) for name, weight in weights.items() if weight != 0}
        total = x.new_zeros(())
        for name, term in found.items():
            total = total + weights[name] * term
        return Summed(total, found, weights)
