"""VNN-LIB queries that the command line names, and the networks they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from irverify.cli.loading import check_file, check_model, load_model
from irverify.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from irverify.ir.graph import Graph
    from irverify.properties import Query


@dataclass(frozen=True)
class Question:
    """A query and the network that it is about; hidden values that the query reads are the last outputs of `graph`."""

    graph: Graph
    query: Query

    @property
    def plain(self) -> Query:
        """The query with hidden values as further outputs."""
        return replace(self.query, outputs=(*self.query.outputs, *self.query.hidden), hidden=())


def load_query(graph: Graph, file: str) -> Query:
    """The query of a VNN-LIB file about a graph, its regions in the shapes of the graph's inputs."""
    check_file(file)
    from irverify.frontends.vnnlib import parse_query

    inputs = [node.type.shape for node in graph.inputs]
    return parse_query(file).fitted(inputs, [graph[name].type.shape for name in graph.outputs])


def load_question(model: str, file: str) -> Question:
    """A model and a query about it."""
    check_model(model)
    check_file(file)
    from irverify.frontends.vnnlib import parse_query

    return _question(model, parse_query(file))


def load_second(file: str, networks: Sequence[str]) -> Question:
    """A query of VNN-LIB 2.0 and the networks that it declares, each given as NAME=MODEL."""
    given = _by_name(networks)
    check_file(file)
    for model in given.values():
        check_model(model)
    from irverify.frontends.vnnlib import parse_query

    query = parse_query(file)
    if query.network is None:
        hint = "give the model first: irverify verify MODEL PROPERTY"
        raise UsageError("a query of VNN-LIB 1.0 declares no network", where=file, hint=hint)
    if set(given) != {query.network}:
        says = ", ".join(given) or "none"
        raise UsageError(f"expected --network {query.network}=MODEL and no other, got {says}", where=file)
    return _question(given[query.network], query)


def _question(model: str, query: Query) -> Question:
    if not query.hidden:
        return Question(load_model(model), query)
    if not model.lower().endswith((".onnx", ".onnx.gz")):
        raise UnsupportedError("a query with hidden values needs an ONNX model", where=model)
    from irverify.frontends.onnx import read_onnx

    return Question(read_onnx(model, hidden=[part.tensor or part.name for part in query.hidden]), query)


def _by_name(networks: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in networks:
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise UsageError(f"expected --network NAME=MODEL, got {text!r}")
        if name in given:
            raise UsageError(f"expected one --network {name}=MODEL, got two")
        given[name] = model
    if not given:
        raise UsageError(
            "expected a PROPERTY behind the MODEL, or --network NAME=MODEL for each network that a QUERY declares"
        )
    return given
