"""`irverify compile`: imports a model, runs passes over it, prints or writes the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from irverify.cli.curves import Over, Wanted, answer_curve
from irverify.cli.loading import check_file, check_model, load_model
from irverify.cli.numbers import Numbers
from irverify.cli.options import (
    Along,
    Also,
    At,
    Clip,
    Data,
    Device,
    Eps,
    First,
    Index,
    Json,
    Memory,
    Model,
    Norm,
    Output,
    Passes,
    Picture,
    PropertyFile,
    Vary,
)
from irverify.cli.regions import perturbation, situation
from irverify.cli.sizing import before_and_after, check_limit, size_texts, sizes_content
from irverify.cli.streams import encode, note, write, write_file
from irverify.errors import UsageError

if TYPE_CHECKING:
    from irverify.ir.graph import Graph
    from irverify.pipeline import Pass, State

OUTPUT_SUFFIXES = (".safetensors", ".onnx", ".dot")
USUAL = "canonicalize,fold-batchnorm,fuse-linear"
ON_REGIONS = "on the regions of this run only"


def compile_model(
    model: Model,
    property_file: PropertyFile = None,
    output: Output = None,
    passes: Passes = USUAL,
    show: Annotated[bool, typer.Option("--print", help="Print the resulting graph as text.")] = False,
    before: Annotated[
        str | None, typer.Option("--print-before", metavar="PASS", help="Print the graph before this pass (or `all`).")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--print-after", metavar="PASS", help="Print the graph after this pass (or `all`).")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print what each pass did, and sizes before and after.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every rewrite with what it replaced, on random inputs.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="float64|float32", help="Numbers to compute in; else the model's."),
    ] = None,
    device: Device = "cpu",
    memory: Memory = None,
    data: Data = None,
    eps: Eps = None,
    norm: Norm = "inf",
    clip: Clip = None,
    first: First = None,
    index: Index = None,
    solving: Annotated[
        float | None,
        typer.Option("--solve", metavar="SECONDS", help="With --stats: solve the programs, for at most so long each."),
    ] = None,
    vary: Vary = None,
    also: Also = None,
    at: At = None,
    along: Along = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """Import a model, run passes over it, and print the result or write it to a file.

    The result goes to OUT.safetensors (a program: graph and tensors), OUT.onnx, or OUT.dot (a picture for Graphviz). A
    PROPERTY, or --data and --eps, give the regions that analyses need. What `eliminate-stable` makes equals the model
    on these regions only.

    --stats shows how large the network is for a verifier before and after: parameters, nonzeros, neurons, unstable
    neurons, the mixed-integer program of the first region, with --solve also the time until its answer is known, and
    accuracy at the regions' centres.

    With --vary or --also it compares several networks in place of that, which stand on a curve, by PGD accuracy and by
    the programs of all regions as well; --picture draws it.
    """
    check_model(model)
    _check_moments(passes, {"--print-before": before, "--print-after": after})
    _check_output(output)
    check_limit(solving, stats)
    if property_file is not None:
        check_file(property_file)
    perturbed = perturbation(data, eps, norm, clip, first, index)
    numbers = Numbers(dtype, device, memory)
    wanted = Wanted(vary or (), also or (), at, along, picture)
    if wanted.check(stats):
        _refuse_one_result({"-o": output, "--print": show, "--print-before": before, "--print-after": after})
        answer_curve(wanted, model, passes, Over(property_file, perturbed, numbers, check, solving), as_json)
        return

    source = numbers.placed(load_model(model))
    known = situation(source, property_file, perturbed)
    texts: list[str] = []

    def hook(moment: Literal["before", "after"], step: Pass, state: State) -> None:
        if {"before": before, "after": after}[moment] in ("all", step.name):
            texts.append(f"# {moment} {step}\n{state.graph}")

    from irverify.pipeline import Rewrite, parse_passes, run

    state = run(source, numbers.limited(passes), None if known is None else known.regions, check=check, hook=hook)
    if show:
        texts.append(str(state.graph))
    if output is not None:
        local = any(isinstance(step, Rewrite) and step.on_regions for step in parse_passes(passes))
        _save(state.graph, output, device, {"holds": ON_REGIONS} if local else {})
        if local:
            note(f"warning: what is in {output} equals the model {ON_REGIONS}")
    sizes = before_and_after((source, state.graph), known, passes, solving) if stats else None
    if as_json:
        write(encode("compile", _content(source, state, texts, output) | sizes_content(sizes)))
        return
    shown = [*texts, *([_timing_table(state)] if stats else []), *(size_texts(sizes))]
    for text in shown or [_summary(source, state.graph)]:
        write(text)
    if output is not None:
        note(f"wrote {output}")


def _check_output(output: Path | None) -> None:
    if output is not None and output.suffix not in OUTPUT_SUFFIXES:
        raise UsageError(f"expected --output to end in {' or '.join(OUTPUT_SUFFIXES)}, got {str(output)!r}")


def _refuse_one_result(given: dict[str, object]) -> None:
    """Raises where something is asked for that only one network has."""
    asked = [flag for flag, value in given.items() if value]
    if asked:
        hint = "compile the network that you choose by itself"
        raise UsageError(f"--vary and --also make several networks, {', '.join(asked)} needs one", hint=hint)


def _check_moments(passes: str, wanted: dict[str, str | None]) -> None:
    """Raises where a graph is to be printed before or after a pass that is not in the pipeline."""
    from irverify.pipeline.text import parse_pipeline

    steps = [step.name for step in parse_pipeline(passes)]
    for flag, name in wanted.items():
        if name not in (None, "all", *steps):
            hint = f"it has {', '.join(steps)}"
            raise UsageError(f"{flag} {name}: expected a pass of the pipeline, or all", hint=hint)


def _save(graph: Graph, output: Path, device: str, facts: dict[str, str]) -> None:
    if output.suffix == ".dot":
        from irverify.backends.dot import to_dot

        write_file(output, to_dot(graph))
    elif output.suffix == ".onnx":
        from irverify.backends.onnx import save_onnx

        save_onnx(graph, output, facts)
    else:
        from irverify.ir.graph import convert
        from irverify.ir.program import save

        save(graph if device == "cpu" else convert(graph, device="cpu"), output)


def _summary(source: Graph, graph: Graph) -> str:
    """What the model is, in a few lines."""
    from irverify.ir.params import value

    tensors = {id(parameter): value(parameter).numel() for parameter in graph.parameters().values()}
    lines = [
        f"graph    {graph.name}",
        *(f"input    %{node.name}: {node.type}" for node in graph.inputs),
        *(f"output   %{name}: {graph[name].type}" for name in graph.outputs),
        f"values   {len(graph)} ({len(source)} as imported)",
        f"weights  {sum(tensors.values())}",
    ]
    return "\n".join(lines)


def _timing_table(state: State) -> str:
    from irverify.report.layers import timing_table

    return timing_table(state.timings)


def _content(source: Graph, state: State, texts: list[str], output: Path | None) -> dict[str, object]:
    graph = state.graph
    return {
        "name": graph.name,
        "inputs": {node.name: str(node.type) for node in graph.inputs},
        "outputs": {name: str(graph[name].type) for name in graph.outputs},
        "values": len(graph),
        "values_as_imported": len(source),
        "operators": _operators(graph),
        "passes": [
            {"pass": timing.step, "seconds": timing.seconds, "memory": timing.memory, "statistics": timing.statistics}
            for timing in state.timings
        ],
        "text": texts,
        "output": None if output is None else str(output),
    }


def _operators(graph: Graph) -> dict[str, int]:
    from collections import Counter

    return dict(sorted(Counter(node.op.name for node in graph).items()))
