"""Measuring: one core, processes of their own, interleaved rounds, medians, peak memory.

A measurement runs in a forked child of a process that has everything imported and has computed nothing, so that cells
do not disturb each other, and one that takes too long or too much memory can be ended. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import TypeVar

import torch

Result = TypeVar("Result")
MIB = 2**20
ROW, ROW_SECONDS = 8, 0.5
LATE = 2**20
"""So many bytes, 32 pages for each processor and kind of page and more, may be missing from the system's own counts."""


def pin(core: int) -> None:
    """One core and one thread for this process and its children."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)


def warm() -> None:
    """Loads what an optimiser and its first step load, so that no child pays for it. Computes no gradient: autograd
    does not survive a fork."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()
    importlib.import_module("torch._dynamo")


class MeasurementError(RuntimeError):
    """A child gave no result; the message says why."""


def in_child(work: Callable[[], Result], seconds: float, gigabytes: float) -> Result:
    """`work()`, computed in a fork of this process within limits. Raises MeasurementError where it gives no result."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, send, gigabytes))
    child.start()
    send.close()
    try:
        if not receive.poll(seconds):
            raise MeasurementError(f"over {seconds:g} s")
        result, error = receive.recv()
    except EOFError:
        raise MeasurementError(f"ended without a result, perhaps over {gigabytes:g} GiB") from None
    finally:
        child.kill()
        child.join()
    if error is not None:
        raise MeasurementError(error)
    return result  # type: ignore[no-any-return]


def _child(work: Callable[[], Result], send: Connection, gigabytes: float) -> None:
    limit = _status("VmSize") + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        send.send((work(), None))
    except Exception as error:  # whatever it is, the table says so in its place
        send.send((None, words(error)))


def words(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    if isinstance(error, MeasurementError):
        return text
    full = isinstance(error, MemoryError) or "allocate memory" in text
    return "out of memory" if full else f"{type(error).__name__}: {text[:120]}"


def seconds_of(call: Callable[[], Result]) -> tuple[float, Result]:
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def allocated_by(call: Callable[[], Result]) -> tuple[float, float, Result] | None:
    """The seconds of a call, how many MiB it has allocated at the same time at most, and its result; None without
    memray. Exactly, wherever it comes to lie: what is free already in memory, and what the call frees of others', makes
    no difference. It takes a few times as long; the first such call of a process counts what memray itself needs."""
    try:
        memray = importlib.import_module("memray")
    except ImportError:
        return None
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "allocations")
        with memray.Tracker(file):
            seconds, result = seconds_of(call)
        peak: int = memray.FileReader(file).metadata.peak_memory
    return seconds, peak / MIB, result


def peak_of(call: Callable[[], Result]) -> tuple[float, float, Result]:
    """The seconds of a call, by how many MiB it raised the resident memory at its peak, and its result.

    The system's count of the peak comes late, by up to LATE, and so may what it begins again from; what is resident
    after the call is counted page by page. That is the peak as well while the allocator keeps what is freed.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # so that memory freed earlier does not hide what the call takes
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again from the present
    _resident()  # what is read with is in memory now
    before = _resident()
    seconds, result = seconds_of(call)
    raised, peak = _resident() - before, _status("VmHWM") - before
    return seconds, max(0, peak if peak > raised + LATE else raised) / MIB, result


def _resident() -> int:
    """Bytes of this process in memory, counted page by page."""
    file = os.open("/proc/self/smaps_rollup", os.O_RDONLY)
    try:
        text = os.read(file, 4096).decode("ascii")
    finally:
        os.close(file)
    return int(text[text.index("Rss:") :].split()[1]) * 1024


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Rounds:
    """Seconds of each call in every round, by name, and the number of rounds."""

    seconds: Mapping[str, Sequence[float]]
    number: int

    def median(self, name: str) -> float:
        return median(self.seconds[name])


def interleaved(
    calls: Mapping[str, Callable[[], object]], budget: float, most: int, in_a_row: Container[str] = ()
) -> Rounds:
    """Times all calls once a round, the order reversed every other round, for `budget` seconds; 1 to `most` rounds.

    Those `in_a_row` are called once more before, so that no other one has filled the caches, and timed up to ROW times,
    as often as fits into half a second.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for number in range(most):
        names = list(calls)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            if name in in_a_row:
                calls[name]()
            took = [seconds_of(calls[name])[0]]
            while name in in_a_row and len(took) < ROW and sum(took) + took[0] <= ROW_SECONDS:
                took.append(seconds_of(calls[name])[0])
            found[name] += took
        spent = time.perf_counter() - begun
        if spent * (number + 2) / (number + 1) > budget:
            break
    return Rounds(found, number + 1)
