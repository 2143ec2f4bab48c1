"""How good SingleProp's estimates are: the two metrics of paper 3 (sec. 4.1) and the margins against those of the
verifiers that it stands for, and what it takes beside a forward pass.

    python -m benchmarks.singleprop NETWORK.onnx --data mnist:DIR --eps 0.1 --first 100
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

import irverify as iv
from irverify.passes.singleprop import approximation_error
from irverify.pipeline import optimize
from irverify.pipeline.rows import REWRITES

VERIFIERS = {"singleprop-zero": "crown-zero", "singleprop-fastlin": "fast-lin"}
"""Estimator -> the verifier that it approximates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--data", required=True, help="digits, mnist:DIR, fashion:DIR, cifar10:DIR or npz:FILE")
    parser.add_argument("--eps", type=float, required=True, help="l-infinity radius in raw input units")
    parser.add_argument("--first", type=int, default=100)
    arguments = parser.parse_args()

    graph = optimize(iv.compile(arguments.network), REWRITES)
    data = iv.load_dataset(arguments.data)
    node = graph.inputs[0]
    images = torch.from_numpy(data.images[: arguments.first]).to(node.type.dtype).reshape(-1, *node.type.shape)
    labels = torch.from_numpy(data.labels[: arguments.first]).long()
    region = iv.Linf(images, arguments.eps, clip=data.valid_range)
    for method in ("ibp", *VERIFIERS.values()):
        error = approximation_error(iv.run(graph, method, region))
        print(f"{method:18s} metric 1 {_spread(error.absolute)}, metric 2 {_spread(error.relative)}")
    for estimator, verifier in VERIFIERS.items():
        _compare(graph, region, labels, estimator, verifier)
    forward = _seconds(lambda: graph.values({node.name: images}))
    for method in ("ibp", *VERIFIERS):
        part = _seconds(lambda method=method: iv.run(graph, method, region))  # type: ignore[misc]
        print(f"{method:18s} {1e3 * part:8.2f} ms, {part / forward:5.2f} forward passes")


def _compare(graph: iv.Graph, region: iv.Linf, labels: Tensor, estimator: str, verifier: str) -> None:
    guess, bound = iv.estimates(graph, region, labels, estimator).lower, iv.margins(graph, region, labels, verifier)
    other = torch.nn.functional.one_hot(labels, guess.shape[1]) == 0
    print(
        f"{estimator:18s} mean margin {float(guess[other].mean()):9.3f}, {verifier} {float(bound[other].mean()):9.3f}; "
        f"above it in {100 * float((guess > bound)[other].float().mean()):.1f} %; positive for "
        f"{int(((guess > 0) | ~other).all(1).sum())} images, {verifier} {int(((bound > 0) | ~other).all(1).sum())}"
    )


def _spread(values: Tensor) -> str:
    return f"{float(values.mean()):.4g} (standard deviation {float(values.std()):.3g})"


def _seconds(call: Callable[[], object], rounds: int = 21) -> float:
    """The median; of the processor, since other work may share it."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return median(times)


if __name__ == "__main__":
    with torch.no_grad():
        main()
