"""Models as protocol buffers of OR-Tools MathOpt. Needs none of its solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
from ortools.math_opt import model_pb2

from irverify.backends.milp.model import MilpModel


def to_proto(model: MilpModel, *, names: bool = False) -> Any:
    """The model as a `ModelProto`; ids are positions."""
    proto = model_pb2.ModelProto()
    m, n = model.size
    variables, rows = proto.variables, proto.linear_constraints
    variables.ids.extend(np.arange(n))
    variables.lower_bounds.extend(model.lower)
    variables.upper_bounds.extend(model.upper)
    variables.integers.extend(model.integer)
    rows.ids.extend(np.arange(m))
    rows.lower_bounds.extend(model.row_lower)
    rows.upper_bounds.extend(model.row_upper)
    if names:
        variables.names.extend(model.variable_names())
        rows.names.extend(model.row_names())
    matrix = model.rows if model.rows.has_sorted_indices else model.rows.sorted_indices()
    entries = proto.linear_constraint_matrix
    entries.row_ids.extend(np.repeat(np.arange(m), np.diff(matrix.indptr)))
    entries.column_ids.extend(matrix.indices)
    entries.coefficients.extend(matrix.data)
    used = np.flatnonzero(model.objective)
    proto.objective.linear_coefficients.ids.extend(used)
    proto.objective.linear_coefficients.values.extend(model.objective[used])
    proto.objective.offset = model.offset
    return proto
