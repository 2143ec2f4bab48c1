"""Answers: what is printed reads back as a point that satisfies the query exactly."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import FileError, PropertyError
from irverify.frontends.vnnlib import assignment_text, parse_text, serialise_assignment, witness_text
from irverify.frontends.vnnlib.answers import decimal
from irverify.frontends.vnnlib.sexpr import read
from irverify.properties import Case, Declaration, Disjunct, Property, Query

OUTPUTS = (Declaration("Y", "float32", (1, 2)),)


def query(lower: list[Fraction], upper: list[Fraction], **fields: object) -> Query:
    inputs = (Declaration("X", "float32", (len(lower),)),)
    case = Case(tuple(lower), tuple(upper), Property((Disjunct.of_rows([], len(lower), 2),)), inputs)
    return Query((case,), inputs, OUTPUTS, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "printed"),
    [(0, "0.0"), ("1/10", "0.1"), ("-3/2", "-1.5"), (12, "12.0"), ("1/1024", "0.0009765625"), ("-1/10000", "-0.0001")],
)
def test_decimals(value: int | str, printed: str) -> None:
    assert decimal(Fraction(value)) == printed


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_printed_exactly(value: float) -> None:
    assert Fraction(decimal(Fraction(value))) == Fraction(value)


def test_a_third_is_rounded() -> None:
    assert decimal(Fraction(1, 3)) == "0." + "3" * 60


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.decimals(-3, 3, places=5), st.integers(0, 3)), min_size=1, max_size=4), st.integers(0, 99))
def test_a_printed_witness_lies_in_the_box(corners: list[tuple[object, int]], seed: int) -> None:
    lower = [Fraction(str(low)) for low, _ in corners]
    upper = [low + Fraction(width, 10**5) for low, (_, width) in zip(lower, corners, strict=True)]
    asked = query(lower, upper)
    for dtype in (torch.float32, torch.float64):
        (box,) = asked.cases[0].inner(dtype)
        (run,) = box.sample(1, torch.Generator().manual_seed(seed))
        point = asked.witness((run,), (torch.tensor([1.0, 2.0]),))
        assert point is not None
        text = witness_text(asked, point, (0.5, -2.0))
        (group,) = read(text, "witness")
        pairs = {str(pair[0]): str(pair[1]) for pair in group}
        again = [Fraction(pairs[f"X_{index}"]) for index in range(len(lower))]
        assert asked.cases[0].contains(again)
        nearest = torch.tensor([float(value) for value in again], dtype=torch.float64).to(dtype)
        assert torch.equal(nearest, run[0])  # who reads it runs the model on the same numbers
        assert pairs["Y_1"] == "-2.0"


def test_witness_text() -> None:
    asked = query([Fraction(1, 10)] * 2, [Fraction(1, 10)] * 2)
    expected = "((X_0 0.1)\n(X_1 0.1)\n(Y_0 1.0)\n(Y_1 -0.5))"
    assert witness_text(asked, asked.cases[0].lower, torch.tensor([[1.0, -0.5]])) == expected
    with pytest.raises(PropertyError, match="expected 2 inputs and 2 outputs, got 2 and 1"):
        witness_text(asked, (0.1, 0.1), (1.0,))
    with pytest.raises(PropertyError, match="not finite"):
        witness_text(asked, (0.1, 0.1), (1.0, float("nan")))


HIDDEN = {"hidden": (Declaration("H", "int32", (1,), "inner"),), "version": "2.0"}


def test_assignment_text_has_hidden_values_between_inputs_and_outputs() -> None:
    asked = query([Fraction(0)], [Fraction(1)], **HIDDEN)
    text = assignment_text(asked, (Fraction(1, 2),), (1.5, 2.5, 7.0))
    assert text == "X float32 [1]\n0.5\nH int32 [1]\n7\nY float32 [1,2]\n1.5\n2.5"


def test_serialised_assignment(tmp_path: Path) -> None:
    asked = query([Fraction(0)], [Fraction(1)], **HIDDEN)
    files = serialise_assignment(asked, (Fraction(1, 2),), (1.5, 2.5, 7.0), tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["X.pb", "H.pb", "Y.pb"]
    tensors = [onnx.load_tensor(str(file)) for file in files]
    assert [tensor.data_type for tensor in tensors] == [
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT32,
        onnx.TensorProto.FLOAT,
    ]
    assert onnx.numpy_helper.to_array(tensors[2]).tolist() == [[1.5, 2.5]]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        serialise_assignment(asked, (Fraction(1, 2),), (1.5, 2.5, 7.0), tmp_path / "file")


@pytest.mark.parametrize("dtype", ["real", "float64", "float16", "bfloat16", "int64", "uint8"])
def test_serialised_types(dtype: str, tmp_path: Path) -> None:
    asked = Query((), (Declaration("X", dtype, (2,)),), (), version="2.0")
    (file,) = serialise_assignment(asked, (1.0, 2.0), (), tmp_path)
    assert onnx.numpy_helper.to_array(onnx.load_tensor(str(file))).astype(float).tolist() == [1.0, 2.0]


def test_a_second_version_query_from_text_to_assignment() -> None:
    pytest.importorskip("vnnlib")
    asked = parse_text(
        "(vnnlib-version <2.0>)(declare-network N (declare-input X real [1]) (declare-output Y real [1]))"
        "(assert (== X[0] 0.3))(assert (>= Y[0] 1.0))"
    )
    run = asked.cases[0].inner(torch.float32)[0].center
    point = asked.witness((run,), (torch.ones(1),))
    assert point is not None
    assert re.sub("\n", " ", assignment_text(asked, point, torch.ones(1))) == "X real [1] 0.3 Y real [1] 1.0"
