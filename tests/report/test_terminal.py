"""Tables and pictures for a terminal, exactly."""

from __future__ import annotations

import numpy as np

from irverify.report.picture import picture, side_by_side, signs
from irverify.report.tables import number, table


def test_table() -> None:
    text = table(("name", "count"), [("a", "1"), ("long one", "12")], numbers=("count",)).render()
    assert text.splitlines() == [
        "name       count",
        "────────────────",
        "a              1",
        "long one      12",
    ]


def test_cells_are_not_read_as_markup() -> None:
    assert "[red]x[/red]" in table(("a",), [("[red]x[/red]",)]).render()


def test_numbers() -> None:
    assert [number(value) for value in (None, 1.0, 1234.5678, -0.000012345)] == ["-", "1", "1235", "-1.234e-05"]


def test_pictures() -> None:
    image = np.array([[0.0, 0.5], [1.0, 2.0]])
    assert picture(image) == ["  ▒▒", "████"]
    assert signs(image - 0.5) == [" - .", " + +"]
    assert side_by_side([picture(image), signs(image)], ["one", "two"]) == "one    two\n  ▒▒    . +\n████    + +"
