"""Sweeps as tables: what became of the images, the accuracies as in paper 1's table 7, what each stage did."""

from __future__ import annotations

from collections.abc import Sequence

from irverify.certify.outcome import STATUSES, Sweep
from irverify.report.tables import table

COUNTS = ("eps", "images", "correct", *STATUSES, "seconds", "images/s")
ACCURACIES = (
    "eps", "test accuracy", "attack", "upper bound", "provable", "unstable ReLUs", "searched", "build (s)", "solve (s)",
)  # fmt: skip
STAGES = ("eps", "stage", "certified", "falsified", "seconds")


def sweep_tables(sweeps: Sequence[Sweep]) -> str:
    """Three tables, a row for each radius, and one for each of its stages in the last. A dash: the method does not
    tell."""
    return "\n".join(
        [
            table(COUNTS, [_counts(sweep) for sweep in sweeps], COUNTS).render(),
            table(ACCURACIES, [_accuracies(sweep) for sweep in sweeps], ACCURACIES).render(),
            table(STAGES, [row for sweep in sweeps for row in _stages(sweep)], tuple({*STAGES} - {"stage"})).render(),
        ]
    )


def _counts(sweep: Sweep) -> tuple[str, ...]:
    n = len(sweep.found)

    def share(count: int) -> str:
        return f"{count} ({100 * count / n:.2f} %)" if count else "0"

    counts = [share(count) for count in (sweep.correct, *sweep.counts().values())]
    rate = f"{n / sweep.seconds:.1f}" if sweep.seconds > 0 else "-"
    images = str(n) if n == len(sweep.indices) else f"{n} of {len(sweep.indices)}"
    return f"{sweep.eps:g}", images, *counts, f"{sweep.seconds:.2f}", rate


def _accuracies(sweep: Sweep) -> tuple[str, ...]:
    said = sweep.accuracies()
    shares = [_shown(share, 100, " %") for share in (said.test, said.attack, said.upper, said.provable)]
    means = [_shown(mean) for mean in (said.unstable, said.build_seconds, said.solve_seconds)]
    return f"{sweep.eps:g}", *shares, means[0], str(said.searched), *means[1:]


def _shown(value: float | None, scale: float = 1.0, unit: str = "") -> str:
    return "-" if value is None else f"{scale * value:.2f}{unit}"


def _stages(sweep: Sweep) -> list[tuple[str, ...]]:
    return [
        (f"{sweep.eps:g}", name, str(row["certified"]), str(row["falsified"]), f"{row['seconds']:.2f}")
        for name, row in sweep.per_stage().items()
    ]
