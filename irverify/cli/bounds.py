"""`irverify bounds`: bounds and stability per layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irverify.cli.arrays import read_bounds, write_arrays
from irverify.cli.loading import check_file, check_model, load_model
from irverify.cli.numbers import Numbers
from irverify.cli.options import (
    Clip,
    Data,
    Device,
    Dtype,
    Eps,
    First,
    Index,
    Json,
    Memory,
    Model,
    Norm,
    Output,
    Passes,
    PropertyFile,
)  # fmt: skip
from irverify.cli.regions import perturbation, situation
from irverify.cli.streams import encode, note, write
from irverify.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from irverify.passes.coefficients import Coefficients
    from irverify.pipeline import State

USUAL = "canonicalize,fold-batchnorm,fuse-linear,ibp,stability"


def bounds(
    model: Model,
    property_file: PropertyFile = None,
    passes: Passes = USUAL,
    dtype: Dtype = "float64",
    device: Device = "cpu",
    memory: Memory = None,
    data: Data = None,
    eps: Eps = None,
    norm: Norm = "inf",
    clip: Clip = None,
    first: First = None,
    index: Index = None,
    given: Annotated[
        Path | None,
        typer.Option(
            "--given", metavar="FILE.npz", help="Bounds that you vouch for: arrays VALUE.lower and VALUE.upper."
        ),
    ] = None,
    coefficients: Annotated[
        bool,
        typer.Option("--coefficients", help="Linear bounds of the specification over the inputs, to --json or FILE."),
    ] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Print bounds and stability of every layer, over the region of a PROPERTY or around images (--data and --eps).

    The last value is the specification: the rows of the property, which is violated where all rows of one of its
    disjuncts are <= 0, or for images the margins of the label's logit over the others. With --output FILE.npz all
    bounds are written, as arrays VALUE.lower and VALUE.upper with a row for each region; --given reads them. With
    --coefficients A and c of `specification >= A x + c`: arrays coefficients.INPUT and coefficients.constant.
    """
    from irverify.pipeline.text import parse_pipeline

    parse_pipeline(passes)
    check_model(model)
    numbers = Numbers(dtype, device, memory)
    perturbed = perturbation(data, eps, norm, clip, first, index)
    if property_file is None and perturbed is None:
        raise UsageError("expected a property, or --data and --eps")
    if property_file is not None:
        check_file(property_file)
    if output is not None and output.suffix != ".npz":
        raise UsageError(f"expected --output to end in .npz, got {str(output)!r}")
    if coefficients and output is None and not as_json:
        raise UsageError("--coefficients are too many to print", hint="add --json or --output FILE.npz")
    if given is not None:
        check_file(str(given))

    from irverify.pipeline import run
    from irverify.pipeline.base import refuse_changes

    refuse_changes(passes)
    vouched = {} if given is None else read_bounds(given)
    source = load_model(model)
    known = situation(source, property_file, perturbed)
    assert known is not None
    if coefficients and known.spec is None:
        raise UsageError("--coefficients need a specification over the outputs; rows of this property read inputs")
    graph = numbers.placed(source)
    placed = {name: (lower.to(device), upper.to(device)) for name, (lower, upper) in vouched.items()}
    state = run(graph, numbers.limited(passes), known.regions, spec=known.spec, bounds=placed)
    _tell_what_is_lost(vouched, state)
    linear = _coefficients(state, passes) if coefficients else None
    if output is not None:
        write_arrays(output, _arrays(state, linear))
        note(f"wrote {output}")
    write(encode("bounds", _content(model, state, linear)) if as_json else _report(state))


def _tell_what_is_lost(vouched: Iterable[str], state: State) -> None:
    """Notes the values that a rewrite has removed, with the bounds that a user gave for them."""
    lost = [name for name in vouched if name not in state.graph]
    if lost:
        note(f"warning: rewrites have removed {', '.join(lost)}, and with them the bounds given for them")


def _coefficients(state: State, passes: str) -> Coefficients:
    from irverify.passes.coefficients import coefficients_of

    return coefficients_of(state, state.graph.outputs[0], passes)


def _arrays(state: State, linear: Coefficients | None) -> dict[str, Tensor]:
    arrays = {}
    for name, bounds in state.bounds.items():
        arrays[f"{name}.lower"], arrays[f"{name}.upper"] = bounds.lower, bounds.upper
    if linear is not None:
        arrays["coefficients.constant"] = linear.constant
        arrays.update({f"coefficients.{name}": matrix for name, matrix in linear.inputs.items()})
    return arrays


def _content(model: str, state: State, linear: Coefficients | None) -> dict[str, object]:
    from irverify.report.layers import layers

    content: dict[str, object] = {
        "model": model,
        "regions": state.batch,
        "layers": [dataclasses.asdict(row) for row in layers(state)],
        "passes": [{"pass": timing.step, "seconds": timing.seconds} for timing in state.timings],
        "seconds": sum(timing.seconds for timing in state.timings),
    }
    if linear is not None:
        inputs = {name: matrix.tolist() for name, matrix in linear.inputs.items()}
        content["coefficients"] = {"inputs": inputs, "constant": linear.constant.tolist()}
    return content


def _report(state: State) -> str:
    from irverify.report.layers import layer_table, layers, timing_table

    counted = f"{state.batch} region{'s' if state.batch > 1 else ''}"
    means = "; active, inactive, unstable: the mean over them" if state.batch > 1 else ""
    return f"{layer_table(layers(state))}\n{timing_table(state.timings)}\n{counted}{means}"
