"""Losses as modules, and sums of named ones with weights that follow schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from irverify.backends.torch.models import Model, is_number
from irverify.backends.torch.schedules import Schedule
from irverify.errors import UsageError

Value: TypeAlias = "Tensor | tuple[Tensor, ...]"
TermLike: TypeAlias = Callable[[Tensor, Tensor, "float | Tensor"], Value]
"""`term(x, y, eps)`: a scalar, or a named tuple of scalars that are found together."""
Weight: TypeAlias = "float | Schedule"


class Term(nn.Module):
    """A loss or regulariser of one model as a module: `forward(x, y, eps)` is `function(model, x, y, eps, **options)`,
    of which the function gets what it takes.

    Where the model is a module, it is a submodule: its parameters are those of the term.
    """

    def __init__(self, function: Callable[..., Value], model: Model, **options: object) -> None:
        super().__init__()
        if not callable(function):
            raise UsageError(f"expected a loss such as losses.ibp, got {function!r}", where="Term")
        taken = list(inspect.signature(function).parameters)[1:]
        unknown = [name for name in options if name not in taken or name in ("x", "y", "eps")]
        self._name = getattr(function, "__name__", type(function).__name__)
        if unknown:
            raise UsageError(f"{self._name} takes {', '.join(taken)}; got {', '.join(unknown)}")
        self.function, self.model, self.options = function, model, options
        self._taken = [name for name in ("x", "y", "eps") if name in taken]

    def forward(self, x: Tensor, y: Tensor, eps: float | Tensor) -> Value:
        given = {"x": x, "y": y, "eps": eps}
        return self.function(self.model, **{name: given[name] for name in self._taken}, **self.options)

    def extra_repr(self) -> str:
        return ", ".join([self._name, *(f"{name}={value}" for name, value in self.options.items())])


class Summed(NamedTuple):
    """The total, and by name the value of each term that took part, before its weight, and all weights."""

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]


class Sum(nn.Module):
    """`sum_i weight_i(t) term_i(x, y, eps)`: named terms, each with a weight, a number or a schedule.

    `Sum({"clean": (1.0, term), "rs": (schedules.last_part(1.2e-4, total=70), other)})`. A term whose weight is 0 is not
    computed. A term that gives a named tuple has a weight for each field that counts, and the terms are then named
    after both: `Sum({"tight": ({"dual": 1.0, "r": schedules.warm_up(0.5)}, term)})` has `tight.dual` and `tight.r`.
    """

    def __init__(self, terms: Mapping[str, tuple[Weight | Mapping[str, Weight], TermLike]]) -> None:
        super().__init__()
        if not terms:
            raise UsageError("expected at least one term, got none")
        for name, entry in terms.items():
            if not _is_pair(entry):
                hint = '"ibp": (1.0, Term(losses.ibp, bounded))'
                message = f"expected a pair of weight and term, got {entry!r}"
                raise UsageError(message, where=f"term {name!r}", hint=hint)
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = {name: term for name, (_, term) in terms.items()}
        for name, term in self.terms.items():
            if isinstance(term, nn.Module):
                self.add_module(f"term_{name}", term)

    def forward(self, x: Tensor, y: Tensor, eps: float | Tensor, time: float = 0.0) -> Summed:
        """The sum at a `time`, in the unit of the schedules (steps, or epochs)."""
        total, values, weights = x.new_zeros(()), dict[str, Tensor](), dict[str, float]()
        for name, term in self.terms.items():
            parts = {label: _now(label, weight, time) for label, weight in _labelled(name, self.weights[name])}
            weights |= parts
            if not any(parts.values()):
                continue
            found = _named(name, term(x, y, eps), parts)
            values |= found
            for label, value in found.items():
                total = total + parts[label] * value
        return Summed(total, values, weights)


def _is_pair(entry: object) -> bool:
    return isinstance(entry, tuple | list) and len(entry) == 2 and callable(entry[1])


def _labelled(name: str, weight: Weight | Mapping[str, Weight]) -> list[tuple[str, Weight]]:
    if isinstance(weight, Mapping):
        return [(f"{name}.{field}", part) for field, part in weight.items()]
    return [(name, weight)]


def _now(label: str, weight: Weight, time: float) -> float:
    now = weight(time) if callable(weight) else weight
    if not is_number(now):
        raise UsageError(f"expected a finite number as weight, got {now!r}", where=f"term {label!r}")
    return float(now)


def _named(name: str, value: Value, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """What a term gave, by the names of its weights; parts of weight 0 are left out."""
    if isinstance(value, Tensor):
        found = {name: value}
    else:
        fields: tuple[str, ...] = getattr(value, "_fields", ())
        found = {f"{name}.{field}": part for field, part in zip(fields, value, strict=True)}
    unknown = [label for label in weights if label not in found]
    if unknown:
        raise UsageError(f"term {name!r} gives {', '.join(found)}; got weights for {', '.join(unknown)}")
    return {label: part for label, part in found.items() if weights.get(label, 0.0) != 0}
