"""Attacks on the open disjuncts of many problems of one network at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from irverify.attacks import Pgd, Target, attack
from irverify.ir.graph import Graph, convert
from irverify.verify.bounding import in_parts, relaxed_points
from irverify.verify.problem import Problem, element_type

MEMORY = 2**28
"""Bytes of values that runs may have in flight at once, about; more gain nothing."""
FEW_INPUTS = 32
"""Up to how many free inputs random points tell something."""
QUICK = Pgd(steps=10, restarts=1)
GUIDED = Pgd(steps=60, restarts=4, step=1.0, decay=0.97, chords=0.7)
SAMPLED = Pgd(steps=50, restarts=30, step=0.2, decay=0.95, seed=1, sample=100_000)
THOROUGH = Pgd(steps=100, restarts=10, step=1.0, decay=0.95, seed=3)


def strike(problems: Sequence[Problem], how: Pgd, deadline: float | None) -> dict[int, Exception]:
    """Attacks what is open, in the network's own element type; accepted candidates are replayed counterexamples.

    Where bounds are known the runs also start from the relaxation's optimal perturbations; with chords they descend on
    the rewritten network, whose values have bounds. Returns what went wrong, by the place of the problem.
    """
    faults: dict[int, Exception] = {}
    places = {id(problem): place for place, problem in enumerate(problems)}
    for part in _parts([problem for problem in problems if problem.inner is not None and not problem.decided], how):
        wrong = in_parts(part, lambda some: _strike(some, how, deadline))
        faults |= {places[id(part[place])]: error for place, error in wrong.items()}
    return faults


def free_inputs(problem: Problem) -> int:
    """How many inputs are not fixed."""
    return sum(int((lower < upper).sum()) for lower, upper in (region.box() for region in problem.regions))


def _strike(problems: Sequence[Problem], how: Pgd, deadline: float | None) -> None:
    graph = _rewritten(problems[0]) if how.chords else problems[0].graph
    relaxed = relaxed_points(problems)
    targets = [_target(problem, starts) for problem, starts in zip(problems, relaxed, strict=True)]
    for problem, found in zip(problems, attack(graph, targets, how, deadline), strict=True):
        problem.note(found.nearest)


def _target(problem: Problem, starts: Sequence[tuple[Tensor, ...]]) -> Target:
    assert problem.inner is not None
    return Target(problem.inner, problem.open, problem.accept, starts, problem.bounds)


def _parts(problems: Sequence[Problem], how: Pgd) -> Iterator[list[Problem]]:
    """So many problems at a time that their runs fit."""
    part: list[Problem] = []
    room = 0
    for problem in problems:
        size = sum(node.type.size for node in problem.graph) * element_type(problem.graph).itemsize
        runs = how.restarts * (1 if how.untargeted else len(problem.open.disjuncts))
        room -= runs * size
        if part and room < 0:
            yield part
            part = []
        if not part:
            room = MEMORY - runs * size
        part.append(problem)
    if part:
        yield part


def seeded(how: Pgd, seed: int) -> Pgd:
    return dataclasses.replace(how, seed=how.seed + seed)


def _rewritten(problem: Problem) -> Graph:
    """The rewritten network in the network's own element type."""
    if problem.work not in _REWRITTEN:
        _REWRITTEN[problem.work] = convert(problem.work, element_type(problem.graph))
    return _REWRITTEN[problem.work]


_REWRITTEN: WeakKeyDictionary[Graph, Graph] = WeakKeyDictionary()
"""What `_rewritten` has made: `work` holds copies of parameters already."""
