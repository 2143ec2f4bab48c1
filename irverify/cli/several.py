"""A command that several processes run together, as `torchrun` starts them: the first one alone speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from irverify.cli.failures import DEBUG
from irverify.errors import UsageError

if TYPE_CHECKING:
    from irverify.train.processes import Processes


@dataclass(frozen=True)
class Worker:
    """This process: its device, and the processes that it works with (None: it is alone)."""

    device: str
    processes: Processes | None = None

    @property
    def speaks(self) -> bool:
        return self.processes is None or self.processes.first


@contextmanager
def working(device: str) -> Iterator[Worker]:
    """This process among those of the run, if there are several.

    All but the first are mute: what stops one of them is told by the first. Without `torchrun` nothing is imported.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Worker(device)
        return
    from irverify.train.processes import joined

    mute = os.environ.get("RANK", "0") != "0" and not os.environ.get(DEBUG)
    try:
        processes, own = joined(device)
    except UsageError:  # the same one in all processes
        if mute:
            _mute()
        raise
    if mute:
        _mute()
    with processes.together():
        yield Worker(own, processes)


def _mute() -> None:
    sys.stdout.flush()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
