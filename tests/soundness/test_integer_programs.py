"""CP-SAT's "infeasible" against exact rational arithmetic: with the threshold at the exact minimum, where some point
violates with a margin of 0, and beyond the slack below it, where none does."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from irverify.backends.milp.formulation import formulate
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.passes.outward import OutwardIbp
from irverify.pipeline import run
from irverify.properties import Disjunct, Property
from tests.soundness.exact_nets import exact_net


@pytest.mark.parametrize("scale", [(-1.0, 1.0), (0.0, 3.0), (-3.0, 5.0)])
def test_infeasible_proves(scale: tuple[float, float]) -> None:
    decided = 0
    with Worker() as worker:
        for seed in range(12):
            net = exact_net(seed, *scale)
            least = net.output.range(0)[0]
            threshold = float(least)
            if Fraction(threshold) < least:
                threshold = math.nextafter(threshold, math.inf)
            bounds = run(net.graph, (OutwardIbp(),), net.region).bounds
            known = {name: (entry.lower[0], entry.upper[0]) for name, entry in bounds.items()}
            for below in (False, True):
                offset = torch.tensor([-threshold], dtype=torch.float64)
                prop = Property((Disjunct(torch.ones(1, 1, dtype=torch.float64), offset),))  # y <= threshold
                program = formulate(net.graph, net.region, prop, known).program("feasibility", tolerance=0.0)
                solution = solve(program.model, "cp-sat", SolveOptions(5.0, seed=0), worker=worker)
                assert solution.status in ("infeasible", "no_solution") if below else solution.status != "infeasible"
                decided += solution.status != "no_solution"
                threshold -= 1.01 * program.resolution + 1e-9 * abs(threshold)
    assert decided >= 22
