"""One cell of the table of bounds: a network, a method and a batch, ours and auto_LiRPA's, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import irverify as iv
from benchmarks import lirpa, measure
from benchmarks.cases import Case, Problem

STEPS = 20
"""Steps of gradient ascent on slopes, theirs."""
ALPHA = 30
"""So many times as long as its CROWN their alpha takes at least (20 steps)."""
PEAKS, QUICK = 5, 0.1
"""So many times the memory of a call is measured that takes fewer seconds than this; the median counts."""
NOT_RUN = "not run"
RELATIVE = 1e-5
"""A margin is looser if it is smaller by more than this part of the greatest magnitude among its example's."""


@dataclass(frozen=True)
class Limits:
    """What one cell may take: seconds of interleaved rounds; rounds; seconds of one call of theirs, beyond which it is
    not run, and how many times as long one of ours may take; seconds of theirs for the images that are compared one by
    one where a batch is not run; seconds and GiB of the whole cell, beyond which it is ended."""

    budget: float
    rounds: int
    call: float
    images: float
    patience: float
    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Side:
    """What one program took and found: seconds (median) and peak MiB, None where it ran on some of the images only;
    margins `[images, classes - 1]`."""

    seconds: float | None
    memory: float | None
    margins: Tensor


@dataclass(frozen=True)
class Cell:
    """One network, method and batch. `control` is the same call of ours twice, None where one call was long enough;
    `theirs` is None, with the reason in `note`, where there is nothing to compare; it may have margins of the first
    images alone, and then no time."""

    case: str
    method: str
    batch: int
    ours: Side
    control: float | None
    theirs: Side | None
    note: str


def ours(problem: Problem, pipeline: str) -> Tensor:
    """irverify's margins `[batch, classes]`; all that is timed."""
    return iv.margins(problem.graph, problem.region, problem.labels, pipeline).detach()


def of_others(problem: Problem, found: Tensor) -> Tensor:
    """The same `[batch, classes - 1]`, without the label's own, which auto_LiRPA has none for."""
    return found[lirpa.others(problem.labels, found.shape[1])].reshape(found.shape[0], -1)


def measured(case: Case, method: str, batch: int, data: Path, limits: Limits, *, compare: bool) -> Cell:
    """Measures one cell, in this process. Raises MeasurementError where ours would take too long."""
    problem = case.load(data, batch)
    first = Problem(problem.graph, problem.region.select(slice(0, 1)), problem.labels[:1])
    pipeline = case.pipeline(method)
    call = partial(ours, problem, pipeline)
    ours(first, pipeline)  # what is loaded on first use
    one, _ = measure.seconds_of(partial(ours, first, pipeline))
    if batch > 1 and one * batch > limits.patience * limits.call:
        raise measure.MeasurementError(f"{NOT_RUN}: {batch} times {one:.1f} s of batch 1")
    took, memory, margins = measure.peak_of(call)
    if not _slow(took, limits):  # what libraries allocate once is there now
        again = [_peak(call, took) for _ in range(_times(took))]
        took, memory = again[-1][0], median(peak for _, peak, _ in again)
    mine, control = Side(took, memory, of_others(problem, margins)), None
    rival = _rival(problem, first, method, limits) if compare else _Rival(None, None, "not compared")
    theirs = rival.side
    calls: dict[str, Callable[[], object]] = {"ours": call, "again": call} if took <= limits.budget else {}
    their_time = math.inf if theirs is None or theirs.seconds is None else theirs.seconds
    if rival.tool is not None and their_time <= limits.budget:  # beyond it, one call says enough
        calls["theirs"] = partial(rival.tool.margins, method)
    if calls:
        times = measure.interleaved(calls, limits.budget, limits.rounds)
        if "ours" in calls:
            mine = replace(mine, seconds=times.median("ours"))
            control = times.median("ours") / times.median("again")
        if theirs is not None and "theirs" in calls:
            theirs = replace(theirs, seconds=times.median("theirs"))
    note = rival.note if pipeline == method else f"{rival.note}; {pipeline}"
    return Cell(case.name, method, batch, mine, control, theirs, note)


@dataclass(frozen=True)
class _Rival:
    """auto_LiRPA prepared for the whole batch, and what it found; without the tool, of the first images at most."""

    tool: lirpa.Lirpa | None
    side: Side | None
    note: str


def _rival(problem: Problem, first: Problem, method: str, limits: Limits) -> _Rival:
    """auto_LiRPA in its faster mode, with one call measured; or why not, and some images one by one."""
    batch = problem.labels.shape[0]
    try:
        if method == "alpha":
            expected = ALPHA * _faster(first, "crown", limits)[1]
            if expected > limits.call:
                return _Rival(None, None, f"{NOT_RUN}: about {expected:.0f} s for one image, from its crown")
        tool, seconds, side = _faster(first, method, limits)
        if batch == 1:
            return _Rival(tool, side, tool.mode)
        if seconds * batch <= limits.call:
            tool, side = _prepared(problem, method, tool.mode, limits)
            return _Rival(tool, side, tool.mode)
        note = f"{NOT_RUN}: {batch} times {seconds:.1f} s of batch 1"
        few = min(batch, int(limits.images / seconds))
        return _Rival(None, _one_by_one(problem, method, tool.mode, few) if few > 1 else None, note)
    except Exception as error:  # whatever it raises: the table says so in its place
        return _Rival(None, None, f"raised {measure.words(error)}")


def _one_by_one(problem: Problem, method: str, mode: str, count: int) -> Side:
    """The margins of the first images, each on its own."""
    found = []
    for image in range(count):
        part = slice(image, image + 1)
        alone = Problem(problem.graph, problem.region.select(part), problem.labels[part])
        found.append(lirpa.Lirpa(alone, mode, STEPS).margins(method))
    return Side(None, None, torch.cat(found))


def _faster(first: Problem, method: str, limits: Limits) -> tuple[lirpa.Lirpa, float, Side]:
    """The faster mode at batch 1, its seconds and what it found."""
    found: list[tuple[lirpa.Lirpa, float, Side]] = []
    for mode in lirpa.modes(first):
        tool, side = _prepared(first, method, mode, limits)
        assert side.seconds is not None
        seconds, slow = side.seconds, _slow(side.seconds, limits)
        if not slow:
            seconds, _ = measure.seconds_of(partial(tool.margins, method))
        found.append((tool, seconds, side))
        if slow:
            break  # the other mode has never been the faster one where this one is slow
    return min(found, key=lambda entry: entry[1])


def _prepared(problem: Problem, method: str, mode: str, limits: Limits) -> tuple[lirpa.Lirpa, Side]:
    """auto_LiRPA in this mode and what its first call took and found; where it is quick, that of further objects, since
    an object keeps the bounds of its last call, whose memory the next one would seem to need none for."""
    tool = lirpa.Lirpa(problem, mode, STEPS)
    took, memory, margins = measure.peak_of(partial(tool.margins, method))
    if _slow(took, limits):
        return tool, Side(took, memory, margins)
    peaks, first = [], took
    for _ in range(_times(took)):
        del tool
        tool = lirpa.Lirpa(problem, mode, STEPS)
        took, memory, margins = _peak(partial(tool.margins, method), first)
        peaks.append(memory)
    return tool, Side(took, median(peaks), margins)


def _times(seconds: float) -> int:
    """How often the memory of a call is measured that takes so long."""
    return PEAKS if seconds < QUICK else 1


def _peak(call: Callable[[], Tensor], seconds: float) -> tuple[float, float, Tensor]:
    """Seconds, MiB and what it found, of a call that takes about so long: quick ones take so little that it matters
    where it comes to lie."""
    exactly = measure.allocated_by(call) if seconds < QUICK else None
    return measure.peak_of(call) if exactly is None else exactly


def _slow(seconds: float, limits: Limits) -> bool:
    """One call says enough."""
    return seconds > limits.budget / 2


@dataclass(frozen=True)
class Looseness:
    """How many margins of ours are looser, by how much at most (relative to the example's greatest), of how many; and
    the mean of all margins, ours and theirs."""

    count: int
    most: float
    total: int
    means: tuple[float, float]


def looseness(mine: Side, theirs: Side) -> Looseness:
    """Ours against theirs, image by image, for those that they have. A margin that is NaN on our side is looser."""
    own = mine.margins[: theirs.margins.shape[0]]
    scale = theirs.margins.abs().amax(1, keepdim=True).clamp(min=1e-6)
    gap = (theirs.margins - own) / scale
    means = float(own.mean()), float(theirs.margins.mean())
    return Looseness(int((~(gap <= RELATIVE)).sum()), max(0.0, float(gap.max())), gap.numel(), means)


def certified(side: Side) -> int:
    return int((side.margins > 0).all(1).sum())
