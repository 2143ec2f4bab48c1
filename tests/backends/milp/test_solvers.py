"""SCIP and HiGHS in their own processes: optima known by hand, every status, limits, crashes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import sparse

from irverify.backends.milp.model import MilpModel, ModelBuilder, Terms
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import SolverName, SolveTask
from irverify.errors import SolverError, UsageError

SOLVERS: tuple[SolverName, ...] = ("scip", "highs")
both = pytest.mark.parametrize("solver", SOLVERS)
every = pytest.mark.parametrize("solver", (*SOLVERS, "cp-sat"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def knapsack() -> MilpModel:
    """min -5a - 4b - 3c + 1 with 2a + 3b + c <= 5, 4a + b + 2c <= 11, 3a + 4b + 2c <= 8: -12 for a = 2, c = 1 (all
    whole)."""
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.full(3, 10.0), integer=True)
    weights = sparse.csr_array([[2.0, 3.0, 1.0], [4.0, 1.0, 2.0], [3.0, 4.0, 2.0]])
    builder.rows("limit", [Terms(x, weights)], -np.inf, [5.0, 11.0, 8.0])
    return builder.build().minimize(x, [-5.0, -4.0, -3.0], 1.0)


def hard(rows: int = 60, columns: int = 400) -> MilpModel:
    """A multi-dimensional knapsack that no solver finishes in seconds."""
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 100, size=(rows, columns)).astype(float)
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(columns), integer=True)
    builder.rows("limit", [Terms(x, sparse.csr_array(weights))], weights.sum(axis=1) / 2, np.inf)
    return builder.build().minimize(x, rng.integers(10, 40, size=columns))


@every
def test_integer_optimum(solver: SolverName, worker: Worker) -> None:
    solution = solve(knapsack(), solver, worker=worker)
    assert solution.status == "optimal"
    assert solution.x is not None and solution.objective is not None
    assert solution.objective == pytest.approx(-12.0) and solution.dual_bound == pytest.approx(-12.0)
    assert solution.x.round().tolist() == [2, 0, 1]


@both
def test_continuous_optimum_and_ranged_rows(solver: SolverName, worker: Worker) -> None:
    builder = ModelBuilder()
    x = builder.variables("x", [-np.inf, -1.0], [np.inf, 4.0])
    builder.rows("range", [Terms(x, sparse.csr_array([[1.0, 2.0]]))], [-3.0], [6.0])
    builder.rows("equal", [Terms(x, sparse.csr_array([[1.0, -1.0]]))], [0.0], [0.0])
    solution = solve(builder.build().minimize(x, [1.0, 1.0]), solver, worker=worker)
    assert solution.status == "optimal" and solution.x is not None
    np.testing.assert_allclose(solution.x, [-1.0, -1.0], atol=1e-6)


@every
def test_infeasible(solver: SolverName, worker: Worker) -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2), integer=True)
    builder.rows("sum", [Terms(x, sparse.csr_array([[2.0, 2.0]]))], [1.0], [1.0])
    solution = solve(builder.build(), solver, worker=worker)
    assert (solution.status, solution.x, solution.objective) == ("infeasible", None, None)


@both
def test_unbounded_is_unknown(solver: SolverName, worker: Worker) -> None:
    builder = ModelBuilder()
    x = builder.variables("x", -np.inf, [np.inf], integer=True)
    y = builder.variables("y", -np.inf, [np.inf])
    builder.rows("above", [Terms(x), Terms(y, -1.0)], [0.0], np.inf)
    solution = solve(builder.build().minimize(y, [1.0]), solver, worker=worker)
    assert solution.status == "unknown"
    assert solution.dual_bound == -math.inf


@every
def test_without_objective(solver: SolverName, worker: Worker) -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2), integer=True)
    builder.rows("one", [Terms(x, sparse.csr_array([[1.0, 1.0]]))], [1.0], [1.0])
    solution = solve(builder.build(), solver, worker=worker)
    assert solution.status == "optimal" and solution.x is not None
    assert solution.x.sum() == pytest.approx(1.0)


@every
def test_time_limit(solver: SolverName) -> None:
    started = time.perf_counter()
    solution = solve(hard(), solver, SolveOptions(time_limit=2.0))
    assert time.perf_counter() - started < 3.0
    assert solution.status in ("feasible", "no_solution")
    if solution.objective is not None:
        assert solution.dual_bound <= solution.objective


def test_the_process_is_killed_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that does not stop by itself: the deadline that it is told is far away."""
    monkeypatch.setattr("irverify.backends.milp.solvers.GRACE", -3600.0 + 0.5)
    started = time.perf_counter()
    with Worker() as own:
        solve(knapsack(), "highs", worker=own)  # started
        pid = own.pid
        solution = solve(hard(), "highs", SolveOptions(time_limit=3600.0 + 1.0), worker=own)
        assert own.pid is None
    assert time.perf_counter() - started < 5.0
    assert (solution.status, solution.dual_bound) == ("no_solution", -math.inf)
    assert pid is not None and gone(pid)


def test_a_killed_process_is_an_error() -> None:
    with Worker() as own:
        solve(knapsack(), "highs", worker=own)
        pid = own.pid
        assert pid is not None
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(SolverError, match="signal 9"):
            solve(hard(), "highs", SolveOptions(time_limit=30.0), worker=own)
        assert gone(pid)
        assert solve(knapsack(), "highs", worker=own).status == "optimal"  # another process


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are enforced on Linux only")
def test_out_of_memory_is_an_error() -> None:
    with pytest.raises(SolverError):
        solve(hard(400, 1500), "highs", SolveOptions(time_limit=60.0, memory=400 << 20))


def test_a_failure_inside_is_an_error(worker: Worker) -> None:
    model = knapsack()
    model.rows.data[0] = np.nan  # behind the back of the builder
    with pytest.raises(SolverError, match="the solver failed"):
        solve(model, "scip", worker=worker)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@every
def test_the_end_of_the_parent_ends_the_solver(solver: SolverName) -> None:
    """Even where the parent is killed and cannot clean up, and a fork of it keeps the pipes open."""
    script = f"""
import os, sys, threading, time
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import solve
from tests.backends.milp.test_solvers import hard
worker = Worker()
threading.Thread(target=solve, args=(hard(), "{solver}"), kwargs=dict(worker=worker), daemon=True).start()
while worker.pid is None:
    time.sleep(0.01)
print(worker.pid, flush=True)
time.sleep(0.5)
fork = os.fork()
if fork:
    print(fork, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, fork = int(parent.stdout.readline()), int(parent.stdout.readline())
        time.sleep(1.0)  # the solver is at work
        parent.kill()
    deadline = time.monotonic() + 5.0
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(fork, signal.SIGKILL)
    assert gone(pid)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell runs the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_kills_the_solver() -> None:
    with Worker() as own:
        solve(knapsack(), "highs", worker=own)
        pid = own.pid
        assert pid is not None
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            solve(hard(), "highs", SolveOptions(time_limit=30.0), worker=own)
    assert gone(pid)


def test_an_answer_that_nobody_waited_for_is_dropped() -> None:
    with Worker() as own:
        own.submit(SolveTask(knapsack(), "highs"))
        pid = own.pid
        solution = solve(knapsack().minimize([0], [-1.0]), "highs", worker=own)
        assert own.pid != pid and pid is not None and gone(pid)
    assert solution.objective == pytest.approx(-2.0)


def test_first_solution_and_hint(worker: Worker) -> None:
    model = hard()
    hint = np.ones(400)
    solution = solve(model, "scip", SolveOptions(time_limit=20.0, first_solution=True), hint=hint, worker=worker)
    assert solution.status == "feasible" and solution.x is not None
    assert model.violation(solution.x) <= 1e-6


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="scip, highs, cp-sat"):
        solve(knapsack(), "cplex")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="time limit"):
        SolveOptions(time_limit=math.nan)
    with pytest.raises(UsageError, match="thread"):
        SolveOptions(threads=0)
    with pytest.raises(UsageError, match="hint"):
        solve(knapsack(), hint=np.zeros(2))


def test_a_solver_process_does_not_import_torch() -> None:
    """It starts in a third of a second, and needs little memory."""
    script = "import sys, irverify.backends.milp.worker; print('torch' in sys.modules, 'ortools' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
