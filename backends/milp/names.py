"""The names of what can be asked of a formulation. Light to import: the command line lists them."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

from irverify.errors import UsageError

ObjectiveName: TypeAlias = Literal["margin", "feasibility", "nearest"]
Norm: TypeAlias = Literal["linf", "l1", "l2"]
Name = TypeVar("Name", bound=str)

OBJECTIVES: tuple[ObjectiveName, ...] = ("margin", "feasibility", "nearest")
NORMS: tuple[Norm, ...] = ("linf", "l1", "l2")


def objective_of(text: str) -> ObjectiveName:
    """Raises UsageError for an unknown one."""
    return _one_of(OBJECTIVES, text, "objectives")


def norm_of(text: str) -> Norm:
    """Raises UsageError for an unknown one."""
    return _one_of(NORMS, text, "norms")


def _one_of(names: tuple[Name, ...], text: str, kind: str) -> Name:
    for name in names:
        if name == text:
            return name
    raise UsageError(f"expected one of the {kind} {', '.join(names)}, got {text!r}")
