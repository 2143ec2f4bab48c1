"""Attacks: searches for a point of the region at which a property is violated. What they find are candidates, no
verdicts.

A candidate becomes a counterexample only when it is replayed on the source model (`irverify.verify.replay`).
"""

from __future__ import annotations

from irverify.attacks.descent import Found, attack, pgd
from irverify.attacks.labels import has_label, keeps_label
from irverify.attacks.protocols import PROTOCOLS, Pgd, protocol
from irverify.attacks.targets import Candidate, Target

__all__ = ["PROTOCOLS", "Candidate", "Found", "Pgd", "Target", "attack", "has_label", "keeps_label", "pgd", "protocol"]
