"""A solver process: reads tasks from its standard input, writes answers to its standard output, until the input ends.

It runs apart from the program so that it can be killed (no solver stops reliably when asked to), so that a crash or
running out of memory ends nothing else, and because OR-Tools and other users of the same solvers cannot share a
process.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import threading
import time
from typing import BinaryIO

from irverify.backends.milp.mathopt import solve
from irverify.backends.milp.sequences import lp_bounds
from irverify.backends.milp.tasks import Answer, Failure, IntegerTask, LpTask, Task

HEADER = struct.Struct("<Q")
WATCH = 0.5
"""Seconds between two looks at whether the parent lives."""


def main(memory: int | None = None, parent: int | None = None) -> None:
    """Answers tasks one after the other, within `memory` bytes, as long as the process `parent` lives (None: the
    one that started this)."""
    if memory is not None:
        _limit_memory(memory)
    source, sink = _take_streams()
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(source, tasks), daemon=True).start()
    threading.Thread(target=_watch, args=(os.getppid() if parent is None else parent,), daemon=True).start()
    while True:
        answer = _answer(tasks.get())
        payload = pickle.dumps(answer, protocol=5)
        sink.write(HEADER.pack(len(payload)))
        sink.write(payload)
        sink.flush()


def _limit_memory(size: int) -> None:
    """Makes allocations beyond `size` bytes of address space fail, where the system can."""
    try:
        import resource  # not on every system
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes for our own use; whatever solvers print goes to standard error instead."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return source, sink


def _read(source: BinaryIO, tasks: queue.SimpleQueue[Task]) -> None:
    """Reads ahead, in a thread of its own: the end of the input means that the parent is gone, whatever a solver is
    doing."""
    try:
        while header := source.read(HEADER.size):
            tasks.put(pickle.loads(source.read(HEADER.unpack(header)[0])))
    finally:
        os._exit(0)


def _watch(parent: int) -> None:
    """Ends this process once its parent is gone: the input does not end where a fork of the parent holds the pipe."""
    while os.name != "posix" or os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(0)


def _answer(task: Task) -> Answer | Failure:
    try:
        if isinstance(task, IntegerTask):
            from irverify.backends.milp import cpsat  # brings pandas, which the others do without

            return cpsat.solve(task)
        return lp_bounds(task) if isinstance(task, LpTask) else solve(task)
    except Exception as error:  # every failure of a solver is reported to the parent, which raises
        return Failure(f"{type(error).__name__}: {error}")
