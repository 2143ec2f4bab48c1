"""All lowering rules by operator, assembled from the rooms."""

from __future__ import annotations

from irverify.frontends.onnx import (
    arithmetic,
    elementwise,
    folding,
    linear,
    logic,
    pooling,
    resizing,
    selecting,
    shaping,
)
from irverify.frontends.onnx.lowering import Rule

RULES: dict[str, Rule] = {
    **folding.SHAPES,
    **arithmetic.RULES,
    **elementwise.RULES,
    **linear.RULES,
    **logic.RULES,
    **pooling.RULES,
    **resizing.RULES,
    **selecting.RULES,
    **shaping.RULES,
}
"""Operator -> how it is lowered, whatever its operands are."""

FOLDS: dict[str, Rule] = {**folding.FOLDS, "Cast": logic.cast, "CastLike": logic.cast_like, "Expand": shaping.expand}
"""Operator -> how it is computed where all its operands are constants, in preference to its rule."""


def supported_operators() -> tuple[str, ...]:
    """The ONNX operators that a model may use, in alphabetical order; constants may pass through those of FOLDS too."""
    return tuple(sorted({*RULES, "Constant", "ConstantOfShape", "Range"}))
