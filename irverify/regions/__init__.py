"""Input sets: boxes and balls over one tensor, with clipping to a valid range.

Every tensor of a region is [batch, *shape]; radii are in the model's raw input units.
"""

from __future__ import annotations

from irverify.regions.balls import L1, L2, Ball, Linf
from irverify.regions.base import Box, Region
from irverify.regions.inputs import regions_for
from irverify.regions.joining import join

__all__ = ["L1", "L2", "Ball", "Box", "Linf", "Region", "join", "regions_for"]
