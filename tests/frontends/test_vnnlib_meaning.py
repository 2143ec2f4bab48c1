"""The cases of a query mean what its text says: direct evaluation of random formulas, strictness included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import IRVerifyError, RegionError
from irverify.frontends.vnnlib import parse_text
from tests.frontends.vnnlib_formulas import Formula, Point, document, formulas, limits, points, satisfied


@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=120, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3), st.lists(points, min_size=8, max_size=8))
def test_disjunctive_form_equals_direct_evaluation(version: int, asserted: list[Formula], tried: list[Point]) -> None:
    if version == 2:
        pytest.importorskip("vnnlib")
    asserted = [*limits(), *asserted]
    expected = [all(formula.holds(point) for formula in asserted) for point in tried]
    try:
        query = parse_text(document(asserted, version))
    except RegionError as error:
        assert "no input satisfies" in str(error) or "every disjunct" in str(error)
        assert not any(expected)
        return
    assert [satisfied(query, point) for point in tried] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3))
def test_float_rows_and_boxes_never_leave_a_satisfying_point_out(asserted: list[Formula]) -> None:
    try:
        query = parse_text(document([*limits(), *asserted], 1))
    except RegionError:
        return
    for case in query.cases:
        (box,) = case.regions
        for low, high, lower, upper in zip(
            case.lower, case.upper, box.lower[0].tolist(), box.upper[0].tolist(), strict=True
        ):
            assert lower <= low <= high <= upper
        for disjunct in case.prop.disjuncts:
            for row, offset in zip(disjunct.rows, disjunct.offset.tolist(), strict=True):
                scaled = row.scaled()
                assert offset <= scaled.offset


PIECES = [
    "(",
    ")",
    "assert",
    "declare-const",
    "X_0",
    "X_1",
    "Y_0",
    "Real",
    "and",
    "or",
    "<=",
    ">",
    "=",
    "+",
    "-",
    "*",
    "/",
]
PIECES += ["1", "-2.5", "1e5", "0", "true", ";x", "\n", " ", "Int", "check-sat", "X_", '"', "|", "é"]
COMPLETE = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= Y_0 0))"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.booleans())
def test_nothing_but_our_own_errors_comes_out_of_the_first_version(pieces: list[str], prefixed: bool) -> None:
    words = " ".join(pieces)
    try:
        parse_text(COMPLETE + words if prefixed else words)
    except IRVerifyError as error:
        assert str(error)


SECOND = """(vnnlib-version <2.0>)
(declare-network N (declare-input X float32 [2]) (declare-output Y float32 [1]))
(assert (and (>= X[0] 0.0) (<= X[0] 1.0)))
(assert (== X[1] 0.5))
(assert (or (< Y[0] (* 2.0 X[0])) (!= Y[0] 1.0)))
"""


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_but_our_own_errors_comes_out_of_the_second_version(data: st.DataObject) -> None:
    pytest.importorskip("vnnlib")
    start = data.draw(st.integers(0, len(SECOND) - 1))
    end = data.draw(st.integers(start, min(len(SECOND), start + 12)))
    put = data.draw(st.sampled_from(["", "(", ")", "1.0", "-", "X[0]", "Y", "\x00", "99999999999999999999", "é", '"']))
    try:
        parse_text(SECOND[:start] + put + SECOND[end:])
    except IRVerifyError as error:
        assert str(error)
