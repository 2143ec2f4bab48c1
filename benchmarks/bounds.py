"""Times bounds of margins, side by side with auto_LiRPA where that is installed, and compares them image by image.

    python -m benchmarks.bounds                       everything (about eight minutes), as tables on standard output
    python -m benchmarks.bounds --quick               batch 1 and a few rounds, to see that all of it works
    python -m benchmarks.bounds wk17a resnet --methods crown --batches 1
    python -m benchmarks.bounds --write               replaces the tables in benchmarks/PERFORMANCE.md too

float32, one core, one thread; Linux. Each cell is a process of its own; what is compared takes turns in it, and medians
are shown, with the same call of ours against itself for the noise. Building the network is not timed, on either side;
everything that `iv.margins` does is. Peak memory is by how much one call raises the resident memory of its process, on
both sides after a call of the same kind (but where one takes seconds), so that what libraries allocate once does not
count; auto_LiRPA keeps its bounds until its next call, and they do count: they are made by an object of its own. Of
calls under a tenth of a second it is what they allocate at the same time at most, exactly, where memray is installed;
their resident memory is whole pages, of which it says little (the median of five).
auto_LiRPA treats convolutions as patches or as matrices; the one that is faster at batch 1 is shown. Where its batch
would take too long, the first images are compared one by one, and means are of these.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks import handwritten, lirpa, measure
from benchmarks.cases import CASES, DATA, Case
from benchmarks.cell import NOT_RUN, Cell, Limits, Side, certified, looseness, measured

PERFORMANCE = Path(__file__).with_name("PERFORMANCE.md")
BEGIN, END = "<!-- benchmarks.bounds: begin -->", "<!-- benchmarks.bounds: end -->"
FULL = Limits(budget=2.5, rounds=31, call=28.0, images=8.0, patience=4.0, seconds=180.0, gigabytes=10.0)
QUICK = Limits(budget=0.5, rounds=3, call=2.0, images=0.0, patience=4.0, seconds=40.0, gigabytes=10.0)
HEADER = (
    "network", "method", "batch", "ours, ms", "auto_LiRPA, ms", "ratio", "same code twice",
    "peak MiB, ours", "auto_LiRPA", "certified, ours", "auto_LiRPA", "mean margin, ours", "auto_LiRPA",
    "margins looser", "notes",
)  # fmt: skip


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The rows of the main table, each as it is measured."""
    limits = QUICK if arguments.quick else FULL
    for case in _cases(arguments):
        for method in arguments.methods:
            for batch in arguments.batches:
                yield _row(case, method, batch, arguments, limits)


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    for case in CASES:
        wanted = not arguments.names or any(name in case.name for name in arguments.names)
        if wanted and case.file(arguments.data).is_file():
            yield case
        elif wanted:
            print(f"{case.name}: skipped, no file {case.file(arguments.data)}", flush=True)


def _row(case: Case, method: str, batch: int, arguments: argparse.Namespace, limits: Limits) -> tuple[str, ...]:
    note = ""
    for compare in (True, False) if arguments.compare else (False,):
        try:
            work = partial(_measured, case, method, batch, arguments.data, limits, compare)
            row = measure.in_child(work, limits.seconds, limits.gigabytes)
            return (*row[:-1], note or row[-1])
        except measure.MeasurementError as error:
            ended = str(error).startswith(NOT_RUN)
            note = f"with auto_LiRPA: {error}" if compare and not ended else f"ours: {error}"
            if ended:
                break
    return (case.name, method, str(batch), *("",) * (len(HEADER) - 4), note)


def _measured(case: Case, method: str, batch: int, data: Path, limits: Limits, compare: bool) -> tuple[str, ...]:
    return _text(measured(case, method, batch, data, limits, compare=compare))


def _text(cell: Cell) -> tuple[str, ...]:
    """A cell as a row of the table."""
    mine, theirs = cell.ours, cell.theirs
    control, milliseconds, ratio = "" if cell.control is None else f"{cell.control:.2f}", "", ""
    if theirs is not None and theirs.seconds is not None and mine.seconds is not None:
        milliseconds, ratio = _number(theirs.seconds * 1e3), _number(theirs.seconds / mine.seconds)
    memory = "" if theirs is None or theirs.memory is None else _mebibytes(theirs.memory)
    return (
        cell.case, cell.method, str(cell.batch), _number((mine.seconds or 0.0) * 1e3), milliseconds, ratio, control,
        _mebibytes(mine.memory or 0.0), memory, *_margins(mine, theirs), cell.note,
    )  # fmt: skip


def _mebibytes(peak: float) -> str:
    return f"{peak:.2f}" if peak < 1 else f"{peak:.1f}"


def _margins(mine: Side, theirs: Side | None) -> tuple[str, ...]:
    """What was certified, the mean margins, and how many of ours are looser; theirs may be of the first images only."""
    count = mine.margins.shape[0]
    own = f"{certified(mine)} of {count}"
    if theirs is None:
        return own, "", f"{float(mine.margins.mean()):.4g}", "", ""
    images = theirs.margins.shape[0]
    other = f"{certified(theirs)}" if images == count else f"{certified(theirs)} of the first {images}"
    found = looseness(mine, theirs)
    loose = f"{found.count} of {found.total}" + (f", at most by {found.most:.1e}" if found.count else "")
    return own, other, *(f"{mean:.4g}" for mean in found.means), loose


def by_hand(data: Path, batch: int, limits: Limits) -> tuple[str, ...]:
    """ibp of wk17a against the same arithmetic written by hand, in this process."""
    case = next(case for case in CASES if case.name == handwritten.NAME)
    problem = case.load(data, batch)
    took = handwritten.measured(problem, limits.budget, 50 * limits.rounds)
    milliseconds = (_number(took[name] * 1e3) for name in handwritten.COMPARED)
    ratios = (took[name] / took["by hand"] for name in ("by hand again", "specialised", "walk", "iv.run", "iv.margins"))
    return (str(batch), *milliseconds, *(f"{ratio:.2f}" for ratio in ratios))


HAND_HEADER = (
    "batch", *(f"{name}, ms" for name in handwritten.COMPARED),
    "by hand, twice", "specialised / by hand", "walk / by hand", "iv.run / by hand", "iv.margins / by hand",
)  # fmt: skip


def _hand_rows(arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    if "ibp" not in arguments.methods or all(case.name != handwritten.NAME for case in _cases(arguments)):
        return
    limits = QUICK if arguments.quick else FULL
    for batch in arguments.batches:
        try:
            yield measure.in_child(partial(by_hand, arguments.data, batch, limits), limits.seconds, limits.gigabytes)
        except measure.MeasurementError as error:
            yield (str(batch), *("",) * (len(HAND_HEADER) - 2), str(error))


def _number(amount: float) -> str:
    """Three digits that count."""
    return f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}"


def _line(row: tuple[str, ...]) -> str:
    return f"| {' | '.join(row)} |"


def _head(header: tuple[str, ...]) -> list[str]:
    return [_line(header), _line(("---",) * len(header))]


def _about() -> str:
    other = f"auto_LiRPA {lirpa.version()}" if lirpa.version() else "no auto_LiRPA"
    return (
        f"`python -m benchmarks.bounds`, {time.strftime('%Y-%m-%d')}: torch {torch.__version__}, {other}, float32, one "
        f"core, medians. Load of the machine at the start: {os.getloadavg()[0]:.1f}."
    )


def _write(lines: list[str]) -> None:
    """Puts the tables between their marks in PERFORMANCE.md, at the end where there are no marks."""
    old = PERFORMANCE.read_text(encoding="utf-8")
    block = "\n".join([BEGIN, *lines, END])
    if BEGIN in old and END in old:
        before, rest = old.split(BEGIN, 1)
        new = before + block + rest.split(END, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n## Bounds of margins\n\n{block}\n"
    PERFORMANCE.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks whose name contains one of these; all where none is given")
    parser.add_argument("--methods", nargs="+", default=["ibp", "crown", "alpha"], choices=list(lirpa.METHODS))
    parser.add_argument("--batches", nargs="+", type=int, help="1 and 32; with --quick 1")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with networks/, vnncomp/, mnist/, cifar10/")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on")
    parser.add_argument("--alone", action="store_true", help="without auto_LiRPA")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/PERFORMANCE.md")
    arguments = parser.parse_args()
    arguments.batches = arguments.batches or ([1] if arguments.quick else [1, 32])
    measure.pin(arguments.core)
    measure.warm()
    arguments.compare = not arguments.alone and lirpa.version() is not None
    if not arguments.compare:
        print("auto_LiRPA is not installed or not wanted: only our own figures", flush=True)
    lines = [_about()]
    print(lines[0], flush=True)
    for header, rows in ((HEADER, cells(arguments)), (HAND_HEADER, _hand_rows(arguments))):
        for number, row in enumerate(rows):
            new = ["", *_head(header)] if number == 0 else []
            new.append(_line(row))
            print("\n".join(new), flush=True)
            lines += new
    if arguments.write:
        _write(lines)


if __name__ == "__main__":
    main()
