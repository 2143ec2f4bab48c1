"""`irverify verify`: decides a property of a network."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from irverify.cli.answers import Answer, tell
from irverify.cli.options import Json, Seed
from irverify.cli.progress import Progress
from irverify.cli.queries import load_question, load_second
from irverify.cli.streams import note
from irverify.cli.threads import settle_threads
from irverify.errors import UsageError

SOLVERS = ("auto", "scip", "highs", "cp-sat")
RESERVE = 0.4
"""Seconds of the time limit (a tenth of it at most) that are kept for what comes after the verdict."""


def verify(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL|QUERY", help="The network; or a VNN-LIB 2.0 query.", show_default=False)
    ],
    property_file: Annotated[
        str | None, typer.Argument(metavar="PROPERTY", help="A VNN-LIB query of MODEL.", show_default=False)
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="NAME=MODEL", help="A network that QUERY declares.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="S", help="Time limit in seconds.")] = None,
    solver: Annotated[str, typer.Option("--solver", metavar="|".join(SOLVERS), help="Solver of programs.")] = "auto",
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", metavar="P", help="Decide by the bounds of these passes, and attacks, alone."),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", metavar="A", help="An attack of the papers: pgd-40, pgd-100, pgd-200x10."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads to use.", min=1)] = None,
    seed: Seed = 0,
    results_file: Annotated[
        Path | None, typer.Option("--results-file", metavar="F", help="Write the verdict in VNN-COMP's format too.")
    ] = None,
    serialise: Annotated[
        Path | None,
        typer.Option("--serialise-assignments", metavar="DIR", help="Write assignments as ONNX tensors, not as text."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decide a property of a network.

    Prints `unsat` (no input satisfies the query: the network is verified), `sat` and an input, `unknown` or
    `timed-out`. Takes either MODEL and PROPERTY (VNN-LIB 1.0 or 2.0), or a VNN-LIB 2.0 QUERY and --network NAME=MODEL
    for the network that it declares.
    """
    started: float = context.find_root().obj
    if solver not in SOLVERS:
        raise UsageError(f"expected --solver {', '.join(SOLVERS)}, got {solver!r}")
    if timeout is not None and not (0 < timeout < math.inf):
        raise UsageError(f"expected --timeout to be a positive number of seconds, got {timeout}")
    if pipeline is not None:
        from irverify.pipeline.text import parse_pipeline

        parse_pipeline(pipeline)
    if property_file is not None and network:
        raise UsageError("expected MODEL and PROPERTY, or QUERY and --network, got both")

    question = load_second(model, network or []) if property_file is None else load_question(model, property_file)
    from irverify.verify import verify as decide

    settle_threads(question.graph, threads)
    with Progress() as progress:
        verdict = decide(
            question.graph,
            question.plain,
            timeout=None if timeout is None else _left(timeout, started),
            solver=solver,
            threads=threads,
            pipeline=pipeline,
            attack=attack,
            seed=seed,
            progress=progress,
        )
    if verdict.verdict in ("unknown", "timeout") and verdict.reason:
        note(f"{verdict.verdict}: {verdict.reason}")
    tell(Answer(question, verdict), as_json, results_file, serialise)


def _left(timeout: float, started: float) -> float:
    """What the start and the import have left of a time limit that counts from the start of the process."""
    return max(0.0, timeout - min(RESERVE, timeout / 10) - (time.monotonic() - started))
