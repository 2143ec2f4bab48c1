"""Which methods can certify: pipelines that end in an analysis with bounds of the margins. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from irverify.errors import UsageError
from irverify.pipeline.catalog import CATALOG, find
from irverify.pipeline.text import parse_pipeline

WITHOUT_BOUNDS = ("gap", "stability")
"""Analyses that say something else."""


def check_certifies(method: str, place: str, *, others: Sequence[str] = ()) -> None:
    """Raises UsageError where a pipeline text does not end in an analysis whose bounds certify, or changes the function
    on the way; `place` is the option or entry that gives it, `others` what that takes beside pipelines."""
    steps = parse_pipeline(method)
    last = find(steps[-1].name) if steps else None
    if last is None or last.kind != "analysis" or last.name in WITHOUT_BOUNDS:
        methods = [entry.name for entry in CATALOG.values() if entry.kind == "analysis"]
        known = ", ".join((*(name for name in methods if name not in WITHOUT_BOUNDS), *others))
        reason = "an estimate proves nothing" if last is not None and last.kind == "estimator" else "it gives no bounds"
        raise UsageError(f"{place} {method} certifies nothing: {reason}", hint=f"there are {known}")
    changing = [step.name for step in steps if find(step.name).changes]
    if changing:
        hint = "write the changed network first: `irverify compile MODEL --passes ... -o CHANGED.onnx`"
        reason = f"{', '.join(changing)} would leave another function than the network's"
        raise UsageError(f"{place} {method} certifies nothing of the network: {reason}", hint=hint)
