"""Sweeps through a cascade as tables: how many images stay at each stage, and how well they fare there."""

from __future__ import annotations

from collections.abc import Sequence

from irverify.certify.cascade import CascadeSweep
from irverify.report.tables import table

ALL = ("eps", "images", "standard error", "certified (cascade) error", "errors", "seconds")
STAGES = (
    "eps", "stage", "reached", "stay", "standard error", "certified (cascade) error",
    "standard error up to here", "certified (cascade) error up to here",
)  # fmt: skip
TRAINED = ("stage", "trained on", "certifies", "leaves")
NOTE = (
    "certified (cascade): the stage that the image stays at certifies its label. An input near it may take another\n"
    "stage: no verdict about the cascade as a whole.\n"
)


def cascade_tables(sweeps: Sequence[CascadeSweep]) -> str:
    """A row for each radius; then a row for each stage: errors of the images that stay at it, and of all images had the
    cascade ended there (for stage 1, the first network alone). A note says what is claimed."""
    return "\n".join(
        [
            table(ALL, [_all(sweep) for sweep in sweeps], ALL).render(),
            table(STAGES, [row for sweep in sweeps for row in _stages(sweep)], STAGES).render(),
            NOTE,
        ]
    )


def stage_table(counts: Sequence[tuple[int, int]]) -> str:
    """A row for each stage: the images that it was trained on, those of them that it certifies, and what is left."""
    rows = [
        (str(stage), str(images), str(images - left), str(left)) for stage, (images, left) in enumerate(counts, start=1)
    ]
    return table(TRAINED, rows, TRAINED).render()


def _all(sweep: CascadeSweep) -> tuple[str, ...]:
    n = len(sweep.found)
    images = str(n) if n == len(sweep.indices) else f"{n} of {len(sweep.indices)}"
    errors = (_error(sweep.correct, n), _error(sweep.certified_cascade, n))
    return f"{sweep.ball.eps:g}", images, *errors, str(sweep.errors), f"{sweep.seconds:.2f}"


def _stages(sweep: CascadeSweep) -> list[tuple[str, ...]]:
    n = len(sweep.found)
    return [
        (
            f"{sweep.ball.eps:g}", str(stage.stage), str(stage.reached), str(stage.stay),
            _error(stage.correct, stage.stay), _error(stage.certified_cascade, stage.stay),
            _error(stage.correct_up_to_here, n), _error(stage.certified_up_to_here, n),
        )
        for stage in sweep.per_stage()
    ]  # fmt: skip


def _error(right: int, of: int) -> str:
    return f"{100 * (of - right) / of:.2f} %" if of else "-"
