"""One cell of the table of bounds: a network, a method and a batch, ours and auto_LiRPA's, in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

import irverify as iv
from benchmarks import lirpa, measure
from benchmarks.cases import Case, Problem

STEPS = 20
"""Steps of gradient ascent on slopes."""
BETWEEN = 6
"""Steps on the bounds in between: as many as ours needs for bounds as tight as theirs after all its steps."""
PIPELINES = {"alpha": f"alpha{{steps={STEPS},intermediate={BETWEEN}}}"}
"""Ours where it is not just the name. auto_LiRPA optimises the bounds in between too unless it is given them."""
NOT_RUN = "not run"
RELATIVE = 1e-5
"""A margin is looser if it is smaller by more than this part of the greatest magnitude among its example's."""


@dataclass(frozen=True)
class Limits:
    """What one cell may take: seconds of interleaved rounds; rounds; seconds of one call of theirs, beyond which it is
    not run, and how many times as long one of ours may take; seconds and GiB of the whole cell, beyond which it is
    ended."""

    budget: float
    rounds: int
    call: float
    patience: float
    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Side:
    """What one program took and found: seconds (median), peak MiB, margins `[batch, classes - 1]`."""

    seconds: float
    memory: float
    margins: Tensor


@dataclass(frozen=True)
class Cell:
    """One network, method and batch. `control` is the same call of ours twice, None where one call was long enough;
    `theirs` is None, with the reason in `note`, where there is nothing to compare."""

    case: str
    method: str
    batch: int
    ours: Side
    control: float | None
    theirs: Side | None
    note: str


def ours(problem: Problem, method: str) -> Tensor:
    """irverify's margins `[batch, classes - 1]`, without the label's own."""
    found = iv.margins(problem.graph, problem.region, problem.labels, PIPELINES.get(method, method)).detach()
    return found[lirpa.others(problem.labels, found.shape[1])].reshape(found.shape[0], -1)


def measured(case: Case, method: str, batch: int, data: Path, limits: Limits, *, compare: bool) -> Cell:
    """Measures one cell, in this process. Raises MeasurementError where ours would take too long."""
    problem = case.load(data, batch)
    first = Problem(problem.graph, problem.region.select(slice(0, 1)), problem.labels[:1])
    call = partial(ours, problem, method)
    ours(first, method)  # what is loaded on first use
    one, _ = measure.seconds_of(partial(ours, first, method))
    if batch > 1 and one * batch > limits.patience * limits.call:
        raise measure.MeasurementError(f"{NOT_RUN}: {batch} times {one:.1f} s of batch 1")
    mine, theirs, control = Side(*measure.peak_of(call)), None, None
    rival, note = _rival(problem, first, method, limits) if compare else (None, "not compared")
    calls: dict[str, Callable[[], object]] = {"ours": call, "again": call} if mine.seconds <= limits.budget else {}
    if rival is not None:
        theirs = rival.side
        if theirs.seconds <= limits.budget:  # beyond it, one call says enough
            calls["theirs"] = partial(rival.tool.margins, method)
    if calls:
        times = measure.interleaved(calls, limits.budget, limits.rounds)
        if "ours" in calls:
            mine = replace(mine, seconds=times.median("ours"))
            control = times.median("ours") / times.median("again")
        if theirs is not None and "theirs" in calls:
            theirs = replace(theirs, seconds=times.median("theirs"))
    return Cell(case.name, method, batch, mine, control, theirs, note)


@dataclass(frozen=True)
class _Rival:
    tool: lirpa.Lirpa
    mode: str
    side: Side


def _rival(problem: Problem, first: Problem, method: str, limits: Limits) -> tuple[_Rival | None, str]:
    """auto_LiRPA in its faster mode, with one call measured, and the mode; or None and why not."""
    batch = problem.labels.shape[0]
    try:
        found = _faster(first, method, limits)
        if batch == 1:
            return found, found.mode
        if found.side.seconds * batch > limits.call:
            return None, f"{NOT_RUN}: {batch} times {found.side.seconds:.1f} s of batch 1"
        tool = lirpa.Lirpa(problem, found.mode, STEPS)
        return _Rival(tool, found.mode, _called(tool, method)), found.mode
    except Exception as error:  # whatever it raises: the table says so in its place
        return None, f"raised {measure.words(error)}"


def _faster(first: Problem, method: str, limits: Limits) -> _Rival:
    """The faster mode at batch 1."""
    found: list[_Rival] = []
    for mode in lirpa.modes(first):
        tool = lirpa.Lirpa(first, mode, STEPS)
        side = _called(tool, method)
        if side.seconds > limits.budget / 2:
            found.append(_Rival(tool, mode, side))
            break  # the other mode has never been the faster one where this one is slow
        found.append(_Rival(tool, mode, _called(tool, method)))  # warm
    return min(found, key=lambda rival: rival.side.seconds)


def _called(tool: lirpa.Lirpa, method: str) -> Side:
    return Side(*measure.peak_of(partial(tool.margins, method)))


@dataclass(frozen=True)
class Looseness:
    """How many margins of ours are looser, by how much at most (relative to the example's greatest), of how many."""

    count: int
    most: float
    total: int


def looseness(mine: Side, theirs: Side) -> Looseness:
    """Ours against theirs, image by image. A margin that is NaN on our side is looser."""
    scale = theirs.margins.abs().amax(1, keepdim=True).clamp(min=1e-6)
    gap = (theirs.margins - mine.margins) / scale
    return Looseness(int((~(gap <= RELATIVE)).sum()), max(0.0, float(gap.max())), gap.numel())


def certified(side: Side) -> int:
    return int((side.margins > 0).all(1).sum())
