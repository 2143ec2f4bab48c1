"""One training step of bound-based losses, beside plain cross-entropy and ibp as one would write it by hand.

    python -m benchmarks.training [--network wk-small|ibp-large] [--batch 100] [--seconds 60] [--device cuda]

Prints the median of each step (loss and gradient, no optimiser), and its ratio to plain cross-entropy in the same run,
in turns; where a step takes little time, some of them in a row, after one of the same kind, as in training.
One core, random data of the size of MNIST: what a step costs does not depend on what the images show, but a little on
how many ReLUs are unstable.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear

from benchmarks.measure import interleaved
from irverify.allocator import keep_freed_memory
from irverify.backends.torch import BoundGraph, losses
from irverify.cores import usable_cores

EPS = 0.1


def wk_small() -> nn.Sequential:
    """conv 16 and 32, 4x4, stride 2, and a layer of 100 (papers 1, 2 and 5)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def ibp_large() -> nn.Sequential:
    """conv 64, 64, 128 with stride 2, 128, 128, and a layer of 512 (paper 4, the large network)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 14 * 14, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip


NETWORKS = {"wk-small": wk_small, "ibp-large": ibp_large}
SMALL, ROWS = ("wk-small",), ("dual", "tight")
"""Losses that find a row for each unstable ReLU are for small networks."""


def by_hand(module: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Robust cross-entropy by intervals, the last layer elided, without a clean term."""
    lower, upper = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
    last = module[-1]
    assert isinstance(last, nn.Linear)
    for layer in module[:-1]:
        if isinstance(layer, nn.ReLU):
            lower, upper = lower.relu(), upper.relu()
        elif isinstance(layer, nn.Flatten):
            lower, upper = lower.flatten(1), upper.flatten(1)
        else:
            center, radius = (lower + upper) / 2, (upper - lower) / 2
            if isinstance(layer, nn.Conv2d):
                center = conv2d(center, layer.weight, layer.bias, layer.stride, layer.padding)
                radius = conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
            else:
                assert isinstance(layer, nn.Linear)
                center, radius = linear(center, layer.weight, layer.bias), linear(radius, layer.weight.abs())
            lower, upper = center - radius, center + radius
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    rows = last.weight[y].unsqueeze(1) - last.weight
    offset = last.bias[y].unsqueeze(1) - last.bias
    margins = (rows @ center.unsqueeze(2)).squeeze(2) - (rows.abs() @ radius.unsqueeze(2)).squeeze(2) + offset
    return cross_entropy(-margins, y)


def step(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """The loss and its gradient in all parameters."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="wk-small")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long all steps are repeated in turns")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    keep_freed_memory()  # as `irverify train` does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = NETWORKS[arguments.network]().to(arguments.device)
    x = torch.rand(arguments.batch, 1, 28, 28, device=arguments.device)
    y = torch.randint(10, (arguments.batch,), device=arguments.device)
    bound, rows, clip = BoundGraph(module, x[:1]), BoundGraph(module, x[:1], "crown-ibp"), (0.0, 1.0)
    graph = bound.graph
    cases: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: cross_entropy(module(x), y),
        "ibp by hand": lambda: by_hand(module, x, y),
        "ibp": lambda: losses.ibp(bound, x, y, EPS, 0.0, clip),
        "ibp and clean": lambda: losses.ibp(bound, x, y, EPS, 0.5, clip),
        "crown-ibp": lambda: losses.crown_ibp(rows, x, y, EPS, 0.0, 0.5, clip),
        "crown-ibp and clean": lambda: losses.crown_ibp(rows, x, y, EPS, 0.5, 0.5, clip),
        "singleprop, zero": lambda: losses.singleprop(graph, x, y, EPS, clip=clip),
        "singleprop, fast-lin": lambda: losses.singleprop(graph, x, y, EPS, lines="fast-lin", clip=clip),
        "dual, exact": lambda: losses.dual(graph, x, y, EPS, clip=clip),
        "dual, 50 projections": lambda: losses.dual(graph, x, y, EPS, projections=losses.Projections(50), clip=clip),
        "tight (d and r)": lambda: sum(losses.tight_terms(graph, x, y, EPS, clip=clip), torch.zeros(())),
        "ibp by hand again": lambda: by_hand(module, x, y),
    }
    if arguments.network not in SMALL:
        cases = {name: loss for name, loss in cases.items() if not name.startswith(ROWS)}
    torch.testing.assert_close(cases["ibp"](), cases["ibp by hand"](), rtol=1e-4, atol=1e-4)
    steps = {name: step(module, loss) for name, loss in cases.items()}
    for run in steps.values():
        run()
    times = interleaved(steps, arguments.seconds, 1000, [name for name in cases if not name.startswith(ROWS)])
    plain, hand = times.median("plain"), times.median("ibp by hand")
    print(f"{arguments.network}, batch {arguments.batch}, {arguments.device}, {times.number} rounds, "
          f"{usable_cores()} cores of which one is used, torch {torch.__version__}")  # fmt: skip
    for name in cases:
        own = times.median(name)
        print(f"{name:20s} {1e3 * own:9.2f} ms   {own / plain:6.2f} of plain   {own / hand:5.2f} of ibp by hand")


if __name__ == "__main__":
    main()
