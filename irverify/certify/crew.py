"""Worker processes that share the images of a sweep. One that dies costs the image that it died of, and no other."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO

from irverify.certify.certifier import failed
from irverify.certify.messages import Chunk, Found, Message, Ready, Refused, Setup
from irverify.certify.outcome import Outcome, Status
from irverify.certify.question import Question
from irverify.errors import IRVerifyError

BOOT = """
import gc, json, os, sys, threading, time
gc.set_threshold(100_000, 50, 50)
path, parent = json.loads(sys.argv[1])
def watch():
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)
if os.name == "posix":
    threading.Thread(target=watch, daemon=True).start()
sys.path[:] = path
answers = os.dup(1)
os.dup2(2, 1)
from irverify.certify.worker import main
main(answers)
"""
"""What a worker process runs. Importing takes seconds; should the parent end meanwhile, it ends without being told."""
CHUNK = 32
"""The most images that a worker of the driver is given at once: its batches gain little from more of them."""
TICK = 0.5
"""Seconds between two looks at the clock, at most."""
ENDING = 10.0
"""Seconds that a worker without anything more to say may take to end."""
GRACE = 60.0
"""Seconds that a worker may be silent for beyond the time limits of its images."""


class Worker:
    """One process. Its messages, and None when it has ended, go into `events` beside itself."""

    def __init__(self, setup: Setup, events: queue.SimpleQueue[tuple[Worker, Message | None]]) -> None:
        self.ready = False
        self.chunk = Chunk(0.0, ())
        self.open: dict[int, None] = {}
        """The images of the chunk that have no outcome yet."""
        self.heard = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps([sys.path, os.getpid()])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends this one
            )  # fmt: skip
        except OSError as error:
            raise IRVerifyError(f"cannot start a worker process: {error}") from error
        self.close = weakref.finalize(self, _end, self._process, self._errors)
        threading.Thread(target=_read, args=(self, self._process.stdout, events), daemon=True).start()
        self._send(setup)

    def give(self, chunk: Chunk) -> None:
        self.chunk, self.open, self.heard = chunk, dict.fromkeys(chunk.indices), time.monotonic()
        self._send(chunk)

    def last_words(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(timeout=ENDING)
        except subprocess.TimeoutExpired:
            return "fell silent"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if code >= 0:
            return f"ended with code {code}" + (f": {lines[-1].strip()}" if lines else "")
        names = {number.value: number.name for number in signal.Signals}
        memory = ", as happens where memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by {names.get(-code, f'signal {-code}')}{memory}"

    def _send(self, message: Setup | Chunk) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died, which is noticed where its messages are read
            self._process.stdin.write(pickle.dumps(message, protocol=5))
            self._process.stdin.flush()


class Crew:
    """Up to `size` workers, started as there is work for them. Leaving the `with` block ends them; so does the end of
    this process, however it ends."""

    def __init__(
        self, question: Question, setup: Setup, size: int, limit: float | None = None, chunk: int = CHUNK
    ) -> None:
        """`limit`: the seconds that an image may take; a worker that is silent for much longer is ended. `chunk`: the
        most images that a worker is given at once."""
        self._question, self._setup, self._size, self._limit, self._chunk = question, setup, size, limit, chunk
        self._events: queue.SimpleQueue[tuple[Worker, Message | None]] = queue.SimpleQueue()
        self._workers: list[Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def outcomes(self, eps: float, indices: Sequence[int]) -> Iterator[Outcome]:
        """The outcome of every image, each as it is decided. IRVerifyError where no image can be decided."""
        work = _Work(deque(indices), deque())
        try:
            while work.fresh or work.suspects or any(worker.open for worker in self._workers):
                self._hand_out(eps, work)
                yield from self._next(work)
                for worker in list(self._workers):
                    yield from self._overdue(worker, work)
        except BaseException:
            self.close()
            raise

    def _hand_out(self, eps: float, work: _Work) -> None:
        idle = [worker for worker in self._workers if not worker.open]
        while work.fresh or work.suspects:
            if not idle:
                if len(self._workers) == self._size:
                    return
                self._workers.append(Worker(self._setup, self._events))
                idle.append(self._workers[-1])
            idle.pop().give(Chunk(eps, work.take(self._size, self._chunk)))

    def _next(self, work: _Work) -> Iterator[Outcome]:
        """What comes of the next message of a worker, if one comes soon."""
        try:
            worker, message = self._events.get(timeout=TICK)
        except queue.Empty:
            return
        if worker not in self._workers:  # it was ended by us
            return
        worker.heard = time.monotonic()
        if isinstance(message, Found):
            for outcome in message.outcomes:
                del worker.open[outcome.index]
                yield outcome
        elif isinstance(message, Refused):
            raise message.error
        elif isinstance(message, Ready):
            worker.ready = True
        elif message is None:
            yield from self._died(worker, work)

    def _died(self, worker: Worker, work: _Work) -> Iterator[Outcome]:
        words = worker.last_words()
        if not worker.ready:
            hint = "nothing was decided by it; with less memory than they need to start, workers end like this"
            raise IRVerifyError(f"a worker process {words} before it could begin", hint=hint)
        yield from self._lost(worker, work, f"its worker process {words}")

    def _overdue(self, worker: Worker, work: _Work) -> Iterator[Outcome]:
        if self._limit is None or not worker.ready or not worker.open:
            return
        silent = time.monotonic() - worker.heard
        if silent > self._limit * len(worker.open) + GRACE:
            yield from self._lost(worker, work, f"its worker process gave no answer for {silent:.0f} s", "timeout")

    def _lost(self, worker: Worker, work: _Work, reason: str, status: Status = "error") -> Iterator[Outcome]:
        """Ends a worker. What it had open is asked once more, an image at a time; for one that it had alone, it was
        this one."""
        self._workers.remove(worker)
        worker.close()
        if len(worker.chunk.indices) == 1:
            yield from (replace(failed(self._question, index, reason), status=status) for index in worker.open)
        else:
            work.suspects.extend(worker.open)


@dataclass
class _Work:
    """Images that nobody works on: those that nobody has tried, and those that a worker may have died of."""

    fresh: deque[int]
    suspects: deque[int]

    def take(self, workers: int, most: int) -> tuple[int, ...]:
        """The next chunk; they get smaller towards the end, so that all workers end together."""
        if self.suspects:
            return (self.suspects.popleft(),)
        count = max(1, min(most, len(self.fresh) // (2 * workers)))
        return tuple(self.fresh.popleft() for _ in range(count))


def _read(worker: Worker, source: IO[bytes], events: queue.SimpleQueue[tuple[Worker, Message | None]]) -> None:
    """Passes on every message of a process, and None at its end."""
    with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):  # the last one may have been cut off
        while True:
            events.put((worker, pickle.load(source)))
    events.put((worker, None))


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """Kills a process, waits for it, so that no zombie is left, and closes its pipes."""
    process.kill()
    process.wait()
    with suppress(OSError):  # unwritten data for a dead process
        if process.stdin is not None:
            process.stdin.close()
    errors.close()
