"""Unstable ReLUs of each layer by ever tighter bounds, averaged over images: table 4 of paper 1 for a public network.

    python -m benchmarks.unstable --first 20 --store unstable.jsonl

Every image is written to the store as soon as it is counted, and one that stands there is not counted again. The last
count is exact but for programs that their limit has ended, which are counted, and for pre-activations that come closer
to 0 than solvers can tell.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import irverify as iv
from benchmarks.cases import CASES, DATA, Problem
from irverify.pipeline import optimize
from irverify.pipeline.rows import REWRITES

NETWORK = "wk17a"
METHODS = {
    "naive IA": "interval",
    "improved IA": "improved-interval",
    "crown": "crown",
    "LP": "lp-tighten",
    "exact": "milp-tighten{{signs=true,limit={limit:g}}}",
}
"""What the table calls a method -> the analysis; paper 1 has the first two and the last."""


@dataclass(frozen=True)
class Count:
    """One image: the unstable ReLUs of each layer and the seconds by method; `limited` counts mixed-integer
    programs that were ended by their limit."""

    network: str
    image: int
    limit: float
    unstable: dict[str, list[int]]
    seconds: dict[str, float]
    limited: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=NETWORK, choices=[case.name for case in CASES])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the public networks and images")
    parser.add_argument("--first", type=int, default=20, help="so many images that are classified correctly")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds for one mixed-integer program")
    parser.add_argument("--store", type=Path, help="file that keeps what is counted, a line for each image")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    (case,) = (case for case in CASES if case.name == arguments.network)
    kept = _kept(arguments.store, case.name, arguments.limit)
    problem = case.load(arguments.data, arguments.first)
    graph = optimize(problem.graph, REWRITES)
    counts = []
    for image in range(arguments.first):
        if image not in kept:
            kept[image] = counted(graph, problem, case.name, image, arguments.limit)
            if arguments.store is not None:
                _append(arguments.store, kept[image])
        counts.append(kept[image])
        if not arguments.json:
            print(f"image {image}: {kept[image].unstable}, {sum(kept[image].seconds.values()):.1f} s", flush=True)
    print(json.dumps(summary(counts)) if arguments.json else f"\n{table(counts)}")


def counted(graph: iv.Graph, problem: Problem, network: str, image: int, limit: float) -> Count:
    """The count of one image of a problem."""
    region = problem.region.select([image])
    unstable, seconds, limited = dict[str, list[int]](), dict[str, float](), 0
    for name, method in METHODS.items():
        begun = time.perf_counter()
        state = iv.run(graph, f"{method.format(limit=limit)},stability", region)
        seconds[name] = time.perf_counter() - begun
        unstable[name] = [labels.counts()[2] for labels in state.stability.values()]
        limited += sum(int(timing.statistics.get("limited", 0)) for timing in state.timings)
    return Count(network, image, limit, unstable, seconds, limited)


def summary(counts: Sequence[Count]) -> dict[str, object]:
    """Means over the images; `unstable` by method is for each layer."""
    return {
        "network": counts[0].network,
        "images": len(counts),
        "limit": counts[0].limit,
        "limited": sum(count.limited for count in counts),
        "unstable": {name: _means([count.unstable[name] for count in counts]) for name in METHODS},
        "seconds": {name: sum(count.seconds[name] for count in counts) / len(counts) for name in METHODS},
    }


def table(counts: Sequence[Count]) -> str:
    """The rows of paper 1's table 4, with what each count is above the exact one, as Markdown."""
    layers = range(len(counts[0].unstable["exact"]))
    exact = _means([count.unstable["exact"] for count in counts])
    lines = [
        f"| method | {' | '.join(f'layer {layer + 1}' for layer in layers)} | seconds an image |",
        f"|---|{'---|' * (len(layers) + 1)}",
    ]
    for name in reversed(METHODS):
        means = _means([count.unstable[name] for count in counts])
        cells = [_cell(mean, best) for mean, best in zip(means, exact, strict=True)]
        seconds = sum(count.seconds[name] for count in counts) / len(counts)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.2f} |")
    limited = sum(count.limited for count in counts)
    ended = f"{limited} programs ended by the limit of {counts[0].limit:g} s"
    lines.append(f"\n{counts[0].network}, {len(counts)} images; {ended}")
    return "\n".join(lines)


def _cell(mean: float, exact: float) -> str:
    more = "" if not exact or mean == exact else f" (+{100 * (mean - exact) / exact:.1f} %)"
    return f"{mean:.2f}{more}"


def _means(rows: Sequence[Sequence[int]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _kept(store: Path | None, network: str, limit: float) -> dict[int, Count]:
    """What the store has of this network at this limit; a last line that was cut off is counted again."""
    found: dict[int, Count] = {}
    for line in store.read_text(encoding="utf-8").splitlines() if store is not None and store.exists() else ():
        try:
            entry: Mapping[str, object] = json.loads(line)
        except json.JSONDecodeError:
            continue
        count = Count(**entry)  # type: ignore[arg-type]
        if (count.network, count.limit) == (network, limit):
            found[count.image] = count
    return found


def _append(store: Path, count: Count) -> None:
    with store.open("a", encoding="utf-8") as file:
        file.write("\n" * (not _ends_a_line(store)) + json.dumps(asdict(count)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(store: Path) -> bool:
    content = store.read_bytes()
    return not content or content.endswith(b"\n")


if __name__ == "__main__":
    main()
