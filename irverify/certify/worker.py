"""A worker process of a sweep: reads chunks of images from its standard input, writes what it finds to its standard
output, until the input ends, which it does when the parent is gone, however it went."""

from __future__ import annotations

import os
import pickle
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from irverify.allocator import keep_freed_memory
from irverify.certify.certifier import Certifier, Maker, isolated
from irverify.certify.messages import Chunk, Done, Found, Message, Ready, Refused, Setup
from irverify.errors import IRVerifyError, UsageError


def main(answers: int) -> None:
    """Runs the process. `answers` is the file descriptor of its standard output, which was put out of the way of
    whatever libraries print."""
    source, sink = _take_input(), os.fdopen(answers, "wb")

    def send(message: Message) -> None:
        pickle.dump(message, sink, protocol=5)
        sink.flush()

    try:
        setup = _setup(source)
        torch.set_num_threads(setup.threads)
        make = setup.recipe()
    except IRVerifyError as error:
        send(Refused(error))
        return
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(source, chunks), daemon=True).start()
    if setup.memory is None:
        keep_freed_memory()
    else:
        _limit_memory(setup.memory)
    send(Ready())
    for message in _answers(chunks, make):
        send(message)


def _setup(source: BinaryIO) -> Setup:
    try:
        setup = pickle.load(source)
    except (AttributeError, ImportError) as error:
        hint = "what workers load has to be defined in a module that they can import"
        raise UsageError(f"a worker process cannot load what it was given: {error}", hint=hint) from error
    except EOFError:  # the parent has gone already
        os._exit(0)
    assert isinstance(setup, Setup)
    return setup


def _answers(chunks: queue.SimpleQueue[Chunk], make: Maker) -> Iterator[Message]:
    certifiers: dict[float, Certifier] = {}
    while True:
        chunk = chunks.get()
        try:
            if chunk.eps not in certifiers:
                certifiers = {chunk.eps: make(chunk.eps)}
            for found in isolated(certifiers[chunk.eps], chunk.indices):
                yield Found(tuple(found))
            yield Done()
        except IRVerifyError as error:
            yield Refused(error)


def _take_input() -> BinaryIO:
    """Standard input for our own use; libraries find it empty."""
    source = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return source


def _read(source: BinaryIO, chunks: queue.SimpleQueue[Chunk]) -> None:
    """Reads ahead, in a thread of its own: the end of the input ends the process, whatever it is busy with."""
    try:
        while True:
            chunks.put(pickle.load(source))
    finally:
        os._exit(0)


def _limit_memory(size: int) -> None:
    """Makes allocations fail that go `size` bytes beyond what is in use now, where the system can."""
    try:
        import resource  # not on every system

        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (ImportError, OSError, StopIteration):
        return
    resource.setrlimit(resource.RLIMIT_DATA, (used + size, used + size))
