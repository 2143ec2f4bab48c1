"""What is measured of the networks along a curve: sizes, accuracies, and solves of each region's program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch

from irverify.attacks import keeps_label, protocol
from irverify.backends.milp import Worker
from irverify.ir.graph import Graph
from irverify.pipeline.catalog import Value, find
from irverify.pipeline.manager import run
from irverify.pipeline.state import State
from irverify.pipeline.text import parse_pipeline, print_pipeline
from irverify.report.sizes import Margin, Program, Situation, Size, analysed, counted, program_of, right, size_over

ATTACK = "pgd-40"
"""The protocol that PGD accuracy is measured by."""
AT_ONCE = 100
"""Images that are attacked together."""


@dataclass(frozen=True)
class Point:
    """A network on a curve, as far as it is measured.

    `x` is where it stands, `model` where it comes from, `imported` how many neurons it had before its pipeline; `size`
    is that of what the pipeline made. `change`: by how much at most an output differs from the model's over the
    regions, None where nothing says. Over `regions` of them: `resistant`, the share that is classified as labelled and
    stays so under `ATTACK`, None without labels; `solved`, the programs of the first ones, with `limit` seconds each;
    where the centre is classified as something else, no solver is asked for the sign of the margin.
    """

    x: Value
    model: str
    imported: int
    size: Size
    regions: int = 0
    change: float | None = None
    resistant: float | None = None
    solved: tuple[Program, ...] = ()
    limit: float | None = None

    @property
    def pruned(self) -> int:
        """How many neurons the pipeline took away."""
        return self.imported - self.size.neurons

    @property
    def unstable(self) -> float | None:
        """Unstable neurons in all, the mean over the regions."""
        return None if self.size.unstable is None else sum(self.size.unstable.values())

    @property
    def seconds(self) -> float | None:
        """The mean time that solving a program took, of those that a solver was asked about."""
        times = [program.solving for program in self.solved if program.solving is not None]
        return sum(times) / len(times) if times else None

    def margins(self, wanted: Margin) -> int:
        """How many of the smallest margins came out like this."""
        return sum(program.margin == wanted for program in self.solved)

    def content(self) -> dict[str, object]:
        """The point for JSON."""
        solved = {
            "limit": self.limit, "programs": len(self.solved), "seconds": self.seconds,
            "positive": self.margins("positive"), "not_positive": self.margins("not positive"),
            "open": self.margins("open"),
            "per_region": [asdict(program) for program in self.solved],
        }  # fmt: skip
        return {
            "x": self.x, "model": self.model, **asdict(self.size), "unstable_in_all": self.unstable,
            "neurons_before": self.imported, "pruned": self.pruned, "output_change": self.change,
            "regions": self.regions, "pgd_accuracy": self.resistant, "solved": solved if self.solved else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Stop:
    """A point that is to be measured: where it stands, its model, and the pipeline that this goes through."""

    x: Value
    model: str
    passes: str


def steps_of(situation: Situation) -> int:
    """How many points `measured` gives for each stop, at most."""
    batch = 0 if situation.regions is None else situation.regions[0].batch
    return 1 + (situation.labels is not None) + (batch if situation.limit is not None and situation.props else 0)


def measured(stop: Stop, source: Graph, situation: Situation, check: bool = False) -> Iterator[Point]:
    """The point of a network, again and again: each time with more of it measured."""
    made = run(source, _rewriting(stop.passes), situation.regions, check=check)
    point = Point(stop.x, stop.model, counted(source).neurons, counted(made.graph), change=_change(made, stop.passes))
    if situation.regions is None:
        yield point
        return
    state = analysed(made.graph, situation)
    program = program_of(state, replace(situation, limit=None))
    size = size_over(state, point.size, situation.labels, program)
    point = replace(point, size=size, regions=state.batch, limit=situation.limit)
    yield point
    if situation.labels is not None:
        point = replace(point, resistant=_resistant(state, situation.labels))
        yield point
    if situation.limit is None or not situation.props:
        return
    known = [True] * state.batch if situation.labels is None else right(state, situation.labels).tolist()
    with Worker() as worker:
        for place, asked in enumerate(known):
            program = program_of(state, situation if asked else replace(situation, limit=None), place, worker)
            if program is None:
                return
            program = program if asked else replace(program, margin="not positive")  # the centre itself says so
            point = replace(point, solved=(*point.solved, program))
            yield point


def _change(made: State, passes: str) -> float | None:
    """Rewrites after each other change an output by the sum of what each does at most; None unless all of them say."""
    changing = sum(find(step.name).changes for step in parse_pipeline(passes))
    known = [timing.statistics["output_change"] for timing in made.timings if "output_change" in timing.statistics]
    return float(sum(known)) if known and len(known) == changing else None


def _rewriting(passes: str) -> str:
    """The pipeline up to its last rewrite: what comes after it changes no network."""
    steps = list(parse_pipeline(passes))
    while steps and find(steps[-1].name).kind != "rewrite":
        steps.pop()
    return print_pipeline(steps)


def _resistant(state: State, labels: torch.Tensor) -> float:
    """The share of the regions whose centre is classified as labelled and that an attack finds nothing else in."""
    places = right(state, labels).nonzero()[:, 0].cpu()
    kept = 0
    for some in places.split(AT_ONCE) if len(places) else ():
        regions = [region.select(some) for region in state.regions or ()]
        kept += int(keeps_label(state.graph, regions, labels[some], protocol(ATTACK)).sum())
    return kept / state.batch
