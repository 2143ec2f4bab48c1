"""The support table, and its copy in the documentation."""

from __future__ import annotations

from pathlib import Path

from irverify.ir.ops import OPERATORS
from irverify.passes.support import METHODS
from irverify.report.support import PIECEWISE, support_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "support.md"


def test_a_row_for_every_operator_and_a_column_for_every_method() -> None:
    lines = support_table().splitlines()
    headings = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert headings[:3] == ["operator", "interval", "ibp"]
    assert headings[-1] == "lp, lp-tighten, milp-tighten, exact"
    assert {name for heading in headings[1:-1] for name in heading.split(", ")} == set(METHODS)
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines[2 : 2 + len(OPERATORS)])}
    assert list(rows) == list(OPERATORS)
    assert rows["relu"][-2].strip() == "yes"
    assert rows["sigmoid"][-2].strip().startswith("no [")
    assert PIECEWISE in support_table()


def test_the_page_is_current() -> None:
    said = "the page is made by `irverify supports --analyses`: put its output there"
    assert support_table().strip() in PAGE.read_text(encoding="utf-8"), said
