"""Exact verification with and without `eliminate-stable`, on images that crown leaves open: sizes, times, answers.

    python -m benchmarks.stable --network wk17a --first 100 --images 4 --limit 60

For each image the plain way, the same once more as a control, and the one with the rewrite take turns. Building is
everything from the imported network to the program: rewrites, bounds, rows. Solving is SCIP or HiGHS in a process of
its own, until the sign of the smallest margin is known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch

import irverify as iv
from benchmarks.cases import CASES, DATA, Problem
from irverify.backends.milp import SolveOptions, formulate, solve
from irverify.ir.graph import convert
from irverify.pipeline.rows import REWRITES

PLAIN = f"{REWRITES},ibp,crown"
WAYS = {"plain": PLAIN, "plain, again": PLAIN, "eliminate-stable": f"{PLAIN},eliminate-stable"}


@dataclass(frozen=True)
class Run:
    """One image, one way: seconds to build and to solve, the size of the program, and what came out."""

    image: int
    way: str
    build: float
    solve: float
    rows: int
    columns: int
    nonzeros: int
    answer: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="wk17a", choices=[case.name for case in CASES])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the public networks and images")
    parser.add_argument("--first", type=int, default=100, help="images to look for open ones in")
    parser.add_argument("--images", type=int, default=4, help="so many open ones")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one program")
    parser.add_argument("--solver", choices=("scip", "highs"), default="highs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    (case,) = (case for case in CASES if case.name == arguments.network)
    loaded = case.load(arguments.data, arguments.first)
    problem = replace(loaded, graph=convert(loaded.graph, torch.float64))
    runs = []
    for image in open_images(problem)[: arguments.images]:
        for way in WAYS:
            runs.append(measured(problem, image, way, arguments.solver, arguments.limit))
            if not arguments.json:
                print(runs[-1], flush=True)
    print(json.dumps([vars(entry) for entry in runs]) if arguments.json else f"\n{table(runs)}")


def open_images(problem: Problem) -> list[int]:
    """The images that crown does not verify, those first that it nearly does."""
    margins = iv.margins(problem.graph, problem.region, problem.labels, method=f"{REWRITES},crown").clone()
    margins.scatter_(1, problem.labels[:, None].long(), torch.inf)
    lower = margins.amin(1)
    return [int(index) for index in lower.argsort(descending=True) if not float(lower[index]) > 0]


def measured(problem: Problem, image: int, way: str, solver: Literal["scip", "highs"], limit: float) -> Run:
    """One image, one way."""
    region, label = problem.region.select([image]), int(problem.labels[image])
    begun = time.perf_counter()
    state = iv.run(problem.graph, WAYS[way], region)
    bounds = {name: (found.lower[0], found.upper[0]) for name, found in state.bounds.items()}
    program = formulate(state.graph, region, iv.robust(label), bounds).program()
    build = time.perf_counter() - begun
    begun = time.perf_counter()
    solution = solve(program.model, solver, SolveOptions(time_limit=limit, sign_only=True))
    seconds = time.perf_counter() - begun
    reached = solution.objective is not None and solution.objective <= 0
    answer = "verified" if program.refuted(solution) else "violated" if reached else "open"
    size = program.statistics
    return Run(image, way, build, seconds, size.rows, size.columns, size.nonzeros, answer)


def table(runs: Sequence[Run]) -> str:
    """A line for each way, with medians over images, and of the ratios to the plain way, as Markdown."""
    plain = {run.image: run for run in runs if run.way == "plain"}
    lines = [
        "| way | rows | columns | nonzeros | build, s | solve, s | build / plain | solve / plain | answers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        mine = [run for run in runs if run.way == way]
        sizes = [f"{median(getattr(run, name) for run in mine):.0f}" for name in ("rows", "columns", "nonzeros")]
        times = [f"{median(getattr(run, name) for run in mine):.2f}" for name in ("build", "solve")]
        ratios = [
            f"{median(getattr(run, name) / getattr(plain[run.image], name) for run in mine):.2f}"
            for name in ("build", "solve")
        ]
        answers = ", ".join(run.answer for run in mine)
        lines.append(f"| {' | '.join([way, *sizes, *times, *ratios, answers])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
