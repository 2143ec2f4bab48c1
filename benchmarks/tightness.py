"""How far the interval bound of the smallest margin is from the exact one: table 3 of paper 4 in kind.

    python -m benchmarks.tightness --first 50

For each image that the network classifies correctly: the worst-case margin by ibp and by crown, and the exact one by
mixed-integer programs, class after class as long as one may be smaller than the smallest yet, by gradient descent to
begin with. Where the limit comes first, the exact margin is known to lie between two numbers, and both are told.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import irverify as iv
from benchmarks.cases import CASES, DATA, Problem
from irverify.backends.milp import Pool, SolveOptions, formulate, solve, tighten
from irverify.ir.graph import convert
from irverify.pipeline import optimize
from irverify.pipeline.rows import REWRITES, row_state

NETWORK = "demo"
METHODS = ("ibp", "crown")
STEPS = 60


@dataclass(frozen=True)
class Tightness:
    """The smallest margin of one image: what each method bounds it by from below, and `low <= exact <= high`; by how
    much `low` has to exceed 0 to certify."""

    bounds: dict[str, float]
    low: float
    high: float
    tolerance: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=NETWORK, choices=[case.name for case in CASES])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the public networks and images")
    parser.add_argument("--first", type=int, default=20, help="so many images that are classified correctly")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for one image")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    (case,) = (case for case in CASES if case.name == arguments.network)
    problem = case.load(arguments.data, arguments.first)
    graph = optimize(convert(problem.graph, torch.float64), REWRITES)
    with Pool(1) as pool:
        found = [measured(graph, problem, image, arguments.limit, pool) for image in range(arguments.first)]
    result = {"network": case.name, "eps": case.eps, "limit": arguments.limit, **summary(found)}
    print(json.dumps(result) if arguments.json else table(result))


def measured(graph: iv.Graph, problem: Problem, image: int, limit: float, pool: Pool) -> Tightness:
    """The margins of one image."""
    begun = time.perf_counter()
    region = problem.region.select([image]).to(dtype=torch.float64)
    prop = iv.robust(int(problem.labels[image])).bind(
        sum(node.type.size for node in graph.inputs), sum(graph[name].type.size for name in graph.outputs)
    )
    bounds = {method: float(row_state(graph, region, prop, method)[0].min()) for method in METHODS}
    high = attacked(graph, region, int(problem.labels[image]))
    rows, state = row_state(graph, region, prop, "crown")
    known = {name: (entry.lower[0], entry.upper[0]) for name, entry in state.bounds.items() if name in graph}
    tight = tighten(graph, region, known, prop=prop, pool=pool)
    assert tight.margins is not None
    formulation = formulate(graph, region, prop, tight.bounds)
    floors = np.maximum(tight.margins, rows[0].numpy())
    low = high
    for index in np.argsort(floors).tolist():
        if floors[index] >= high:  # as all that follow
            break
        left = limit - (time.perf_counter() - begun)
        bound = float(floors[index])
        if left > 0:
            model = formulation.program("margin", disjunct=index).model
            solution = solve(model, "scip", SolveOptions(left, seed=0), worker=pool.workers[0])
            if solution.status in ("optimal", "feasible") and solution.objective is not None:
                bound, high = max(bound, solution.dual_bound), min(high, solution.objective)
        low = min(low, bound)
    return Tightness(bounds, low, high, formulation.tolerance, time.perf_counter() - begun)


def attacked(graph: iv.Graph, region: iv.Box, label: int) -> float:
    """The smallest margin that projected gradient descent finds, from the centre towards every other class."""
    classes = graph[graph.outputs[0]].type.size
    others = torch.tensor([index for index in range(classes) if index != label])
    radius = (region.upper - region.lower) / 2
    point = region.center.expand(len(others), *region.shape)
    best = math.inf
    for step in range(STEPS):
        point = point.detach().requires_grad_()
        logits = graph.values({graph.inputs[0].name: point})[graph.outputs[0]]
        margins = logits[:, label] - logits.gather(1, others[:, None])[:, 0]
        best = min(best, float(margins.detach().min()))
        (slope,) = torch.autograd.grad(margins.sum(), point)
        moved = point.detach() - 0.9**step * radius * slope.sign()
        point = torch.minimum(torch.maximum(moved, region.lower), region.upper)
    return best


def summary(found: list[Tightness]) -> dict[str, object]:
    """Means, counts, and the verified bound of the error among the images, which are all classified correctly."""
    count = len(found)
    certified = {method: sum(each.bounds[method] > each.tolerance for each in found) for method in METHODS}
    certified["exact"] = sum(each.low > each.tolerance for each in found)
    return {
        "images": count,
        "margin": {
            **{method: sum(each.bounds[method] for each in found) / count for method in METHODS},
            "exact": sum(each.low for each in found) / count,
            "exact at most": sum(each.high for each in found) / count,
        },
        "certified": certified,
        "error": {method: 1 - number / count for method, number in certified.items()},
        "open": sum(each.high - each.low > each.tolerance for each in found),
        "seconds": sum(each.seconds for each in found) / count,
    }


def table(result: dict[str, object]) -> str:
    """The summary as Markdown."""
    margin, certified, error = (result[part] for part in ("margin", "certified", "error"))
    assert isinstance(margin, dict) and isinstance(certified, dict) and isinstance(error, dict)
    lines = ["| method | mean worst-case margin | certified | bound of the error |", "|---|---|---|---|"]
    for method in (*METHODS, "exact"):
        lines.append(f"| {method} | {margin[method]:.4f} | {certified[method]} | {100 * error[method]:.2f} % |")
    lines.append(
        f"\n{result['network']}, eps {result['eps']:g}, {result['images']} images that are classified correctly; "
        f"{result['open']} margins open at {result['limit']:g} s an image (at most {margin['exact at most']:.4f} on "
        f"average); {result['seconds']:.1f} s an image"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
