"""Data-set sweeps: which images of a data set are certified, falsified, or neither."""

from __future__ import annotations

from irverify.certify.analysis import ByAnalysis, Settings
from irverify.certify.driver import ByDriver
from irverify.certify.outcome import Outcome, Sweep
from irverify.certify.question import Question

__all__ = ["ByAnalysis", "ByDriver", "Outcome", "Question", "Settings", "Sweep"]
