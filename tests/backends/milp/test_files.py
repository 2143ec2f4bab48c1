"""Files keep every digit: read back and solved by another solver, they have the same optimum."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from irverify.backends.milp.files import write
from irverify.backends.milp.formulation import formulate
from irverify.backends.milp.model import MilpModel, ModelBuilder, Terms
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import solve
from irverify.backends.milp.tasks import SolverName
from irverify.errors import FileError, UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.properties import robust
from irverify.regions import Linf

# The readers run in processes of their own: OR-Tools and another HiGHS do not share one.
READ_BY_HIGHS = """
import sys
import scipy.optimize._highspy._core as core
options = core.HighsOptions()
options.output_flag = False
for path in sys.argv[1:]:
    highs = core._Highs()
    highs.passOptions(options)
    assert highs.readModel(path) == core.HighsStatus.kOk
    highs.run()
    print(repr(highs.getInfo().objective_function_value))
"""
SOLVE_PROTO = """
import sys
from ortools.math_opt import callback_pb2, model_parameters_pb2, model_pb2, parameters_pb2
from ortools.math_opt.core.python import solver
from ortools.math_opt.io.python import mps_converter
for path in sys.argv[1:]:
    content = open(path, "rb").read()
    if path.endswith(".mps"):
        proto = mps_converter.mps_to_model_proto(content.decode())
    else:
        proto = model_pb2.ModelProto.FromString(content)
    result = solver.solve(proto, parameters_pb2.SOLVER_TYPE_GSCIP, parameters_pb2.SolverInitializerProto(),
        parameters_pb2.SolveParametersProto(), model_parameters_pb2.ModelSolveParametersProto(), None,
        callback_pb2.CallbackRegistrationProto(), None, None)
    print(repr(result.solutions[0].primal_solution.objective_value))
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def optima(script: str, paths: list[Path]) -> list[float]:
    result = subprocess.run([sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True)
    if "No module named" in result.stderr:
        pytest.skip("this version of SciPy has no reader of its own")
    assert result.returncode == 0, result.stderr
    return [float(line) for line in result.stdout.splitlines()[-len(paths) :]]


def everything() -> MilpModel:
    """Every kind of bound, row and name; coefficients that six digits do not hold."""
    builder = ModelBuilder()
    x = builder.variables("x", [-1.0, -5.0, -3.0], [1.0, np.inf, np.inf])
    on = builder.variables("relu_3.on", 0.0, np.ones(2), integer=True, labels=np.array([3, 12]))
    whole = builder.variables("7", -2.0, [9.0], integer=True)
    fixed = builder.variables("e1", 2.5, [2.5])
    below = builder.variables("up$1", -np.inf, [-1.0])
    builder.variables("unused", -np.inf, [np.inf])
    builder.rows(
        "r",
        [Terms(x, sparse.csr_array([[1.0, 2.0, 0.0], [0.0, 1 / 3, 1.0]])), Terms(on, 1e-7)],
        [-1.0, -np.inf],
        [4.0, 2.0],
    )
    builder.rows("q.eq", [Terms(whole), Terms(fixed)], [0.5], [0.5])
    builder.rows("free", [Terms(whole), Terms(fixed)], [-np.inf], [np.inf])
    builder.rows("q.ge", [Terms(below), Terms(x[:1])], [-7.0], np.inf)
    builder.rows("empty", [], [0.0], [0.0])
    columns = np.concatenate([x, on, whole, below])
    return builder.build().minimize(columns, [1.0, -2 / 3, 0.1, 0.1, -0.2, 1.0, 1 / 7], 5.25)


def network() -> tuple[Graph, Linf]:
    rng = np.random.default_rng(0)
    builder = GraphBuilder()
    value = builder.input(TensorType((4,), torch.float64), name="x")
    for size, width in ((5, 4), (3, 5)):
        value = builder.add(Linear(torch.from_numpy(rng.normal(size=(size, width)))), value)
        value = builder.add(Relu(), value, name=f"relu_{size}")
    return builder.graph([value]), Linf(torch.from_numpy(rng.normal(size=(1, 4))), 0.5)


@pytest.mark.parametrize(
    ("suffix", "script"), [(".mps", READ_BY_HIGHS), (".lp", READ_BY_HIGHS), (".mps", SOLVE_PROTO), (".pb", SOLVE_PROTO)]
)
def test_round_trip(tmp_path: Path, suffix: str, script: str, worker: Worker) -> None:
    formulation = formulate(*network(), robust(0))
    models = [everything(), formulation.model, formulation.program("nearest").model]
    paths = [tmp_path / f"{number}{suffix}" for number in range(len(models))]
    for model, path in zip(models, paths, strict=True):
        write(model, path)
    solver: SolverName = "scip" if script == READ_BY_HIGHS else "highs"
    expected = [solve(model, solver, worker=worker).objective for model in models]
    assert optima(script, paths) == pytest.approx(expected, abs=1e-6)


def test_names_lead_back_to_the_graph(tmp_path: Path) -> None:
    formulate(*network(), robust(0)).write(tmp_path / "x.mps")
    text = (tmp_path / "x.mps").read_text()
    assert " relu_5.on(" in text and " x(3) " in text and " relu_5.on(" in text


def test_lp_names_are_no_numbers(tmp_path: Path) -> None:
    write(everything(), tmp_path / "x.lp")
    text = (tmp_path / "x.lp").read_text()
    assert " _7(0)" in text and " _e1(0)" in text and " relu_3.on(12)" in text and "+0.33333333333333331 x(1)" in text


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mps, \.lp, \.pb"):
        write(everything(), tmp_path / "x.txt")
    with pytest.raises(FileError, match="cannot write"):
        write(everything(), tmp_path / "missing" / "x.mps")
