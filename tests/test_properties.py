"""Properties and queries: constructors by hand, exactness, disjunctive form, boxes of a query."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.errors import PropertyError, RegionError
from irverify.properties import (
    LIMIT,
    Case,
    Declaration,
    Disjunct,
    Property,
    Query,
    Row,
    all_of,
    any_of,
    linear,
    robust,
)

X = torch.zeros(1)


def holds(prop: Property, y: list[float], x: Tensor = X) -> bool:
    return not prop.bind(len(x), len(y)).violated(x, torch.tensor(y, dtype=torch.float64))


def test_robust() -> None:
    assert holds(robust(1), [0.0, 1.0, 0.5])
    assert not holds(robust(1), [0.0, 1.0, 1.0])  # a tie is a violation
    assert not holds(robust(0), [0.0, 1.0, 0.5])
    stack = robust(1).bind(1, 3).rows()
    assert stack.outputs.tolist() == [[-1, 1, 0], [0, 1, -1]]
    assert stack.members == ((0,), (1,))


@pytest.mark.parametrize("label", [-1, 1.5, True])
def test_robust_wants_a_label(label: int) -> None:
    with pytest.raises(PropertyError, match="expected a label"):
        robust(label)


def test_robust_needs_the_number_of_outputs() -> None:
    with pytest.raises(PropertyError, match="expected 0 to 2, got 3"):
        robust(3).bind(1, 3)
    with pytest.raises(PropertyError, match="one output"):  # nothing to compare with: it would hold vacuously
        robust(0).bind(1, 1)
    with pytest.raises(PropertyError, match="bind"):
        _ = all_of(robust(0), linear([[1.0, 2.0]], [0.0])).disjuncts
    assert repr(any_of(robust(0), robust(1))) == "any_of(robust(0), robust(1))"


def test_linear_is_closed() -> None:
    prop = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, -1.0])
    assert holds(prop, [0.0, 1.0])
    assert not holds(prop, [-1e-300, 1.0])
    assert not holds(prop, [0.0, math.nextafter(1.0, 0)])


def test_any_and_all() -> None:
    either, both = any_of(robust(0), robust(1)), all_of(linear([[1.0, 0, 0]], [0.0]), robust(0))
    assert holds(either, [1.0, 0.0, 0.5])
    assert holds(either, [0.0, 1.0, 0.5])
    assert not holds(either, [0.0, 0.5, 1.0])
    assert not holds(either, [1.0, 1.0, 0.0])
    assert holds(both, [1.0, 0.0, 0.5])
    assert not holds(both, [-1.0, -2.0, -3.0])
    assert not holds(both, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: any_of(), "no property"),
        (lambda: linear([[1.0]], [1.0, 2.0]), "expected C"),
        (lambda: linear([1.0], [1.0]), "expected C"),
        (lambda: linear([[math.nan]], [0.0]), "finite"),
        (lambda: Disjunct(torch.ones(0, 2), torch.ones(0)), "a row at least"),
        (lambda: Disjunct(torch.ones(1, 2), torch.ones(1), torch.ones(2, 2)), "expected A"),
        (lambda: Disjunct(torch.ones(1, 2), torch.ones(1), None, torch.ones(1)), "bool"),
        (lambda: linear([[1.0, 2.0]], [0.0]).bind(1, 3), "over 3 outputs, got 2"),
        (
            lambda: Property((Disjunct(torch.ones(1, 1), torch.ones(1), torch.ones(1, 2)),)).bind(3, 1),
            "3 inputs, got 2",
        ),
        (lambda: Property(()).rows(), "no rows"),
        (lambda: Property((Disjunct(torch.ones(1, 1), torch.ones(1)),) * (LIMIT + 1)), "at most"),
        (lambda: any_of(*[linear(torch.eye(2), torch.zeros(2))] * 17), "more than 100000"),
        (lambda: robust(0).bind(1, 3).decided(torch.zeros(3)), "bounds of 2 rows"),
        (lambda: robust(0).bind(1, 3).decided(torch.zeros(2), math.nan), "margin"),
    ],
)
def test_errors(make: object, message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        make()  # type: ignore[operator]


def test_decided_needs_one_positive_row_of_each_disjunct() -> None:
    zero = torch.zeros(2)
    prop = Property(
        (
            Disjunct(torch.tensor([[1.0, 0], [0, 1.0]]), zero),
            Disjunct(torch.tensor([[0, 1.0]]), zero[:1]),
            Disjunct(torch.tensor([[1.0, 0]]), zero[:1], strict=torch.tensor([True])),
        )
    )
    assert prop.rows().members == ((0, 1), (1,), (2,))
    lower = torch.tensor([[1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 2.0, math.nan], [-1.0, 0.5, 0.5]])
    assert prop.decided(lower).tolist() == [
        [True, False, True],
        [False, False, True],  # 0 refutes `< 0` but not `<= 0`
        [True, True, False],  # NaN refutes nothing
        [True, True, True],
    ]
    assert prop.decided(lower, 0.5).tolist()[3] == [False, False, True]


def test_violation_is_decided_exactly() -> None:
    # 0.1 y0 + 0.2 y1 - 0.3 <= 0 at (1, 1): equality in fractions, 5.6e-17 in floats
    tenth = Fraction(1, 10)
    row = Row((), ((0, tenth), (1, 2 * tenth)), -3 * tenth)
    disjunct = Disjunct.of_rows([row], 0, 2)
    assert disjunct.outputs.tolist() == [[1.0, 2.0]]  # scaled by ten: exact floats
    assert disjunct.offset.tolist() == [-3.0]
    assert disjunct.satisfied((), (Fraction(1), Fraction(1)))
    assert not Disjunct.of_rows([Row((), row.outputs, row.offset, True)], 0, 2).satisfied(
        (), (Fraction(1), Fraction(1))
    )


def test_rounded_rows_remember_the_exact_ones() -> None:
    row = Row((), ((0, Fraction(1)),), -Fraction(1, 3))
    disjunct = Disjunct.of_rows([row], 0, 1)
    assert Fraction(disjunct.offset.item()) < -Fraction(1, 3)
    assert disjunct.satisfied((), (Fraction(1, 3),))
    assert not disjunct.satisfied((), (Fraction(1, 3) + Fraction(1, 10**30),))
    long = Row((), ((0, Fraction("0.12345678901234567891")), (1, Fraction("1e-9"))), Fraction(0))
    assert Disjunct.of_rows([long], 0, 2).outputs.tolist() == [[0.12345678901234567891, 1e-9]]


def test_coefficients_beyond_float64() -> None:
    with pytest.raises(PropertyError, match="outside the range"):
        Disjunct.of_rows([Row((), ((0, Fraction(10) ** 400),), Fraction(0))], 0, 1)
    tiny = Row((), ((0, Fraction(1, 10**400)), (1, Fraction(1))), Fraction(0))
    with pytest.raises(PropertyError, match="outside the range"):
        Disjunct.of_rows([tiny], 0, 2)


def test_nothing_is_shown_by_values_that_are_not_finite() -> None:
    prop = robust(0).bind(1, 2)
    assert not prop.violated(X, torch.tensor([math.nan, 1.0]))
    assert not prop.violated(X, torch.tensor([0.0, math.inf]))


def test_a_conjunction_of_nothing_is_satisfied_everywhere() -> None:
    prop = Property((Disjunct.of_rows([], 1, 2),))
    assert prop.violated(X, torch.zeros(2))
    assert not prop.decided(torch.zeros(1)).any()


numbers = st.integers(-3, 3).map(float)


@st.composite
def properties(draw: st.DrawFn, depth: int = 2) -> Property:
    kind = draw(st.sampled_from(["robust", "linear", "any", "all"] if depth else ["robust", "linear"]))
    if kind == "robust":
        return robust(draw(st.integers(0, 2)))
    if kind == "linear":
        count = draw(st.integers(1, 2))
        return linear([draw(st.tuples(numbers, numbers, numbers)) for _ in range(count)], [draw(numbers)] * count)
    parts = draw(st.lists(properties(depth - 1), min_size=1, max_size=3))
    return (any_of if kind == "any" else all_of)(*parts)


def directly(prop: object, y: list[float]) -> bool:
    """Whether a property holds, by its meaning and not by its rows."""
    parts = getattr(prop, "parts", None)
    if parts is not None:
        values = [directly(part, y) for part in parts]
        return any(values) if getattr(prop, "conjunction", False) else all(values)
    return holds(prop, y)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(properties(), st.lists(numbers, min_size=3, max_size=3))
def test_disjunctive_form_means_the_same(prop: Property, y: list[float]) -> None:
    bound = prop.bind(1, 3)
    assert directly(prop, y) == holds(bound, y)
    stack = bound.rows() if bound.disjuncts else None
    if stack is not None:
        values = stack.outputs @ torch.tensor(y, dtype=torch.float64) + stack.offset
        open_ = ~bound.decided(values)
        assert bool(open_.any()) == bound.violated(X, torch.tensor(y))


# Queries -------------------------------------------------------------------------------------------------------------

TENTH = Fraction(1, 10)
DECLARED = (Declaration("X", "real", (2,)), Declaration("Z", "real", (1, 1)))


def case(lower: tuple[Fraction, ...], upper: tuple[Fraction, ...], *rows: Row) -> Case:
    return Case(lower, upper, Property((Disjunct.of_rows(rows, len(lower), 1),)), DECLARED)


def test_regions_of_a_case_enclose_and_inner_boxes_are_enclosed() -> None:
    one = case((TENTH, Fraction(0), -TENTH), (3 * TENTH, Fraction(1), 7 * TENTH))
    first, second = one.regions
    assert (first.shape, second.shape) == ((2,), (1, 1))
    assert Fraction(first.lower[0, 0].item()) <= TENTH
    assert Fraction(first.upper[0, 0].item()) >= 3 * TENTH
    for dtype in (torch.float32, torch.float64):
        inner, _ = one.inner(dtype)
        assert inner.dtype == dtype
        assert Fraction(inner.lower[0, 0].item()) >= TENTH
        assert Fraction(inner.upper[0, 0].item()) <= 3 * TENTH
        assert one.exact(one.inner(dtype)[0].box()[:1] + one.inner(dtype)[1].box()[:1]) is not None


def test_a_fixed_input_without_a_float_stands_for_its_exact_value() -> None:
    one = case((TENTH,) * 3, (TENTH,) * 3)
    for dtype in (torch.float32, torch.float64):
        run = tuple(box.center for box in one.inner(dtype))
        assert run[0].tolist() == torch.full((1, 2), 0.1, dtype=dtype).tolist()
        assert one.exact(run) == (TENTH,) * 3
        assert one.exact(tuple(part.double() for part in run), dtype) == (TENTH,) * 3
        assert one.exact((run[0] + 1e-3, run[1])) is None
    assert one.exact(tuple(torch.full_like(part, math.nan) for part in run)) is None


def test_points_outside_stand_for_nothing() -> None:
    one = case((Fraction(0),) * 3, (TENTH,) * 3)
    above = torch.tensor([[0.1, 0.0]])  # the float32 0.1 is larger than 0.1
    assert one.exact((above, torch.zeros(1, 1, 1))) is None
    inside = torch.nextafter(above, torch.zeros(1))
    assert one.exact((inside, torch.zeros(1, 1, 1))) == (Fraction(inside[0, 0].item()), Fraction(0), Fraction(0))
    assert one.contains((Fraction(0), TENTH, TENTH))
    assert not one.contains((Fraction(0), TENTH + Fraction(1, 10**40), TENTH))


def test_crossed_bounds_name_the_coordinate() -> None:
    with pytest.raises(RegionError, match=r"X\[1\]: crossed"):
        case((Fraction(0),) * 3, (Fraction(1), Fraction(-1), Fraction(1)))
    with pytest.raises(RegionError, match="expected 3 bounds"):
        case((Fraction(0),), (Fraction(1),))


def test_fitting_a_query_to_a_network() -> None:
    one = case((Fraction(0),) * 3, (Fraction(1),) * 3)
    output = (Declaration("Y", "real", (1,)),)
    query = Query((one,), DECLARED, output, version="2.0")
    fitted = query.fitted([(1, 2), (1,)], [(1, 1)])
    assert [region.shape for region in fitted.cases[0].regions] == [(1, 2), (1,)]
    with pytest.raises(PropertyError, match="declares the inputs"):
        query.fitted([(1,), (2,)], [(1,)])
    with pytest.raises(PropertyError, match="declares the outputs"):
        query.fitted([(2,), (1,)], [(2,)])
    old = Query((one,), DECLARED, output)
    assert [region.shape for region in old.fitted([(3, 1)], [()]).cases[0].regions] == [(3, 1)]


def test_witness_of_the_first_satisfied_case() -> None:
    row = Row((), ((0, Fraction(1)),), Fraction(-1))  # y <= 1
    first = case((Fraction(5),) * 3, (Fraction(6),) * 3, row)
    second = case((Fraction(0),) * 3, (TENTH, Fraction(1), TENTH), row)
    query = Query((first, second), DECLARED, (Declaration("Y", "real", (1,)),))
    inputs = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1, 1)
    assert query.witness(inputs, (torch.tensor([1.0]),)) == (Fraction(0), Fraction(1), Fraction(0))
    assert query.witness(inputs, (torch.tensor([1.5]),)) is None
    assert query.witness((inputs[0] + 2, inputs[1]), (torch.tensor([1.0]),)) is None
