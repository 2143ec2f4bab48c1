"""Small grey pictures in a terminal, drawn with characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHADES = " ░▒▓█"
PLAIN = " .:*#"

Image = NDArray[np.float64]


def picture(image: Image, low: float = 0.0, high: float = 1.0, shades: str = SHADES) -> list[str]:
    """The lines of a picture of a grey image [h, w]: `low` is the first shade, `high` the last."""
    levels = np.clip((np.asarray(image) - low) / (high - low), 0, 1) * (len(shades) - 1)
    return ["".join(shades[round(float(level))] * 2 for level in row) for row in levels]


def signs(difference: Image, tolerance: float = 0.0) -> list[str]:
    """The lines of a picture of what was changed [h, w]: `+` brighter, `-` darker, `.` as it was."""
    return ["".join(" +" if d > tolerance else " -" if d < -tolerance else " ." for d in row) for row in difference]


def side_by_side(pictures: Sequence[Sequence[str]], captions: Sequence[str], gap: str = "   ") -> str:
    """Pictures of equal height next to each other under their captions."""
    widths = [max(len(caption), *map(len, lines)) for caption, lines in zip(captions, pictures, strict=True)]
    rows = [captions, *zip(*pictures, strict=True)]
    return "\n".join(
        gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
