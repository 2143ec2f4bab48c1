"""Properties of networks, stated through their violation, and the queries of VNN-LIB files."""

from __future__ import annotations

from irverify.properties.build import all_of, any_of, linear, robust
from irverify.properties.query import Case, Declaration, Query
from irverify.properties.rows import LIMIT, Disjunct, Property, Row, Stack

__all__ = [
    "LIMIT",
    "Case",
    "Declaration",
    "Disjunct",
    "Property",
    "Query",
    "Row",
    "Stack",
    "all_of",
    "any_of",
    "linear",
    "robust",
]
