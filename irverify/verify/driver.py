"""Whether a property of a network holds: what is asked, as problems that the stages decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import torch

from irverify.attacks import Candidate
from irverify.errors import RegionError, UnsupportedError, UsageError
from irverify.ir.graph import Graph, GraphBuilder, Node, convert, rewrite
from irverify.ir.ops import Constant
from irverify.ir.params import value
from irverify.pipeline import optimize
from irverify.properties import Case, Property, Query
from irverify.regions import Region, regions_for
from irverify.verify.problem import Clock, Options, Problem, element_type
from irverify.verify.replay import Replay
from irverify.verify.stages import Job, decide
from irverify.verify.verdict import Verdict

Given: TypeAlias = Region | Sequence[Region] | Mapping[str, Region]
REWRITES = "canonicalize,fold-batchnorm,fuse-linear"


def verify(
    graph: Graph,
    region: Given | Query,
    prop: Property | None = None,
    options: Options | None = None,
    **changes: Any,
) -> Verdict:
    """Whether `prop` holds for every input of `region`; or, for a VNN-LIB query in place of a region, whether no input
    satisfies it (`verified` is its `unsat`, `falsified` its `sat`).

    `verified` is a statement about the network in real arithmetic, proved in float64 with a margin for rounding;
    `falsified` carries a counterexample that was replayed on the source model. `changes` are fields of `Options`,
    such as `timeout=60`. What goes wrong is raised, and never a verdict.
    """
    options = dataclasses.replace(options or Options(), **changes)
    graph = with_float_outputs(graph)
    if isinstance(region, Query):
        if prop is not None:
            raise UsageError("a query holds its own property", hint="give a region and a property, or a query alone")
        problems = _query_problems(graph, region)
    else:
        if prop is None:
            hint = "iv.robust(label), iv.linear(C, d) or a VNN-LIB query"
            raise UsageError("expected a property to verify", hint=hint)
        problems = [problem_of(graph, working(graph), region, prop)]
    job = Job(problems, Clock(options))
    for _ in decide([job]):
        pass
    return job.verdict()


def problem_of(graph: Graph, work: Graph, region: Given, prop: Property) -> Problem:
    """The problem of a region and a property given in Python; `work` is `working(graph)`."""
    names, shapes = [node.name for node in graph.inputs], [node.type.shape for node in graph.inputs]
    given = regions_for(region, names, shapes)
    if given[0].batch != 1:
        hint = "verify region.select(i) for each"
        raise UsageError(f"expected a region of one example, got {given[0].batch}", hint=hint)
    bound = prop.bind(*_widths(graph))

    def located(candidate: Candidate) -> tuple[Fraction, ...] | None:
        exact = [part.double() for part in candidate]
        if not all(bool(part.contains(point).all()) for part, point in zip(given, exact, strict=True)):
            return None
        return tuple(Fraction(number) for point in exact for number in point.flatten().tolist())

    inner: tuple[Region, ...] | None
    try:
        inner = tuple(part.inner(node.type.dtype) for part, node in zip(given, graph.inputs, strict=True))
    except RegionError:  # no number of the network's own type lies inside: there is nothing to attack with
        inner = None
    regions = tuple(part.to(dtype=torch.float64) for part in given)
    return Problem(graph, work, regions, inner, Replay(graph, bound, located), bound)


def _query_problems(graph: Graph, query: Query) -> list[Problem]:
    """The problems of a query's cases; hidden values that it constrains are the network's last outputs."""
    inputs, outputs = [node.type.shape for node in graph.inputs], [graph[name].type.shape for name in graph.outputs]
    work = working(graph)
    return [_case_problem(graph, work, case) for case in query.fitted(inputs, outputs).cases]


def _case_problem(graph: Graph, work: Graph, case: Case) -> Problem:
    dtype = element_type(graph)

    def located(candidate: Candidate) -> tuple[Fraction, ...] | None:
        return case.exact(candidate, dtype)

    prop = case.prop.bind(*_widths(graph))
    return Problem(graph, work, case.regions, case.inner(dtype), Replay(graph, prop, located), prop)


def with_float_outputs(graph: Graph) -> Graph:
    """The network with whole-number outputs (constants, such as a shape) as numbers of its element type."""
    kind = element_type(graph)

    def rule(builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        op = node.op
        if node.name in graph.outputs and isinstance(op, Constant) and not node.type.dtype.is_floating_point:
            whole = value(op.tensor)
            op = Constant(whole.to(kind))
            if not bool((value(op.tensor).to(whole.dtype) == whole).all()):
                raise UnsupportedError(f"output {node} holds numbers that {kind} cannot")
        return builder.add(op, *inputs, name=node.name, source=node.source)

    if all(graph[name].type.dtype.is_floating_point for name in graph.outputs):
        return graph
    return rewrite(graph, rule)


def working(graph: Graph) -> Graph:
    """The network in float64, rewritten for analyses."""
    return optimize(convert(graph, torch.float64, "cpu"), REWRITES)


def _widths(graph: Graph) -> tuple[int, int]:
    """How many inputs and outputs a network has, flattened."""
    return sum(node.type.size for node in graph.inputs), sum(graph[name].type.size for name in graph.outputs)
