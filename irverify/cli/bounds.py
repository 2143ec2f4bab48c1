"""`irverify bounds`: bounds and stability per layer."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from irverify.cli.loading import check_file, check_model, load_model
from irverify.cli.options import Clip, Data, Eps, First, Index, Json, Model, Norm, Passes, PropertyFile
from irverify.cli.regions import perturbation, situation
from irverify.cli.streams import encode, write
from irverify.errors import UsageError

USUAL = "canonicalize,fold-batchnorm,fuse-linear,ibp,stability"


def bounds(
    model: Model,
    property_file: PropertyFile = None,
    passes: Passes = USUAL,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="float64|float32", help="Numbers to compute in.")
    ] = "float64",
    data: Data = None,
    eps: Eps = None,
    norm: Norm = "inf",
    clip: Clip = None,
    first: First = None,
    index: Index = None,
    as_json: Json = False,
) -> None:
    """Print bounds and stability of every layer, over the region of a PROPERTY or around images (--data and --eps).

    The last value is the specification: the rows of the property, which is violated where all rows of one of its
    disjuncts are <= 0, or for images the margins of the label's logit over the others.
    """
    from irverify.pipeline.text import parse_pipeline

    parse_pipeline(passes)
    check_model(model)
    perturbed = perturbation(data, eps, norm, clip, first, index)
    if property_file is None and perturbed is None:
        raise UsageError("expected a property, or --data and --eps")
    if property_file is not None:
        check_file(property_file)
    if dtype not in ("float64", "float32"):
        raise UsageError(f"expected --dtype float64 or float32, got {dtype!r}")

    import torch

    from irverify.ir.graph import convert
    from irverify.pipeline import run
    from irverify.report.layers import layer_table, layers

    graph = convert(load_model(model), torch.float64 if dtype == "float64" else torch.float32)
    known = situation(graph, property_file, perturbed)
    assert known is not None
    state = run(graph, passes, known.regions, spec=known.spec)
    rows = layers(state)
    seconds = sum(timing.seconds for timing in state.timings)
    if as_json:
        timings = [{"pass": timing.step, "seconds": timing.seconds} for timing in state.timings]
        content = {"model": model, "regions": state.batch, "layers": [dataclasses.asdict(row) for row in rows]}
        write(encode("bounds", {**content, "passes": timings, "seconds": seconds}))
        return
    write(layer_table(rows))
    spent = ", ".join(f"{timing.step} {timing.seconds:.3f} s" for timing in state.timings)
    write(f"\n{state.batch} region{'s' if state.batch > 1 else ''}, counts over all of them; {spent}")
