"""The staged driver: attack, bounds, exact search, from cheap to dear, each stage only on what is still open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from torch import Tensor

from irverify.attacks import Candidate, Pgd, pgd
from irverify.errors import RegionError, UnsupportedError, UsageError
from irverify.ir.graph import Graph, GraphBuilder, Node, convert, rewrite
from irverify.ir.ops import Constant
from irverify.ir.params import value
from irverify.pipeline import optimize
from irverify.pipeline.rows import row_state
from irverify.properties import Case, Property, Query
from irverify.regions import Region, regions_for
from irverify.verify.problem import Clock, Options, Problem, element_type
from irverify.verify.replay import Replay
from irverify.verify.verdict import Verdict, VerdictName

Given: TypeAlias = Region | Sequence[Region] | Mapping[str, Region]
REWRITES = "canonicalize,fold-batchnorm,fuse-linear"
ATTACK_SHARE = 0.1
"""The part of the time limit that one attack may take; what proves something must get its turn."""
QUICK = Pgd(steps=10, restarts=4)
GUIDED = Pgd(steps=60, restarts=4, step=1.0, decay=0.97, chords=0.7)
SAMPLED = Pgd(steps=50, restarts=30, step=0.2, decay=0.95, seed=1, sample=100_000)
FEW_INPUTS = 32
"""Up to how many free inputs random points tell something."""
THOROUGH = Pgd(steps=100, restarts=60, step=1.0, decay=0.95, seed=3)


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
    graph = _with_float_outputs(graph)
    if isinstance(region, Query):
        if prop is not None:
            raise UsageError("a query holds its own property", hint="give a region and a property, or a query alone")
        problems = _query_problems(graph, region)
    else:
        if prop is None:
            hint = "iv.robust(label), iv.linear(C, d) or a VNN-LIB query"
            raise UsageError("expected a property to verify", hint=hint)
        problems = [_problem(graph, region, prop)]
    return decide(problems, Clock(options))


def _problem(graph: Graph, region: Given, prop: Property) -> Problem:
    """The problem of a region and a property given in Python."""
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
    return Problem(graph, _work(graph), regions, inner, Replay(graph, bound, located), bound)


def _query_problems(graph: Graph, query: Query) -> list[Problem]:
    """The problems of a query's cases; hidden values that it constrains are the network's last outputs."""
    inputs, outputs = [node.type.shape for node in graph.inputs], [graph[name].type.shape for name in graph.outputs]
    work = _work(graph)
    return [_case_problem(graph, work, case) for case in query.fitted(inputs, outputs).cases]


def _case_problem(graph: Graph, work: Graph, case: Case) -> Problem:
    dtype = element_type(graph)

    def located(candidate: Candidate) -> tuple[Fraction, ...] | None:
        return case.exact(candidate, dtype)

    prop = case.prop.bind(*_widths(graph))
    return Problem(graph, work, case.regions, case.inner(dtype), Replay(graph, prop, located), prop)


def _with_float_outputs(graph: Graph) -> Graph:
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


def _work(graph: Graph) -> Graph:
    """The network in float64, rewritten for analyses."""
    return optimize(convert(graph, torch.float64, "cpu"), REWRITES)


def _widths(graph: Graph) -> tuple[int, int]:
    """How many inputs and outputs a network has, flattened."""
    return sum(node.type.size for node in graph.inputs), sum(graph[name].type.size for name in graph.outputs)


def decide(problems: Sequence[Problem], clock: Clock) -> Verdict:
    """Decides all problems of one network: the cheap stages on all of them before the dear one on any."""
    if not problems:  # all of nothing would be verified
        raise UsageError("expected a query with a case at least, got none")
    stages: tuple[Callable[[Problem, Clock], None], ...] = (_quick, _bound, _guided, _sampled)
    if clock.options.pipeline is None:
        stages = (*stages, _optimize, _tighten, _thorough, _search)
    for stage in stages:
        for problem in problems:
            if not problem.decided and not clock.over:
                stage(problem, clock)
            if problem.counterexample is not None:
                return _verdict(problems, clock)
    return _verdict(problems, clock)


def _tighten(problem: Problem, clock: Clock) -> None:
    from irverify.verify.exact import tighten_bounds  # brings scipy, which most instances do without

    tighten_bounds(problem, clock)


def _search(problem: Problem, clock: Clock) -> None:
    from irverify.verify.exact import search_exactly

    search_exactly(problem, clock)


def _quick(problem: Problem, clock: Clock) -> None:
    _attack(problem, QUICK, clock)


def _guided(problem: Problem, clock: Clock) -> None:
    _attack(problem, GUIDED, clock)


def _sampled(problem: Problem, clock: Clock) -> None:
    free = sum(int((lower < upper).sum()) for lower, upper in (region.box() for region in problem.regions))
    if free <= FEW_INPUTS:
        _attack(problem, SAMPLED, clock)


def _thorough(problem: Problem, clock: Clock) -> None:
    _attack(problem, THOROUGH, clock)


def _attack(problem: Problem, attack: Pgd, clock: Clock) -> None:
    """Gradient descent towards a violation, in the network's own element type; with chords on the rewritten network,
    whose values have bounds."""
    if problem.inner is None:
        return
    seeded = dataclasses.replace(attack, seed=attack.seed + clock.options.seed)
    graph = convert(problem.work, element_type(problem.graph)) if attack.chords else problem.graph
    with clock.stage(str(attack)) as outcome:
        deadline = clock.share(ATTACK_SHARE)
        pgd(graph, problem.inner, problem.open, seeded, problem.accept, deadline, problem.bounds)
        outcome.append(problem.summary(0))


def _bound(problem: Problem, clock: Clock) -> None:
    for method in (clock.options.pipeline,) if clock.options.pipeline else ("ibp", "crown"):
        if not problem.decided and not clock.over:
            _bound_by(method, problem, clock)


def _optimize(problem: Problem, clock: Clock) -> None:
    _bound_by("alpha", problem, clock)


def _bound_by(method: str, problem: Problem, clock: Clock) -> None:
    """Lower bounds of the rows of every open disjunct; one positive row refutes its disjunct."""
    with clock.stage(method) as outcome:
        try:
            lower, state = row_state(problem.work, problem.regions, problem.open, method)
        except UnsupportedError as error:  # the network is undefined or unbounded on this region: nothing is proved
            problem.reason = str(error)
            outcome.append(error.message)
            return
        problem.learn(state.bounds)
        best = _largest(problem.open, lower[0])
        refuted = [index for index, margin in enumerate(best) if margin > problem.tolerance]
        problem.refute(refuted, method, min((best[index] for index in refuted), default=0.0), problem.tolerance)
        outcome.append(problem.summary(len(refuted)))


def _largest(prop: Property, lower: Tensor) -> list[float]:
    """The largest lower bound among the rows of each disjunct; what is not finite (an overflow, NaN) proves nothing."""
    result, start = [], 0
    for disjunct in prop.disjuncts:
        part = lower[start : start + disjunct.offset.shape[0]]
        part = torch.where(part.isfinite(), part, torch.full_like(part, -math.inf))
        result.append(float(part.max()))
        start += disjunct.offset.shape[0]
    return result


def _verdict(problems: Sequence[Problem], clock: Clock) -> Verdict:
    """Falsified where one problem is, verified where all are."""
    verdict: VerdictName
    found = next((problem.counterexample for problem in problems if problem.counterexample is not None), None)
    open_ = [problem for problem in problems if not problem.decided]
    method = bound = tolerance = reason = None
    if found is not None:
        verdict, method = "falsified", clock.stages[-1].name
    elif not open_:
        verdict = "verified"
        proofs = [(name, *margin) for problem in problems for name, margin in problem.proofs.items()]
        method = " & ".join(dict.fromkeys(name for name, _, _ in proofs))
        bound = min((margin for _, margin, _ in proofs), default=None)
        tolerance = max((needed for _, _, needed in proofs), default=None)
    elif clock.over:
        verdict, reason = "timeout", f"the limit of {clock.options.timeout:g} s came first"
    else:
        verdict = "unknown"
        reason = next((problem.reason for problem in open_ if problem.reason), "the bounds are too loose")
    return Verdict(verdict, method, bound, tolerance, found, clock.seconds, tuple(clock.stages), reason)
