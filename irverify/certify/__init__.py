"""Data-set sweeps: which images of a data set are certified, falsified, or neither."""

from __future__ import annotations

from irverify.certify.analysis import ByAnalysis, Settings
from irverify.certify.certifier import Certifier
from irverify.certify.crew import Crew
from irverify.certify.driver import ByDriver
from irverify.certify.outcome import Accuracies, Outcome, Sweep
from irverify.certify.question import Question
from irverify.certify.store import Store

__all__ = [
    "Accuracies",
    "ByAnalysis",
    "ByDriver",
    "Certifier",
    "Crew",
    "Outcome",
    "Question",
    "Settings",
    "Store",
    "Sweep",
]
