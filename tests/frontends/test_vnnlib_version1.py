"""VNN-LIB 1.0: queries by hand, and messages that name file and line."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path

import pytest

from irverify.errors import FileError, IRVerifyError, ParseError, PropertyError, RegionError, UnsupportedError
from irverify.frontends.vnnlib import parse_query, parse_text
from irverify.properties import Row

DECLARED = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOXED = DECLARED + "(assert (>= X_0 -1))(assert (<= X_0 0.1))(assert (>= X_1 0))(assert (<= X_1 1e-1))\n"
TENTH = Fraction(1, 10)


def test_box_and_rows() -> None:
    query = parse_text(
        "; a comment (with ( parentheses\n" + BOXED + "(assert (<= Y_0 Y_1))\n(assert (> Y_1 2.5)) ; end"
    )
    (case,) = query.cases
    assert (query.version, query.n_in, query.n_out, query.network) == ("1.0", 2, 2, None)
    assert list(map(float, case.lower)) == [-1, 0]
    assert case.upper == (TENTH, TENTH)
    (disjunct,) = case.prop.disjuncts
    assert disjunct.outputs.tolist() == [[1, -1], [0, -1]]
    assert disjunct.offset.tolist() == [0, 2.5]
    assert disjunct.strict is not None
    assert disjunct.strict.tolist() == [False, True]
    assert disjunct.inputs is None


def test_a_disjunction_of_boxes_gives_cases_and_equal_boxes_are_one() -> None:
    query = parse_text(
        DECLARED
        + "(assert (>= X_1 0))(assert (<= X_1 1))"
        + "(assert (or (and (>= X_0 0) (<= X_0 1) (>= Y_0 5)) (and (>= X_0 2) (<= X_0 3)) (and (<= X_0 1) (>= X_0 0))))"
        + "(assert (or (<= Y_0 0) (<= Y_1 0)))"
    )
    assert [(float(case.lower[0]), float(case.upper[0])) for case in query.cases] == [(0, 1), (2, 3)]
    assert [len(case.prop.disjuncts) for case in query.cases] == [4, 2]


def test_an_empty_disjunct_is_dropped_and_no_other() -> None:
    query = parse_text(BOXED + "(assert (or (and (>= X_0 5) (<= Y_0 0)) (and (< X_1 0) (<= Y_0 0)) (<= Y_1 0)))")
    (case,) = query.cases
    assert [disjunct.rows for disjunct in case.prop.disjuncts] == [(Row((), ((1, Fraction(1)),), Fraction(0)),)]


def test_mixed_and_multivariable_constraints_are_rows() -> None:
    query = parse_text(BOXED + "(assert (<= (+ X_0 (* 2 X_1)) 0.3))(assert (>= Y_0 (- X_0 1)))")
    (disjunct,) = query.cases[0].prop.disjuncts
    one = Fraction(1)
    assert disjunct.rows == (
        Row(((0, one), (1, 2 * one)), (), Fraction(-3, 10)),
        Row(((0, one),), ((0, -one),), -one),
    )
    assert disjunct.inputs is not None
    assert disjunct.inputs.tolist() == [[1, 2], [1, 0]]


def test_strict_input_bounds_close_the_box_and_stay_in_a_row() -> None:
    query = parse_text(DECLARED + "(assert (and (> X_0 0) (< X_0 1) (<= X_0 0.5) (>= X_1 0) (<= X_1 1) (<= Y_0 0)))")
    (case,) = query.cases
    assert [float(case.lower[0]), float(case.upper[0])] == [0, 0.5]
    inside, edge, y = (Fraction(1, 4), Fraction(0)), (Fraction(0), Fraction(0)), (Fraction(0), Fraction(0))
    assert case.contains(edge)
    assert case.prop.violated(inside, y)
    assert not case.prop.violated(edge, y)
    assert len(case.prop.disjuncts[0].rows) == 2  # X_0 < 1 excludes nothing of X_0 <= 0.5


def test_only_inputs_constrained_is_satisfied_everywhere_in_the_box() -> None:
    (case,) = parse_text(BOXED).cases
    assert case.prop.violated((Fraction(0),) * 2, (Fraction(7),) * 2)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-0.5", "-1/2"),
        ("1e-3", "1/1000"),
        ("+2.5E+1", 25),
        (".5", "1/2"),
        ("5.", 5),
        ("(- 3)", -3),
        ("(/ 1 3)", "1/3"),
        ("(* 2 (+ 1 0.5))", 3),
        ("(- 1 2 3)", -4),
    ],
)
def test_numbers_are_exact(written: str, value: int | str) -> None:
    (case,) = parse_text(BOXED + f"(assert (<= Y_0 {written}))").cases
    assert case.prop.disjuncts[0].rows == (Row((), ((0, Fraction(1)),), -Fraction(value)),)


def test_equality_chains_and_other_commands() -> None:
    text = "(set-logic QF_LRA)(declare-fun X_0 () Real)(declare-const Y_0 Real)(assert (= X_0 0.1))"
    (case,) = parse_text(text + "(assert (<= 0 Y_0 1))(check-sat)(get-model)(exit)").cases
    assert (case.lower, case.upper) == ((TENTH,), (TENTH,))
    assert len(case.prop.disjuncts[0].rows) == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ParseError, "declares no inputs"),
        (DECLARED, ParseError, "asserts nothing"),
        ("(declare-const X_0 Real)(assert (<= X_0 1))", ParseError, "declares no outputs"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)(declare-const Y_0 Real)", ParseError, "X_1 is not"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", ParseError, "line 2: X_0 is declared twice"),
        ("(declare-const Z_0 Real)", ParseError, "expected a constant X_i or Y_j, got 'Z_0'"),
        ("(declare-const X_0 Int)", UnsupportedError, "X_0 has type 'Int'"),
        ("(declare-const X_0)", ParseError, "a type behind X_0"),
        (BOXED + "\n(assert (<= Y_7 0))", ParseError, "line 7: 'Y_7' is undeclared"),
        (BOXED + "(assert (<= Y_0 0)", ParseError, "line 6: this parenthesis is never closed"),
        (BOXED + "(assert (<= Y_0 0)))", ParseError, "a closing parenthesis too many"),
        (BOXED + "nonsense", ParseError, "only commands in parentheses"),
        (BOXED + "(frobnicate)", UnsupportedError, "unknown command 'frobnicate'"),
        (BOXED + "(assert (not (<= Y_0 0)))", UnsupportedError, "unknown operator 'not'"),
        (BOXED + "(assert (<= (* Y_0 Y_1) 0))", UnsupportedError, "product of variables"),
        (BOXED + "(assert (<= (/ 1 Y_1) 0))", UnsupportedError, "division by a variable"),
        (BOXED + "(assert (<= (/ Y_1 0) 0))", ParseError, "division by zero"),
        (BOXED + "(assert (<= Y_0))", ParseError, "takes two numbers"),
        (BOXED + "(assert (<= Y_0 (and)))", ParseError, "and of nothing"),
        (BOXED + "(assert (<= Y_0 (<= Y_0 1)))", ParseError, "<= takes numbers only"),
        (BOXED + "(assert (and Y_0))", ParseError, "and takes formulas only"),
        (BOXED + "(assert (+ Y_0 1))", ParseError, "expected a formula, got a number"),
        (BOXED + "(assert (<= Y_0 1) (<= Y_1 1))", ParseError, "assert takes one formula, got 2"),
        (BOXED + "(assert ((<= Y_0 1)))", ParseError, "expected an operator"),
        (BOXED + "(assert (<= Y_0 1e999999999))", ParseError, "a number that is too long"),
        (BOXED + "(assert (<= Y_0 1e400))", PropertyError, "finite numbers"),
        (
            DECLARED + "(assert (<= X_0 1))(assert (>= X_1 0))",
            RegionError,
            "without a lower or an upper bound: X_0, X_1",
        ),
        (BOXED + "(assert (>= X_1 3))", RegionError, "no input satisfies the constraints: X_1 is to be at least 3.0"),
        (BOXED + "(assert (or (>= X_1 3) (<= X_0 -2)))", RegionError, "every disjunct has an empty input box: X_1"),
        (BOXED + "(assert (< X_1 0))", RegionError, "X_1"),
        (BOXED + "(assert (<= 2 1))", RegionError, "without variables is false"),
        (BOXED.replace("0.1", "1e400"), RegionError, "not finite"),
    ],
)
def test_messages(text: str, error: type[IRVerifyError], message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        _ = parse_text(text).cases[0].regions


def test_blow_up_is_refused() -> None:
    branch = "(assert (or (<= Y_0 0) (<= Y_1 0)))"
    with pytest.raises(PropertyError, match="131072 disjuncts"):
        parse_text(BOXED + branch * 17)


def test_depth_and_length_do_not_matter() -> None:
    deep = "(assert " + "(and " * 20_000 + "(<= Y_0 0)" + ")" * 20_000 + ")"
    assert len(parse_text(BOXED + deep).cases) == 1
    count = 5_000
    lines = [f"(declare-const X_{i} Real)" for i in range(count)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} 0))\n(assert (<= X_{i} 1))" for i in range(count)]
    assert parse_text("\n".join(lines)).n_in == count


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.vnnlib").write_text(BOXED)
    (tmp_path / "a.vnnlib.gz").write_bytes(gzip.compress(BOXED.encode()))
    for name in ("a.vnnlib", "a.vnnlib.gz"):
        assert parse_query(tmp_path / name).source == str(tmp_path / name)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(BOXED.encode())[:-12])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("cut.gz", "binary", "missing", "."):
        with pytest.raises(FileError, match=name):
            parse_query(tmp_path / name)
