"""Passes and the machinery that runs them: the pipeline text, facts, the pass manager, and specifications.

Everything is imported on first use, so that the catalog of passes can be read without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irverify.pipeline.base import Analysis as Analysis
    from irverify.pipeline.base import Estimator as Estimator
    from irverify.pipeline.base import Pass as Pass
    from irverify.pipeline.base import Rewrite as Rewrite
    from irverify.pipeline.base import load as load
    from irverify.pipeline.base import parse_passes as parse_passes
    from irverify.pipeline.base import register as register
    from irverify.pipeline.catalog import CATALOG as CATALOG
    from irverify.pipeline.catalog import Entry as Entry
    from irverify.pipeline.catalog import Option as Option
    from irverify.pipeline.facts import Bounds as Bounds
    from irverify.pipeline.facts import BoundsFault as BoundsFault
    from irverify.pipeline.facts import Estimate as Estimate
    from irverify.pipeline.facts import Facts as Facts
    from irverify.pipeline.facts import Stability as Stability
    from irverify.pipeline.manager import PassManager as PassManager
    from irverify.pipeline.manager import optimize as optimize
    from irverify.pipeline.manager import run as run
    from irverify.pipeline.rows import estimates as estimates
    from irverify.pipeline.rows import margins as margins
    from irverify.pipeline.rows import row_bounds as row_bounds
    from irverify.pipeline.spec import with_spec as with_spec
    from irverify.pipeline.state import State as State
    from irverify.pipeline.state import Timing as Timing
    from irverify.pipeline.text import Step as Step
    from irverify.pipeline.text import parse_pipeline as parse_pipeline
    from irverify.pipeline.text import print_pipeline as print_pipeline

_HOME = {
    "CATALOG": "catalog",
    "Entry": "catalog",
    "Option": "catalog",
    "Bounds": "facts",
    "BoundsFault": "facts",
    "Estimate": "facts",
    "Facts": "facts",
    "Stability": "facts",
    "PassManager": "manager",
    "optimize": "manager",
    "run": "manager",
    "Analysis": "base",
    "Estimator": "base",
    "Pass": "base",
    "Rewrite": "base",
    "load": "base",
    "parse_passes": "base",
    "register": "base",
    "estimates": "rows",
    "margins": "rows",
    "row_bounds": "rows",
    "with_spec": "spec",
    "State": "state",
    "Timing": "state",
    "Step": "text",
    "parse_pipeline": "text",
    "print_pipeline": "text",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*_HOME, *globals()})
