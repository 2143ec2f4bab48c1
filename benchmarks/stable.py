"""Exact verification with and without `eliminate-stable`, where crown leaves it open: sizes, times, answers.

    python -m benchmarks.stable --network wk17a --first 100 --questions 4 --limit 60
    python -m benchmarks.stable --network "mnistfc 256x2" --instances mnistfc --query 0.03 --questions 4 --limit 60

A question is an image of a case and its radius, or an instance of a VNN-COMP benchmark. For each the plain way, the
same once more as a control, and the one with the rewrite take turns. Building is everything from the imported network
to the program: rewrites, bounds, rows. Solving is SCIP or HiGHS in a process of its own, from the centre of the region,
until the sign of the smallest margin is known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal

import torch

import irverify as iv
from benchmarks.cases import CASES, DATA, Problem
from benchmarks.vnncomp import instances
from irverify.backends.milp import SolveOptions, formulate, solve
from irverify.ir.graph import Graph, convert
from irverify.pipeline.rows import REWRITES, row_state
from irverify.properties import Property
from irverify.regions import Region

PLAIN = f"{REWRITES},ibp,crown"
SIZES = ("rows", "columns", "binaries", "nonzeros")
WAYS = {"plain": PLAIN, "plain, again": PLAIN, "eliminate-stable": f"{PLAIN},eliminate-stable"}


@dataclass(frozen=True)
class Question:
    """A network, a region of one example, a property, and what to call them."""

    name: str
    graph: Graph
    regions: tuple[Region, ...]
    prop: Property


@dataclass(frozen=True)
class Run:
    """One question, one way: seconds to build and to solve, the size of the program, and what came out."""

    question: str
    way: str
    build: float
    solve: float
    rows: int
    columns: int
    binaries: int
    nonzeros: int
    answer: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="wk17a", choices=[case.name for case in CASES])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the public networks and images")
    parser.add_argument("--first", type=int, default=100, help="images to look for open ones in")
    parser.add_argument("--instances", help="a VNN-COMP benchmark, instead of images")
    parser.add_argument("--query", default="", help="only instances whose query has this in its name")
    parser.add_argument("--every", action="store_true", help="instances that crown decides, too")
    parser.add_argument("--questions", type=int, default=4, help="so many of them")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one program")
    parser.add_argument("--solver", choices=("scip", "highs"), default="highs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    runs = []
    for question in islice(asked(arguments), arguments.questions):
        for way in WAYS:
            runs.append(measured(question, way, arguments.solver, arguments.limit))
            if not arguments.json:
                print(runs[-1], flush=True)
    print(json.dumps([vars(entry) for entry in runs]) if arguments.json else f"\n{table(runs)}")


def asked(arguments: argparse.Namespace) -> Iterator[Question]:
    (case,) = (case for case in CASES if case.name == arguments.network)
    if arguments.instances is None:
        loaded = case.load(arguments.data, arguments.first)
        yield from of_images(replace(loaded, graph=convert(loaded.graph, torch.float64)))
    else:
        graph = convert(iv.compile(case.file(arguments.data)), torch.float64)
        folder = arguments.data / "vnncomp" / arguments.instances
        yield from of_instances(graph, folder, Path(case.network).name, arguments.query, arguments.every)


def of_images(problem: Problem) -> list[Question]:
    """The images that crown does not verify, those first that it nearly does."""
    margins = iv.margins(problem.graph, problem.region, problem.labels, method=f"{REWRITES},crown").clone()
    margins.scatter_(1, problem.labels[:, None].long(), torch.inf)
    lower = margins.amin(1)
    found = []
    for place in lower.argsort(descending=True).tolist():
        if not float(lower[place]) > 0:
            region, prop = problem.region.select([place]), iv.robust(int(problem.labels[place]))
            found.append(Question(f"image {place}", problem.graph, (region,), prop))
    return found


def of_instances(graph: Graph, folder: Path, network: str, part: str, every: bool = False) -> list[Question]:
    """The instances of one network whose query's name has `part`, that crown leaves open (or `every` one), those with
    the fewest unstable neurons first; each with one region."""
    found = []
    for instance in instances(folder, None, "1.0"):
        if instance.network.endswith(network) and part in instance.query:
            query = iv.from_vnnlib(folder / instance.query)
            shapes = ([node.type.shape for node in graph.inputs], [graph[name].type.shape for name in graph.outputs])
            (case,) = query.fitted(*shapes).cases
            lower, state = row_state(graph, case.regions, case.prop, f"{REWRITES},crown,stability")
            if every or not bool((lower > 0).all()):
                unstable = sum(labels.counts()[2] for labels in state.stability.values())
                found.append((unstable, Question(Path(instance.query).name, graph, tuple(case.regions), case.prop)))
    return [question for _, question in sorted(found, key=lambda pair: pair[0])]


def measured(question: Question, way: str, solver: Literal["scip", "highs"], limit: float) -> Run:
    """One question, one way."""
    begun = time.perf_counter()
    state = iv.run(question.graph, WAYS[way], question.regions)
    bounds = {name: (found.lower[0], found.upper[0]) for name, found in state.bounds.items()}
    program = formulate(state.graph, question.regions, question.prop, bounds).program()
    build = time.perf_counter() - begun
    begun = time.perf_counter()
    hint = program.hint([region.center[0] for region in question.regions])
    solution = solve(program.model, solver, SolveOptions(time_limit=limit, sign_only=True), hint=hint)
    seconds = time.perf_counter() - begun
    reached = solution.objective is not None and solution.objective <= 0
    answer = "verified" if program.refuted(solution) else "violated" if reached else "open"
    size = program.statistics
    sizes = (size.rows, size.columns, size.binaries, size.nonzeros)
    return Run(question.name, way, build, seconds, *sizes, answer)


def table(runs: Sequence[Run]) -> str:
    """A line for each way, with medians over questions, and of the ratios to the plain way, as Markdown."""
    plain = {run.question: run for run in runs if run.way == "plain"}
    lines = [
        f"| way | {' | '.join(SIZES)} | build, s | solve, s | build / plain | solve / plain | answers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        mine = [run for run in runs if run.way == way]
        sizes = [f"{median(getattr(run, name) for run in mine):.0f}" for name in SIZES]
        times = [f"{median(getattr(run, name) for run in mine):.2f}" for name in ("build", "solve")]
        ratios = [
            f"{median(getattr(run, name) / getattr(plain[run.question], name) for run in mine):.2f}"
            for name in ("build", "solve")
        ]
        answers = ", ".join(run.answer for run in mine)
        lines.append(f"| {' | '.join([way, *sizes, *times, *ratios, answers])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
