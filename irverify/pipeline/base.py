"""What a pass is: a frozen dataclass whose fields are its options; analyses compute facts, rewrites make new graphs."""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.pipeline.catalog import Entry, Kind, Option, Value, find, register_entry
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.text import Step, parse_pipeline

if TYPE_CHECKING:
    from irverify.pipeline.state import State


@dataclass(frozen=True)
class Pass(ABC):
    """One step of a pipeline. A subclass is a frozen dataclass: its fields, all with defaults, are its options."""

    name: ClassVar[str]
    """Its word in the pipeline text, in kebab-case."""

    def step(self) -> Step:
        """The pass as a step of the pipeline text, with the options that differ from their defaults."""
        options = [
            (option_name(field.name), getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return Step(self.name, tuple(options))

    def __str__(self) -> str:
        return _text(self)


@lru_cache(maxsize=1024)
def _text(step: Pass) -> str:
    return str(step.step())


@dataclass(frozen=True)
class Analysis(Pass):
    """Computes facts about values for a batch of regions and changes nothing."""

    single_walk: ClassVar[bool] = False
    """It is one walk through the graph, on which a value is forgotten once nobody reads it who has not been there,
    where only bounds of others are asked for."""

    @abstractmethod
    def run(self, state: State) -> Facts:
        """The facts about values of `state.graph`, from its regions and what is known so far.

        What it needs from other analyses it asks `state.require` for. Raises UnsupportedError, listing all offending
        nodes, where an operator has no rule.
        """


@dataclass(frozen=True)
class Estimator(Analysis):
    """Guesses ranges of values. Its facts are estimates alone, which never become bounds and decide nothing."""


@dataclass(frozen=True)
class Rewrite(Pass):
    """Makes a new graph with the same inputs and operands, and as many outputs of the same types."""

    keeps_function: ClassVar[bool] = True
    """The new graph computes the same function; checked on samples where the pipeline runs with `check`."""
    on_regions: ClassVar[bool] = False
    """What is kept is kept on the regions of the run, for its operands, and not elsewhere: samples are drawn there."""
    keeps_values: ClassVar[bool] = False
    """A name that stands in both graphs means the same value, so that bounds survive the rewrite by name."""

    @abstractmethod
    def run(self, state: State) -> Graph:
        """The new graph; `state.graph` itself where there is nothing to do. Keeps `origin`."""

    def carried(self, state: State, after: Graph) -> Mapping[str, Bounds]:
        """Bounds of values of `after`, the rewritten `state.graph`, that follow from known ones, by name; those of
        values that keep their names are not meant."""
        return {}

    def report(self, state: State, after: Graph) -> Mapping[str, int | float]:
        """What the rewrite that made `after` of `state.graph`, or left it as it is, says about it, for the statistics
        of the pass."""
        return {}


AnyPass = TypeVar("AnyPass", bound=type[Pass])


def register(cls: AnyPass) -> AnyPass:
    """Class decorator: adds a pass from outside irverify to the catalog, under its `name`.

    The summary is the first line of its docstring. Raises UsageError where the name is taken.
    """
    register_entry(entry_of(cls))
    _LOADED[cls.name] = cls
    return cls


_LOADED: dict[str, type[Pass]] = {}
"""The classes that are imported already, by the name of the pass."""


def load(name: str) -> type[Pass]:
    """The class of a pass. Raises UsageError where there is none of that name."""
    entry = find(name)
    if name not in _LOADED:
        found = entry.load()
        if not issubclass(found, Pass):
            raise TypeError(f"expected a subclass of Pass at {entry.home}, got {found!r}")
        _LOADED[name] = found
    return _LOADED[name]


def create(step: Step) -> Pass:
    """The pass that a step of a pipeline text names."""
    return load(step.name)(**{name.replace("-", "_"): value for name, value in step.options})


def parse_passes(pipeline: str | Pass | Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes of a pipeline text (or those given), in order."""
    if isinstance(pipeline, str):
        return _created(pipeline)
    try:
        given = (pipeline,) if isinstance(pipeline, Pass) else tuple(pipeline)
    except TypeError:
        raise UsageError(f"expected a pipeline text or passes, got {pipeline!r}") from None
    for step in given:
        if not isinstance(step, Pass):
            raise UsageError(f"expected a pipeline text or passes, got {step!r}")
    return given


def refuse_changes(pipeline: str | Pass | Sequence[Pass]) -> None:
    """Raises UsageError where a rewrite of the pipeline changes the function: what is said of the result would be said
    of another network than the one that was given."""
    changing = [step.name for step in parse_passes(pipeline) if isinstance(step, Rewrite) and not step.keeps_function]
    if changing:
        hint = "write the changed network first: `irverify compile MODEL --passes ... -o CHANGED.onnx`"
        raise UsageError(f"{', '.join(changing)} would leave another function than the network's", hint=hint)


@lru_cache(maxsize=1024)
def _created(pipeline: str) -> tuple[Pass, ...]:
    return tuple(create(step) for step in parse_pipeline(pipeline))


def option_name(field: str) -> str:
    return field.replace("_", "-")


def entry_of(cls: type[Pass]) -> Entry:
    """What the catalog should say about a pass, read off its class."""
    if issubclass(cls, Estimator):
        kind: Kind = "estimator"
    elif issubclass(cls, Analysis):
        kind = "analysis"
    elif issubclass(cls, Rewrite):
        kind = "rewrite"
    else:
        raise TypeError(f"expected an Analysis or a Rewrite, got {cls!r}")
    hints = typing.get_type_hints(cls)
    options = tuple(_option(cls, field, hints[field.name]) for field in dataclasses.fields(cls))
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    changes = issubclass(cls, Rewrite) and not cls.keeps_function
    return Entry(cls.name, kind, f"{cls.__module__}:{cls.__qualname__}", summary, options, changes)


def _option(cls: type[Pass], field: dataclasses.Field[Any], hint: Any) -> Option:
    if field.default is dataclasses.MISSING:
        raise TypeError(f"option {field.name} of {cls.__name__} needs a default")
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [argument for argument in typing.get_args(hint) if argument is not types.NoneType]
        optional, hint = True, rest[0]
    default: Value = field.default
    if typing.get_origin(hint) is Literal:
        return Option(option_name(field.name), "str", default, tuple(typing.get_args(hint)), optional)
    if hint not in (bool, int, float, str):
        raise TypeError(f"option {field.name} of {cls.__name__} must be bool, int, float, str or a Literal of words")
    return Option(option_name(field.name), hint.__name__, default, (), optional)
