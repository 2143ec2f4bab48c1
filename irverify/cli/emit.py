"""`irverify emit`: the mixed-integer program of a model and a property, for any solver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irverify.cli.loading import check_file, check_model, load_model
from irverify.cli.options import Json, Model
from irverify.cli.streams import encode, write
from irverify.errors import UsageError

SUFFIXES = (".mps", ".lp", ".pb")
PIPELINE = "canonicalize,fold-batchnorm,fuse-linear,ibp"


def emit(
    model: Model,
    property_file: Annotated[
        str, typer.Argument(metavar="PROPERTY", help="A VNN-LIB file, .vnnlib or .vnnlib.gz.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="OUT.mps, OUT.lp or OUT.pb (MathOpt).")
    ],
    as_json: Json = False,
) -> None:
    """Write the mixed-integer program of MODEL and PROPERTY to a file.

    It minimises how far the query is from being satisfied: an optimum <= 0 means `sat`, one above 0 `unsat`. A query
    over several boxes makes several programs, OUT.1.mps and so on: it is `unsat` where all of them are.
    """
    if output.suffix not in SUFFIXES:
        raise UsageError(f"expected --output to end in {', '.join(SUFFIXES)}, got {str(output)!r}")
    check_model(model)
    check_file(property_file)

    import torch

    from irverify.backends.milp import formulate
    from irverify.cli.queries import load_query
    from irverify.ir.graph import convert
    from irverify.pipeline import run

    graph = convert(load_model(model), torch.float64)
    cases = load_query(graph, property_file).cases
    files = []
    for number, case in enumerate(cases, start=1):
        state = run(graph, PIPELINE, case.regions)
        bounds = {name: (fact.lower[0], fact.upper[0]) for name, fact in state.bounds.items()}
        formulation = formulate(state.graph, case.regions, case.prop, bounds)
        path = output if len(cases) == 1 else output.with_suffix(f".{number}{output.suffix}")
        formulation.write(path)
        rows, columns = formulation.model.size
        binaries = int(formulation.model.integer.sum())
        files.append({"file": str(path), "rows": rows, "variables": columns, "integer": binaries})
    if as_json:
        write(encode("emit", {"files": files}))
        return
    for entry in files:
        write("{file}: {rows} rows, {variables} variables, {integer} of them integer".format(**entry))
