"""VNN-LIB 2.0 through the standard's parser: queries by hand, its traps, and messages."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest

from irverify.errors import IRVerifyError, ParseError, RegionError, UnsupportedError
from irverify.frontends.vnnlib import parse_text
from irverify.properties import Declaration, Row

pytest.importorskip("vnnlib")
ONE = Fraction(1)


def query_text(
    *asserted: str, inputs: str = "(declare-input X float32 [1,2])", outputs: str = "", more: str = ""
) -> str:
    outputs = outputs or "(declare-output Y float32 [2])"
    box = "(assert (and (>= X[0,0] 0.0) (<= X[0,0] 0.1) (>= X[0,1] -1.0) (<= X[0,1] 1.0)))"
    lines = ["(vnnlib-version <2.0>)", f"(declare-network f {inputs} {outputs})", more, box]
    return "\n".join([*lines, *(f"(assert {formula})" for formula in asserted)])


def test_query() -> None:
    query = parse_text("; first\n\n" + query_text("(or (< Y[0] (* 2.0 X[0,1])) (== Y[1] -0.3))"))
    assert (query.version, query.network, query.n_in, query.n_out) == ("2.0", "f", 2, 2)
    assert query.inputs == (Declaration("X", "float32", (1, 2)),)
    (case,) = query.cases
    assert case.upper == (Fraction(1, 10), ONE)  # 0.1 is read from its digits
    assert case.regions[0].shape == (1, 2)
    third = Fraction(3, 10)
    assert [disjunct.rows for disjunct in case.prop.disjuncts] == [
        (Row(((1, -2 * ONE),), ((0, ONE),), Fraction(0), True),),
        (Row((), ((1, ONE),), third), Row((), ((1, -ONE),), -third)),
    ]


def test_unequal_is_a_disjunction() -> None:
    (case,) = parse_text(query_text("(!= Y[0] 1.0)")).cases
    assert [disjunct.rows[0].strict for disjunct in case.prop.disjuncts] == [True, True]


def test_several_tensors_are_read_one_after_the_other() -> None:
    text = """(vnnlib-version <2.0>)
    (declare-network f (declare-input A real [2]) (declare-input B real []) (declare-hidden H real [2,1] "a\\"b")
                       (declare-output Y real [1]) (declare-output Z int64 [1]))
    (assert (and (== A[0] 1.0) (== A[1] 2.0) (== B 3.0) (<= (- Y[0] H[1,0]) 0.0)))
    (assert (>= Z[0] 4))"""
    query = parse_text(text)
    (case,) = query.cases
    assert case.lower == case.upper == (ONE, 2 * ONE, 3 * ONE)
    assert [region.shape for region in case.regions] == [(2,), ()]
    assert query.hidden == (Declaration("H", "real", (2, 1), 'a"b'),)
    assert case.prop.disjuncts[0].rows == (
        Row((), ((0, ONE), (3, -ONE)), Fraction(0)),  # Y, Z, then H
        Row((), ((1, -ONE),), Fraction(4)),
    )


def test_arithmetic() -> None:
    (case,) = parse_text(query_text("(<= (+ Y[0] (- Y[1] 1.0 X[0,0]) (- Y[0])) (* 2.0 3.0))")).cases
    assert case.prop.disjuncts[0].rows == (Row(((0, -ONE),), ((1, ONE),), -7 * ONE),)


def test_the_real_of_public_files_is_no_unknown_type() -> None:
    query = parse_text(query_text(inputs="(declare-input X Real [1,2])", outputs="(declare-output Y Real [2])"))
    assert query.inputs[0].dtype == query.outputs[0].dtype == "real"


INTEGERS = """(vnnlib-version <2.0>)
(declare-network f (declare-input X int32 [1]) (declare-output Y float32 [1]))
(assert (>= X[0] 0))"""


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (query_text("(<= Z[0] 1.0)"), ParseError, "line 5: Undeclared variable: Z"),
        (query_text("(<= Y[0] 1.0"), ParseError, "line 5: syntax error at column"),
        (query_text("(<= Y[2] 1.0)"), ParseError, "Index out of bounds"),
        (query_text("(<= Y[0] 99999999999999999999999999)"), ParseError, "the parser of VNN-LIB 2.0 failed"),
        (
            query_text("(<= (* Y[0] Y[1]) 1.0)", "(<= (* Y[0] Y[0]) 1.0)"),
            UnsupportedError,
            r"(?s)Y \[1\].*Y \[0\] Y \[0\]",
        ),
        (query_text(outputs="(declare-output Y flaot32 [2])"), UnsupportedError, "Y has the element type flaot32"),
        (INTEGERS, UnsupportedError, "X has the element type int32"),
        (query_text("(" * 500 + ")" * 500), ParseError, "nested 501 deep"),
        (query_text("(>= X[0,0] 2.0)"), RegionError, r"X\[0,0\] is to be at least 2.0"),
        (query_text(inputs="(declare-input X float32 [1,3])"), RegionError, r"upper bound: X\[0,2\]"),
        ("(vnnlib-version <3.0>)", ParseError, "syntax error"),
        (query_text("(<= Y[0] 1.0)").replace("<2.0>", "<3.1>"), ParseError, "found version <3.1>"),
        (
            query_text(more="(declare-network g (declare-input A float32 [1]) (declare-output B foo [1]))"),
            UnsupportedError,
            r"several networks \(f, g\)",
        ),
    ],
)
def test_messages(text: str, error: type[IRVerifyError], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_text(text)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(UnsupportedError, match="needs the package vnnlib"):
        parse_text(query_text())
