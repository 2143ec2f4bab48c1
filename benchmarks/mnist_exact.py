"""Decides images of a data set one by one with the whole driver, and prints a line for each.

    python -m benchmarks.mnist_exact NETWORK.onnx --data mnist:DIR --eps 0.1 --first 10 --timeout 120
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

import irverify as iv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--data", required=True, help="digits, mnist:DIR or npz:FILE")
    parser.add_argument("--eps", type=float, required=True, help="l-infinity radius in raw input units")
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds an image")
    parser.add_argument("--solver", default="auto")
    arguments = parser.parse_args()

    graph = iv.compile(arguments.network)
    data = iv.load_dataset(arguments.data)
    shape = graph.inputs[0].type.shape
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    for index in range(min(arguments.first, len(data))):
        image = torch.from_numpy(data.images[index]).reshape(1, *shape)
        region = iv.Linf(image, arguments.eps, clip=data.valid_range)
        verdict = iv.verify(
            graph, region, iv.robust(int(data.labels[index])), timeout=arguments.timeout, solver=arguments.solver
        )
        counts[verdict.verdict] += 1
        stages = ", ".join(f"{stage.name} {stage.seconds:.2f} s ({stage.outcome})" for stage in verdict.stages)
        print(f"{index:5d} {verdict.verdict:10s} {verdict.seconds:7.2f} s  {stages}", flush=True)
    print(dict(counts), f"{time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
