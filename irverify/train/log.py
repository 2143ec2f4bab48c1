"""The log of a training run: a row for each epoch, as CSV and, where TensorBoard is installed, as its events."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irverify.ir.program import write_whole
from irverify.train.checkpoint import Row

FILE = "log.csv"


def write_log(folder: Path, rows: Sequence[Row]) -> None:
    """Writes `FILE` in the folder as a whole; a number that was not measured is an empty cell. FileError where it
    cannot be written."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_whole(folder / FILE, text.getvalue().encode())


class Events:
    """The same numbers for TensorBoard, under `folder/tensorboard`; without it installed, nothing."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, row: Row) -> None:
        if self._writer is not None:
            for name, value in row.items():
                if value is not None and name not in ("epoch", "step"):
                    self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
