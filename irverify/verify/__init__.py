"""The staged driver that decides properties, and the verdicts it gives."""

from __future__ import annotations

from irverify.verify.driver import verify
from irverify.verify.problem import Options
from irverify.verify.verdict import Counterexample, Stage, Verdict

__all__ = ["Counterexample", "Options", "Stage", "Verdict", "verify"]
