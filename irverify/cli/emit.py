"""`irverify emit`: the mixed-integer program of a model and a property, for any solver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irverify.backends.milp.names import NORMS, OBJECTIVES, norm_of, objective_of
from irverify.cli.loading import check_file, check_model, load_model
from irverify.cli.options import Json, Model
from irverify.cli.streams import encode, write
from irverify.errors import UsageError

SUFFIXES = (".mps", ".lp", ".pb")
PIPELINE = "canonicalize,fold-batchnorm,fuse-linear,ibp,crown"


def emit(
    model: Model,
    property_file: Annotated[
        str, typer.Argument(metavar="PROPERTY", help="A VNN-LIB file, .vnnlib or .vnnlib.gz.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="OUT.mps, OUT.lp or OUT.pb (MathOpt).")
    ],
    objective: Annotated[
        str, typer.Option("--objective", metavar="|".join(OBJECTIVES), help="What the program asks for.")
    ] = "margin",
    norm: Annotated[
        str, typer.Option("--norm", metavar="|".join(NORMS), help="How far: for --objective nearest.")
    ] = "linf",
    as_json: Json = False,
) -> None:
    """Write the mixed-integer program of MODEL and PROPERTY to a file.

    margin: it minimises how far the query is from being satisfied; an optimum <= 0 means `sat`, one above 0 `unsat`.
    feasibility: it has a solution where the query is satisfied up to a tolerance; infeasible means `unsat`. nearest: it
    minimises the distance of a satisfying input from the middle of the box; linf and l1 exactly, l2 from below.

    Variables are named VALUE(INDEX), after the value of the graph (`irverify compile --print`) and the element in
    row-major order. A query over several boxes makes several programs, OUT.1.mps and so on: it is `unsat` where all of
    them are.
    """
    name, measure = objective_of(objective), norm_of(norm)
    if output.suffix not in SUFFIXES:
        raise UsageError(f"expected --output to end in {', '.join(SUFFIXES)}, got {str(output)!r}")
    check_model(model)
    check_file(property_file)

    import torch

    from irverify.backends.milp import Nearest, files, formulate
    from irverify.cli.queries import load_query
    from irverify.ir.graph import convert
    from irverify.pipeline import run

    graph = convert(load_model(model), torch.float64)
    cases = load_query(graph, property_file).cases
    wanted = Nearest(measure) if name == "nearest" else name
    written = []
    for number, case in enumerate(cases, start=1):
        state = run(graph, PIPELINE, case.regions)
        bounds = {name: (fact.lower[0], fact.upper[0]) for name, fact in state.bounds.items()}
        formulation = formulate(state.graph, case.regions, case.prop, bounds)
        path = output if len(cases) == 1 else output.with_suffix(f".{number}{output.suffix}")
        program = formulation.program(wanted)
        files.write(program.model, path)
        size = program.statistics
        entry = {"file": str(path), "rows": size.rows, "variables": size.columns, "integer": size.binaries}
        written.append(entry | {"nonzeros": size.nonzeros, "unstable": size.unstable, "seconds": size.seconds})
    if as_json:
        write(encode("emit", {"files": written}))
        return
    for entry in written:
        write(
            "{file}: {rows} rows, {variables} variables, {integer} of them integer, {nonzeros} entries".format(**entry)
        )
