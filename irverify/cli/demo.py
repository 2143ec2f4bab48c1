"""`irverify demo`: the main job on the network and the digits that ship with irverify."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from irverify.cli.options import Json
from irverify.cli.progress import Progress
from irverify.cli.streams import encode, write
from irverify.cli.threads import settle_threads

if TYPE_CHECKING:
    from irverify.data import DataSet
    from irverify.ir.graph import Graph
    from irverify.pipeline.state import State
    from irverify.regions import Linf
    from irverify.verify import Verdict

PIPELINE = "canonicalize,fold-batchnorm,fuse-linear,ibp,stability"
COUNT = 20
SECONDS = 45.0
"""The time limit of all digits together; a single one gets a third of it."""


@dataclass(frozen=True)
class Decided:
    """One digit: where it stands in the test part, its label, what was decided."""

    index: int
    label: int
    verdict: Verdict


def demo(as_json: Json = False) -> None:
    """Compile the embedded network, show its bounds, and decide 20 handwritten digits exactly.

    For each digit: is every image within eps of it, in the maximum norm, classified as the label? `verified` is a
    proof; `falsified` comes with such an image that the network, run by onnxruntime, classifies otherwise.
    """
    begun = time.monotonic()
    with Progress(COUNT) as progress:
        progress("importing")
        from irverify.data import DIGITS_EPS, DIGITS_NETWORK, digits
        from irverify.frontends import compile as compile_source

        graph = compile_source(DIGITS_NETWORK)
        settle_threads(graph)
        images = digits("test").select(range(COUNT))
        regions = _regions(images, DIGITS_EPS)
        state = _bounds(graph, regions)
        decided = _decide(graph, regions, images, progress)
    seconds = time.monotonic() - begun
    if as_json:
        write(encode("demo", _content(decided, DIGITS_EPS, seconds)))
        return
    heading = f"The network {graph.name}: {len(graph)} values as imported, {len(state.graph)} after {PIPELINE}"
    write(f"{heading}\n\n{_report(state, images, decided, DIGITS_EPS)}")
    write(_totals(decided, seconds))


def _regions(images: DataSet, eps: float) -> Linf:
    """A box around each digit, inside the range of grey levels."""
    import torch

    from irverify.regions import Linf

    return Linf(torch.from_numpy(images.images).double(), eps, clip=images.valid_range)


def _bounds(graph: Graph, regions: Linf) -> State:
    """What the pipeline finds out about all digits at once."""
    import torch

    from irverify.ir.graph import convert
    from irverify.pipeline import run

    return run(convert(graph, torch.float64), PIPELINE, regions)


def _decide(graph: Graph, regions: Linf, images: DataSet, progress: Progress) -> list[Decided]:
    from irverify.properties import robust
    from irverify.verify import verify

    deadline = time.monotonic() + SECONDS
    decided = []
    for index, label in enumerate(images.labels):
        progress(f"digit {index}")
        left = min(SECONDS / 3, max(1.0, deadline - time.monotonic()))
        verdict = verify(graph, regions.select(index), robust(int(label)), timeout=left)
        decided.append(Decided(index, int(label), verdict))
        how = f" by {verdict.method}" if verdict.method else ""
        progress.advance(f"digit {index}: {verdict.verdict}{how} in {verdict.seconds:.2f} s")
    return decided


def _count(decided: list[Decided], verdict: str) -> int:
    return sum(one.verdict.verdict == verdict for one in decided)


def _content(decided: list[Decided], eps: float, seconds: float) -> dict[str, object]:
    per_digit = [
        {
            "index": one.index,
            "label": one.label,
            "verdict": one.verdict.verdict,
            "method": one.verdict.method,
            "bound": one.verdict.bound,
            "seconds": one.verdict.seconds,
        }
        for one in decided
    ]
    counts = {name: _count(decided, name) for name in ("verified", "falsified", "unknown", "timeout")}
    return {"digits": len(decided), "eps": eps, **counts, "seconds": seconds, "per_digit": per_digit}


def _totals(decided: list[Decided], seconds: float) -> str:
    verified, falsified = _count(decided, "verified"), _count(decided, "falsified")
    return (
        f"{verified} verified, {falsified} falsified, {len(decided) - verified - falsified} undecided "
        f"of {len(decided)} digits in {seconds:.1f} s"
    )


def _report(state: State, images: DataSet, decided: list[Decided], eps: float) -> str:
    from irverify.report.layers import layer_table, layers
    from irverify.report.tables import number, table

    rows = [
        (
            str(one.index), str(one.label), one.verdict.verdict, one.verdict.method or "-",
            number(one.verdict.bound), f"{one.verdict.seconds:.2f}",
        )
        for one in decided
    ]  # fmt: skip
    headings = ("digit", "label", "verdict", "method", "margin bound", "seconds")
    parts = [
        layer_table(layers(state), f"Bounds over {COUNT} digits, eps {eps}; counts: the mean over them"),
        table(headings, rows, ("digit", "label", "margin bound", "seconds"), "Verdicts").render(),
        _counterexample(images, decided),
    ]
    return "\n".join(part for part in parts if part)


def _counterexample(images: DataSet, decided: list[Decided]) -> str:
    """The first counterexample beside the digit that it was made from."""
    from irverify.report.picture import picture, side_by_side, signs

    for one in decided:
        found = one.verdict.counterexample
        if found is not None:
            original = images.images[one.index].reshape(8, 8).astype(float)
            changed = found.inputs[0].reshape(8, 8)
            predicted = int(found.outputs[0].argmax())
            captions = [f"digit {one.index}, a {one.label}", f"classified as {predicted}", "what was changed"]
            drawn = side_by_side([picture(original), picture(changed), signs(changed - original)], captions)
            return f"A counterexample, replayed with {found.replayed_on}:\n\n{drawn}\n"
    return ""
