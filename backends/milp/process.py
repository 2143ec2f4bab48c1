"""The parent's side of a solver process: start it, hand it a task, wait for as long as it may take, kill it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar

from irverify.backends.milp.tasks import Answer, Failure, LpBounds, LpTask, Solution, Task, WholeSolution
from irverify.errors import SolverError

BOOT = """
import json, sys
path, memory, parent = json.loads(sys.argv[1])
sys.path[:] = path
from irverify.backends.milp.worker import main
main(memory, parent)
"""
HEADER = struct.Struct("<Q")
OVERTIME = 2.0
"""Seconds beyond its deadline after which a sequence of linear programs is given up."""


Job = TypeVar("Job")
Result = TypeVar("Result")


class OverTime(Exception):
    """The process was killed because it did not answer in time."""


class Worker:
    """One solver process, started when it is first needed and again after it was killed. Not for several threads at
    once.

    A process that ends by itself, runs out of memory or fails raises SolverError; it never answers a task. `close` (or
    leaving the `with` block) kills it, and so does the end of this process, however it ends.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting = False
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors: IO[bytes] | None = None
        self._finalizer: Any = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def submit(self, task: Task) -> None:
        """Hands over a task; `result` waits for the answer."""
        if self._waiting:  # somebody was interrupted before the last answer came, which must not be taken for the next
            self.close()
        if self._process is None:
            self._start()
        self._waiting = True
        assert self._process is not None and self._process.stdin is not None
        payload = pickle.dumps(task, protocol=5)
        try:
            self._process.stdin.write(HEADER.pack(len(payload)))
            self._process.stdin.write(payload)
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None
        except BaseException:
            self.close()
            raise

    def result(self, timeout: float | None) -> Answer:
        """The answer to the task before. OverTime after `timeout` seconds, the process being dead then."""
        try:
            payload = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise OverTime from None
        except BaseException:
            self.close()
            raise
        if payload is None:
            raise self._death()
        self._waiting = False
        answer = pickle.loads(payload)
        if isinstance(answer, Failure):
            raise SolverError(f"the solver failed: {answer.message}")
        assert isinstance(answer, Solution | WholeSolution | LpBounds)
        return answer

    def close(self) -> None:
        """Kills the process; the next task starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._errors = self._finalizer = None
        self._waiting = False

    def _start(self) -> None:
        if not sys.executable:
            raise SolverError("expected a Python interpreter to start solvers with, got an empty sys.executable")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps([sys.path, self._memory, os.getpid()])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C reaches this process, which then kills the solver
            )
        except OSError as error:
            raise SolverError(f"cannot start a solver process: {error}") from error
        self._answers = queue.SimpleQueue()
        self._finalizer = weakref.finalize(self, _end, self._process, self._errors, os.getpid())
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()

    def _death(self) -> SolverError:
        """The error for a process that ended by itself."""
        assert self._process is not None and self._errors is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        last = f": {lines[-1].strip()}" if lines else ""
        return SolverError(f"the solver process {how}{last}", hint="it may have run out of memory")


class Pool:
    """Several workers that share tasks."""

    def __init__(self, size: int, memory: int | None = None) -> None:
        self.workers = tuple(Worker(memory) for _ in range(size))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def bounds(self, tasks: Iterable[LpTask]) -> list[LpBounds]:
        """The answers in the order of the tasks. A process that exceeds the deadline of its task by far is killed, and
        what was known before is its answer."""
        return self.shared(_bounds, tasks)

    def shared(self, work: Callable[[Worker, Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """`work` on every job, by whichever worker is free; the results in the order of the jobs. A failure, or an
        interrupt, kills all processes and raises."""
        waiting: Iterator[tuple[int, Job]] = enumerate(jobs)
        results: dict[int, Result] = {}
        guard = threading.Lock()

        def run(worker: Worker) -> None:
            while True:
                with guard:  # a generator runs in one thread at a time
                    entry = next(waiting, None)
                if entry is None:
                    return
                results[entry[0]] = work(worker, entry[1])

        with ThreadPoolExecutor(len(self.workers)) as threads:
            running = [threads.submit(run, worker) for worker in self.workers]
            try:
                for future in running:
                    future.result()
            except BaseException:
                with guard:
                    waiting = iter(())  # nobody starts another task, and those at work end with their processes
                self.close()
                raise
        return [results[number] for number in sorted(results)]


def _bounds(worker: Worker, task: LpTask) -> LpBounds:
    unchanged = LpBounds(task.lower, task.upper, 0, False)
    seconds = task.deadline - time.time()
    if seconds <= 0:
        return unchanged
    try:
        worker.submit(task)
        answer = worker.result(seconds + OVERTIME)
    except OverTime:
        return unchanged
    assert isinstance(answer, LpBounds)
    return answer


def _read(source: IO[bytes], answers: queue.SimpleQueue[bytes | None]) -> None:
    """Puts every answer into the queue, and None at the end."""
    with contextlib.suppress(OSError, ValueError):  # the pipe is closed under us when the process is killed
        while len(header := source.read(HEADER.size)) == HEADER.size:
            size = HEADER.unpack(header)[0]
            payload = source.read(size)
            if len(payload) < size:
                break
            answers.put(payload)
    answers.put(None)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes], parent: int) -> None:
    """Kills a process, waits for it, so that no zombie is left, and closes its pipes."""
    if os.getpid() != parent:  # a fork of the process that it belongs to
        return
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):  # unwritten data for a dead process
        if process.stdin is not None:
            process.stdin.close()
    errors.close()
