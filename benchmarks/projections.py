"""How far random projections are from the dual bounds that they estimate, against their number k, on wk17a and MNIST.

    python -m benchmarks.projections ../shared/data [--first 20] [--seeds 3] [--k 10 50 200 1000]

For margins at eps 0.1, inputs kept inside [0, 1], float32; all seeds together. A margin of the dual bounds is the
centre of its range less the gap; the errors are in units of that gap. `last layer` compares the estimated gap of the
margins with the one computed from the same estimated ranges of the layers before; `margins` compares the estimated
margins (last layer exact) with the dual bounds, positive where the estimate is too optimistic; `too good` and `missed`
count the images that only the estimate, or only the dual bound, finds robust. An estimate proves nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import irverify as iv
from irverify.data import load_dataset
from irverify.ir.graph import Graph
from irverify.pipeline import estimates
from irverify.regions import Linf

HEADER = (
    "estimator", "k", "ms an image", "last layer: median error", "bias", "margins: median error", "bias", "too good",
    "missed",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Images of one network, and the margins that dual bounds give."""

    graph: Graph
    region: Linf
    labels: Tensor
    dual: Tensor
    others: Tensor
    """Which margins are not those of the label with itself."""

    @property
    def robust(self) -> Tensor:
        return (self.dual.where(self.others, torch.ones(())) > 0).all(1)


def problem(data: Path, first: int) -> Problem:
    images = load_dataset(f"mnist:{data / 'mnist'}").select(range(first))
    graph = iv.compile(data / "networks" / "wk17a.onnx")
    region = Linf(torch.tensor(images.images), 0.1, clip=(0, 1))
    labels = torch.tensor(images.labels)
    others = torch.arange(10) != labels.unsqueeze(1)
    return Problem(graph, region, labels, iv.margins(graph, region, labels, method="dual"), others)


def row(given: Problem, estimator: str, k: int, seeds: int) -> tuple[str, ...]:
    """One estimator at one k."""
    last, whole, good, missed, seconds = list[Tensor](), list[Tensor](), 0, 0, 0.0
    for seed in range(seeds):
        options = f"k={k},estimator={estimator},seed={seed}"
        start = time.perf_counter()
        exact = estimates(given.graph, given.region, given.labels, method=f"dual-proj{{{options}}}")
        seconds += time.perf_counter() - start
        rough = estimates(given.graph, given.region, given.labels, method=f"dual-proj{{{options},last=projected}}")
        computed = ((exact.upper - exact.lower) / 2)[given.others]
        last.append(((rough.upper - rough.lower) / 2)[given.others] / computed - 1)
        whole.append((exact.lower - given.dual)[given.others] / computed)
        found = (exact.lower.where(given.others, torch.ones(())) > 0).all(1)
        good += int((found & ~given.robust).sum())
        missed += int((given.robust & ~found).sum())
    errors = [part for parts in (last, whole) for part in _errors(torch.cat(parts))]
    each = 1e3 * seconds / seeds / given.labels.shape[0]
    return (estimator, str(k), f"{each:.0f}", *errors, str(good), str(missed))


def _errors(errors: Tensor) -> tuple[str, str]:
    return f"{float(errors.abs().median()):.1%}", f"{float(errors.mean()):+.1%}"


def table(given: Problem, counts: Sequence[int], seeds: int) -> Iterator[str]:
    yield f"| {' | '.join(HEADER)} |"
    yield "|---" * len(HEADER) + "|"
    for estimator in ("median", "geometric"):
        for k in counts:
            yield f"| {' | '.join(row(given, estimator, k, seeds))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with networks/ and mnist/")
    parser.add_argument("--first", type=int, default=20, help="how many images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 50, 200, 1000])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = problem(arguments.data, arguments.first)
    print(f"{int(given.robust.sum())} of {arguments.first} images are robust by dual bounds; {arguments.seeds} seeds\n")
    for line in table(given, arguments.k, arguments.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
