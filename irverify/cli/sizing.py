"""What `--stats` measures sizes over, and how those before and after a pipeline are told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from irverify.errors import UsageError

if TYPE_CHECKING:
    from irverify.cli.regions import Situation
    from irverify.ir.graph import Graph
    from irverify.report import sizes


def check_limit(seconds: float | None, stats: bool) -> None:
    """Raises UsageError where `--solve` makes no sense."""
    if seconds is not None and not (stats and 0 < seconds < math.inf):
        raise UsageError(f"expected --solve to be a positive number of seconds, with --stats, got {seconds}")


def measured_over(known: Situation | None, passes: str, limit: float | None) -> sizes.Situation:
    """The regions, where there are any, the analyses of the pipeline, and the seconds for each solve."""
    from irverify.pipeline.text import parse_pipeline
    from irverify.report import sizes

    if known is None:
        return sizes.Situation()
    analyses = sizes.analyses_of([str(step) for step in parse_pipeline(passes)])
    return sizes.Situation(known.regions, known.labels, analyses, known.props, limit)


def before_and_after(
    graphs: tuple[Graph, Graph], known: Situation | None, passes: str, limit: float | None
) -> tuple[sizes.Size, sizes.Size]:
    """Both sizes, over the same regions and by the analyses of the pipeline."""
    from irverify.report.sizes import size_of

    where = measured_over(known, passes, limit)
    before, after = graphs
    return size_of(before, where), size_of(after, where)


def size_texts(found: tuple[sizes.Size, sizes.Size] | None) -> list[str]:
    from irverify.report.sizes import size_table

    return [] if found is None else [size_table(*found)]


def sizes_content(found: tuple[sizes.Size, sizes.Size] | None) -> dict[str, object]:
    from dataclasses import asdict

    return {} if found is None else {"before": asdict(found[0]), "after": asdict(found[1])}
