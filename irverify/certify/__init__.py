"""Data-set sweeps: which images of a data set are certified, falsified, or neither."""

from __future__ import annotations

from irverify.certify.analysis import ByAnalysis, Settings
from irverify.certify.cascade import Ball, Cascade, CascadeSweep, Passage, Visit
from irverify.certify.cascade_file import load_cascade, save_cascade
from irverify.certify.certifier import Certifier
from irverify.certify.combination import Combination
from irverify.certify.crew import Crew
from irverify.certify.driver import ByDriver
from irverify.certify.outcome import Accuracies, Outcome, Sweep
from irverify.certify.question import Question
from irverify.certify.store import Store

__all__ = [
    "Accuracies",
    "Ball",
    "ByAnalysis",
    "ByDriver",
    "Cascade",
    "CascadeSweep",
    "Certifier",
    "Combination",
    "Crew",
    "Outcome",
    "Passage",
    "Question",
    "Settings",
    "Store",
    "Sweep",
    "Visit",
    "load_cascade",
    "save_cascade",
]
