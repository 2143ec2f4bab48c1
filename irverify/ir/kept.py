"""What is read off a graph once: graphs are immutable, and live shorter than the program."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from irverify.ir.graph import Graph

Options = ParamSpec("Options")
Found = TypeVar("Found")
Reading: TypeAlias = Callable[Concatenate[Graph, Options], Found]


def once_a_graph(function: Reading[Options, Found]) -> Reading[Options, Found]:
    """Decorator: results are kept as long as their graph is. They depend on nothing but the structure of the graph and
    the options, which are hashable, and do not hold the graph."""
    kept: WeakKeyDictionary[Graph, dict[object, Found]] = WeakKeyDictionary()

    @wraps(function)
    def looked_up(graph: Graph, /, *options: Options.args, **named: Options.kwargs) -> Found:
        found, key = kept.setdefault(graph, {}), (options, *named.items())
        if key not in found:
            found[key] = function(graph, *options, **named)
        return found[key]

    return looked_up
