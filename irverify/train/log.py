"""The log of a training run: a row for each epoch, as CSV and, where TensorBoard is installed, as events for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from irverify.errors import FileError
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


def write_events(folder: Path, row: Row) -> None:
    """The same numbers of one epoch for TensorBoard, in a file of its own under `folder/tensorboard`; without
    TensorBoard installed, nothing. FileError where they cannot be written."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    place = folder / "tensorboard"
    try:
        with SummaryWriter(str(place), filename_suffix=f".{row['epoch']}") as writer:
            for name, value in row.items():
                if value is not None and name not in ("epoch", "step"):
                    writer.add_scalar(name, value, row["step"])
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(place)) from error
