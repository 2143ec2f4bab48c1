"""Exact verification by mixed-integer programming: formulation, tightening by linear programs, solvers, files.

Names are imported on first use: a solver process, which imports this package too, needs neither torch nor the IR.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irverify.backends.milp.distances import Nearest as Nearest
    from irverify.backends.milp.encoding import Encoding as Encoding
    from irverify.backends.milp.formulation import TOLERANCE as TOLERANCE
    from irverify.backends.milp.formulation import Formulation as Formulation
    from irverify.backends.milp.formulation import Program as Program
    from irverify.backends.milp.formulation import formulate as formulate
    from irverify.backends.milp.model import MilpModel as MilpModel
    from irverify.backends.milp.model import ModelBuilder as ModelBuilder
    from irverify.backends.milp.process import Pool as Pool
    from irverify.backends.milp.process import Worker as Worker
    from irverify.backends.milp.solvers import SolveOptions as SolveOptions
    from irverify.backends.milp.solvers import solve as solve
    from irverify.backends.milp.tasks import Solution as Solution
    from irverify.backends.milp.tightening import Tightening as Tightening
    from irverify.backends.milp.tightening import tighten as tighten

_HOME = {
    "Encoding": "encoding",
    "Formulation": "formulation",
    "MilpModel": "model",
    "ModelBuilder": "model",
    "Nearest": "distances",
    "Pool": "process",
    "Program": "formulation",
    "Solution": "tasks",
    "SolveOptions": "solvers",
    "TOLERANCE": "formulation",
    "Tightening": "tightening",
    "Worker": "process",
    "formulate": "formulation",
    "solve": "solvers",
    "tighten": "tightening",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
