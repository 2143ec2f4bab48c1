"""`irverify compile --vary` and `--also`: the networks of a curve, measured one after the other."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from irverify.cli.loading import check_model, load_model
from irverify.cli.numbers import Numbers
from irverify.cli.progress import Tally
from irverify.cli.regions import Perturbation, situation
from irverify.cli.sizing import measured_over
from irverify.cli.streams import encode, note, write
from irverify.errors import FileError, IRVerifyError, UsageError
from irverify.pipeline.catalog import Value, find
from irverify.pipeline.text import Step, parse_pipeline, print_pipeline, read_value

if TYPE_CHECKING:
    from irverify.ir.graph import Graph
    from irverify.report.points import Point, Stop
    from irverify.report.sizes import Situation

SUFFIXES = (".png", ".svg", ".pdf")
ALONG = "number"
"""What the horizontal axis is called where nobody says."""


@dataclass(frozen=True)
class Wanted:
    """What `--vary`, `--also`, `--at`, `--along` and `--picture` say."""

    vary: Sequence[str] = ()
    also: Sequence[str] = ()
    at: float | None = None
    along: str | None = None
    picture: Path | None = None

    def check(self, stats: bool) -> bool:
        """Whether a curve is wanted. UsageError where the options do not make sense together."""
        if self.vary and self.also:
            hint = "vary an option of each network in a run of its own"
            raise UsageError("expected --vary or --also, got both: a curve is along one number", hint=hint)
        if len(self.vary) > 1:
            raise UsageError(f"expected --vary once, got {' and '.join(self.vary)}: one option varies along a curve")
        given = {"--at": self.at, "--along": self.along, "--picture": self.picture}
        lonely = [flag for flag, value in given.items() if value is not None and not (self.vary or self.also)]
        if lonely:
            hint = "such as --vary prune-relus.share=0,0.1 or --also 2e-4=OTHER.onnx"
            raise UsageError(f"{', '.join(lonely)} without --vary or --also: there is no curve", hint=hint)
        if self.at is not None and not self.also:
            raise UsageError("--at without --also: the values of --vary say where the networks stand")
        if self.at is not None and not math.isfinite(self.at):
            raise UsageError(f"expected --at to be a finite number, got {self.at}")
        if not (self.vary or self.also):
            return False
        if not stats:
            raise UsageError(f"{'--vary' if self.vary else '--also'} without --stats: expected both")
        self._check_picture()
        return True

    def _check_picture(self) -> None:
        if self.picture is None:
            return
        if self.picture.suffix not in SUFFIXES:
            raise UsageError(f"expected --picture to end in {' or '.join(SUFFIXES)}, got {str(self.picture)!r}")
        if not self.picture.parent.is_dir():
            raise FileError("no such folder", where=str(self.picture.parent))

    def stops(self, model: str, passes: str) -> list[tuple[Value, str, str]]:
        """Where the networks stand, their models and their pipelines. UsageError for what cannot be read."""
        if self.vary:
            return [(value, model, pipeline) for value, pipeline in varied(self.vary[0], passes)]
        numbers = {0.0 if self.at is None else self.at: model}
        for text in self.also:
            number, other = _placed(text)
            if number in numbers:
                raise UsageError(f"--also {text}: {numbers[number]} stands at {number:g} already")
            check_model(other)
            numbers[number] = other
        return [(number, other, passes) for number, other in numbers.items()]

    @property
    def name(self) -> str:
        """What the networks stand at."""
        return self.along or (self.vary[0].partition("=")[0] if self.vary else ALONG)


def varied(text: str, passes: str) -> list[tuple[Value, str]]:
    """The values that PASS.OPTION=V1,V2,... names, and the pipeline with each of them."""
    target, equals, listed = text.partition("=")
    name, dot, word = target.partition(".")
    if not (equals and dot and name and word and listed):
        raise UsageError(f"expected --vary PASS.OPTION=V1,V2,... such as prune-relus.share=0,0.1, got {text!r}")
    entry = find(name)
    option = entry.option(word)
    steps = parse_pipeline(passes)
    places = [place for place, step in enumerate(steps) if step.name == name]
    if len(places) != 1:
        hint = f"the pipeline is {print_pipeline(steps) or 'empty'}"
        raise UsageError(f"--vary {target}: expected {name} once in --passes, got it {len(places)} times", hint=hint)
    values = [read_value(entry, option, part.strip()) for part in listed.split(",")]
    if len(set(values)) < len(values):
        raise UsageError(f"expected every value once, got --vary {text}")
    pipelines = []
    for value in values:
        given = dict(steps[places[0]].options) | {word: value}
        ordered = tuple((known.name, given[known.name]) for known in entry.options if known.name in given)
        changed = [*steps[: places[0]], Step(name, ordered), *steps[places[0] + 1 :]]
        pipelines.append((value, print_pipeline(changed)))
    return pipelines


def _placed(text: str) -> tuple[float, str]:
    word, equals, model = text.partition("=")
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not (equals and model and math.isfinite(number)):
        raise UsageError(f"expected --also X=MODEL with a number X, such as 2e-4=rs/model.onnx, got {text!r}")
    return number, model


@dataclass(frozen=True)
class Over:
    """What every network of a curve is measured over, and how."""

    property_file: str | None
    perturbed: Perturbation | None
    numbers: Numbers
    check: bool
    limit: float | None


def answer_curve(wanted: Wanted, model: str, passes: str, over: Over, as_json: bool) -> None:
    """Measures the networks and says what came of them; a run that is stopped tells what it has."""
    places = wanted.stops(model, passes)
    if over.limit is not None and over.property_file is None and over.perturbed is None:
        raise UsageError("--solve without regions: expected a property, or --data and --eps")
    from irverify.pipeline import parse_passes
    from irverify.report.points import Stop

    stops = [Stop(x, one, over.numbers.limited(pipeline)) for x, one, pipeline in places]
    for stop in stops:
        parse_passes(stop.passes)
    networks = _Networks(over, [stop.model for stop in stops])
    points: list[Point] = []
    try:
        _measure(wanted.name, stops, networks, points)
    except BaseException:
        _tell_stopped(wanted, points, len(stops))
        raise
    content = {"model": model, "passes": passes, "along": wanted.name, "curve": [point.content() for point in points]}
    write(encode("compile", content) if as_json else _tables(wanted.name, points))
    sys.stdout.flush()  # what is measured is told even where it cannot be drawn
    try:
        _draw(wanted, points)
    except IRVerifyError as error:  # stdout has its one answer already
        note(f"error: {error}")
        raise typer.Exit(1) from error


class _Networks:
    """The networks that a curve needs, loaded once each, and what they are measured over."""

    def __init__(self, over: Over, models: Sequence[str]) -> None:
        self.over = over
        self.graphs: dict[str, Graph] = {}
        self.known = {}
        for model in dict.fromkeys(models):
            graph = over.numbers.placed(load_model(model))
            self.graphs[model] = graph
            self.known[model] = situation(graph, over.property_file, over.perturbed)

    def situation(self, stop: Stop) -> Situation:
        return measured_over(self.known[stop.model], stop.passes, self.over.limit)


def _measure(name: str, stops: Sequence[Stop], networks: _Networks, points: list[Point]) -> None:
    """Adds the point of each stop; the last one is there as far as it is measured."""
    from irverify.report.points import measured, steps_of

    with Tally(sum(steps_of(networks.situation(stop)) for stop in stops)) as tally:
        for place, stop in enumerate(stops):
            for point in measured(stop, networks.graphs[stop.model], networks.situation(stop), networks.over.check):
                points[place:] = [point]
                tally.advance(lambda: [_said(name, points[-1])])


def _said(name: str, point: Point) -> str:
    """How far a point has come."""
    from irverify.report.size_curves import word_of

    parts = [f"{name} {word_of(point.x)}", f"{point.size.neurons} neurons"]
    if point.unstable is not None:
        parts.append(f"{point.unstable:.4g} unstable")
    if point.solved:
        parts.append(f"{len(point.solved)} of {point.regions} solved, {point.margins('open')} open")
    return ", ".join(parts)


def _tell_stopped(wanted: Wanted, points: Sequence[Point], count: int) -> None:
    """Tells, and draws, what was measured before a curve was stopped."""
    if not points:
        return
    note(f"measured {len(points)} of {count}, the last one as far as it came\n{_tables(wanted.name, points)}")
    with suppress(IRVerifyError):  # why it was stopped matters more
        _draw(wanted, points)


def _tables(name: str, points: Sequence[Point]) -> str:
    from irverify.report.size_curves import curve_tables

    return curve_tables(name, points)


def _draw(wanted: Wanted, points: Sequence[Point]) -> None:
    if wanted.picture is None:
        return
    try:
        from irverify.report.size_curves import draw_curve

        draw_curve(wanted.picture, wanted.name, points)
    except ImportError as error:
        raise FileError(f"not drawn: matplotlib cannot be imported ({error})", where=str(wanted.picture)) from error
    note(f"wrote {wanted.picture}")
