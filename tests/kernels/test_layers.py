"""Rows through dense layers to a box, by compiled code against PyTorch's operations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.kernels import available
from irverify.kernels import layers as compiled
from irverify.kernels.adjoint import CHIP
from irverify.kernels.layers import Layer, Start, lower_bounds

CHIPS = range(1, CHIP + 1)
pytestmark = [
    pytest.mark.skipif(not available() or not CHIP, reason="no kernels for this processor"),
    pytest.mark.usefixtures("threads"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SIZES = st.lists(st.sampled_from((1, 2, 5, 8, 9, 16, 23, 32, 40, 57, 200, 256, 257, 300, 520)), min_size=2, max_size=4)


def expected(start: Start, layers: list[Layer], center: Tensor, radius: Tensor) -> Tensor:
    """In double precision."""
    rows, constant, index, owner, twice, columns = start
    rows, constant = (rows if index is None else rows[index]).double(), constant.double()
    if columns is not None:
        rows = rows.new_zeros(len(rows), len(layers[0].weight)).index_add(1, columns, rows)
    owner = torch.zeros(len(rows), dtype=torch.int64) if owner is None else owner
    if twice:
        rows, constant, owner = torch.cat([rows, -rows]), torch.cat([constant, -constant]), owner.repeat(2)

    def own(part: Tensor | None) -> Tensor:
        return torch.zeros(1, dtype=torch.float64) if part is None else torch.atleast_2d(part).double()[owner]

    for weight, bias, slope, rise, base, top in layers:
        if slope is not None:
            negative = rows.clamp(max=0)
            constant = constant + ((rows - negative) * own(base) + negative * own(top)).sum(1)
            rows = rows * own(slope) + negative * own(rise)
        constant = constant if bias is None else constant + rows @ bias.double()
        rows = rows @ weight.double()
    return constant + (rows * own(center) - rows.abs() * own(radius)).sum(1)


def test_by_hand() -> None:
    """y = (2 x_1 + x_2 + 1, -x_1) along lines from y / 2 - 1 to y / 2 + 2, over [-1, 1] x [0, 4]: rows (1, 2) and
    (3, -1) are (0, 1/2) . x - 2.5 and (3.5, 1.5) . x - 3.5."""
    layer = Layer(
        torch.tensor([[2.0, 1], [-1, 0]]), torch.tensor([1.0, 0]), torch.full((2,), 0.5), torch.zeros(2),
        torch.tensor([-1.0, -1]), torch.tensor([2.0, 2]),
    )  # fmt: skip
    rows, center, radius = torch.tensor([[1.0, 2], [3, -1]]), torch.tensor([0.0, 2]), torch.tensor([1.0, 2])
    found = lower_bounds(Start(rows, torch.tensor([0.0, 1])), [layer], center, radius)
    assert found is not None
    assert found.tolist() == [-3 + 0.5, 1 - 3 - 2 + 1.5 - 3.5]
    chosen = Start(rows, torch.tensor([7.0]), torch.tensor([1]), torch.tensor([0]), twice=True)
    found = lower_bounds(chosen, [Layer(layer.weight, None)], center, radius)
    assert found is not None
    assert found.tolist() == [7 + (0 - 7) + (6 - 6), -7 - 7 - 12]


@pytest.mark.parametrize("chip", CHIPS)
@settings(max_examples=40)
@given(SIZES, st.sampled_from((1, 3, 12, 49, 130)), DTYPES, st.integers(0, 999))
def test_random(chip: int, sizes: list[int], pairs: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def maybe() -> bool:
        return bool(torch.randint(2, (), generator=generator))

    alone = maybe()
    examples = 1 if alone else 3
    layers = []
    for size, to in itertools.pairwise(sizes):
        lined = maybe()
        share = float(torch.rand((), generator=generator)) if maybe() else 1.0  # of what is let through
        passing = torch.rand(examples, size, generator=generator) < share
        lines = [drawn(examples, size) * passing if (lined and (k == 0 or maybe())) else None for k in range(4)]
        if maybe():  # nothing is let through by some of them
            closed = drawn(examples, size) < (0.5 if maybe() else math.inf)
            lines[:2] = [None if part is None else part.masked_fill(closed, 0.0) for part in lines[:2]]
        layers.append(Layer(drawn(size, to) / size**0.5, drawn(size) if maybe() else None, *lines))
    index = torch.randint(pairs + 5, (pairs,), generator=generator) if maybe() else None
    owner = None if alone else torch.randint(examples, (pairs,), generator=generator)
    columns = torch.randint(sizes[0], (1 + sizes[0] // 3,), generator=generator) if alone and maybe() else None
    rows = drawn(pairs if index is None else pairs + 5, sizes[0] if columns is None else len(columns))
    if columns is not None:  # of elements that stand there several times only one has coefficients
        firsts = (columns[:, None] == columns).long().argmax(1)
        rows = rows * (firsts == torch.arange(len(columns)))
    start = Start(rows, drawn(pairs), index, owner, maybe(), columns)
    center, radius = drawn(examples, sizes[-1]), drawn(examples, sizes[-1]).abs()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled, "CHIP", chip)
        patched.setattr(compiled, "SMALL", compiled.LARGE)
        found = lower_bounds(start, layers, center, radius)
    near = 1e-4 if dtype == torch.float32 else 1e-11
    wanted = expected(start, layers, center, radius)
    torch.testing.assert_close(found, wanted.to(dtype), rtol=near, atol=near * sum(sizes) ** 0.5)


def test_what_is_not_a_number_stays_none() -> None:
    rows = torch.ones(3, 20)
    rows[1, 19] = math.nan
    layer = Layer(torch.ones(20, 9), torch.zeros(20), *(torch.ones(20) for _ in range(4)))
    found = lower_bounds(Start(rows, torch.zeros(3)), [layer], torch.zeros(9), torch.ones(9))
    assert found is not None
    assert found.isnan().tolist() == [False, True, False]
    found = lower_bounds(Start(rows[:1], torch.zeros(1)), [layer], torch.zeros(9), torch.full((9,), math.inf))
    assert found is not None
    assert found.tolist() == [-math.inf]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_lost_where_lines_let_nothing_through(value: float) -> None:
    """A bound may not come out of coefficients that have overflowed."""
    rows = torch.ones(3, 20)
    rows[1, 4] = value
    slope = torch.ones(20)
    slope[4] = 0
    layer = Layer(torch.ones(20, 9), None, slope, torch.zeros(20), slope + 1, slope + 2)
    found = lower_bounds(Start(rows, torch.zeros(3)), [layer], torch.zeros(9), torch.ones(9))
    assert found is not None
    assert found[1].isnan()
    assert found[::2].tolist() == [19 * 2 + 1 - 9 * 19] * 2


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("pairs", [1, 9, 60])
def test_nothing_let_through(pairs: int, owned: bool) -> None:
    """Where lines are zero, nothing that stands there matters, be it infinite; all of them, and in the middle."""
    rows, zeros, box = torch.ones(pairs, 20), torch.zeros(1, 20), (torch.zeros(3), torch.ones(3))
    owner = torch.zeros(pairs, dtype=torch.int64) if owned else None
    first = Layer(torch.eye(20), torch.zeros(20), torch.ones(1, 20))
    last = Layer(torch.full((20, 3), math.inf), torch.ones(20), zeros)
    found = lower_bounds(Start(rows, torch.arange(pairs) * 1.0, None, owner), [first, last], *box)
    assert found is not None
    assert found.tolist() == list(range(pairs))
    some = zeros.clone()
    some[0, 7] = 0.5
    last = last._replace(weight=torch.full((20, 3), math.inf).index_fill(0, torch.tensor([7]), 2), slope=some)
    found = lower_bounds(Start(rows, torch.zeros(pairs), None, owner, twice=True), [first, last], *box)
    assert found is not None
    assert found.tolist() == [0.5 - 3] * pairs + [-0.5 - 3] * pairs
    columns = Start(rows[:, :2], torch.zeros(pairs), columns=torch.tensor([7, 4]))
    if not owned:
        found = lower_bounds(columns, [first, last], *box)
        assert found is not None
        assert found.tolist() == [0.5 - 3] * pairs


def test_refused() -> None:
    """Sizes that do not fit together, indices of what is not there, other types, no rows; few rows, large weights."""
    layer = Layer(torch.ones(3, 4), torch.zeros(3), torch.ones(2, 3))
    rows, constant, owner = torch.ones(5, 3), torch.zeros(5), torch.tensor([0, 0, 1, 1, 1])
    box = torch.zeros(2, 4), torch.ones(2, 4)
    start = Start(rows, constant, None, owner)
    assert lower_bounds(start, [layer], *box) is not None
    assert lower_bounds(start, [layer._replace(weight=torch.ones(4, 3).T)], *box) is not None
    assert lower_bounds(Start(rows, constant, columns=torch.tensor([0, 2, 2])), [layer], *box) is not None
    assert lower_bounds(start, [], *box) is None
    for wrong in (
        start._replace(owner=owner + 1),
        start._replace(owner=owner[:4]),
        start._replace(coefficients=rows[:4]),
        start._replace(coefficients=torch.ones(5, 4)),
        start._replace(coefficients=rows.double()),
        start._replace(places=torch.tensor([0, 1, 2, 3, 5])),
        start._replace(places=torch.tensor([0, 1, 2, 3, -1])),
        start._replace(places=torch.tensor([0])),
        Start(rows[:0], constant[:0], None, owner[:0]),
        start._replace(columns=torch.arange(3)),
        Start(rows, constant, columns=torch.tensor([0, 1])),
        Start(rows, constant, columns=torch.tensor([0, 1, 3])),
        Start(rows, constant, columns=torch.tensor([0, 1, -1])),
        Start(rows[:, :0], constant, columns=torch.arange(0)),
        Start(rows, constant, columns=torch.arange(3)[None]),
    ):
        assert lower_bounds(wrong, [layer], *box) is None
    for other in (
        layer._replace(weight=torch.ones(2, 4)),
        layer._replace(bias=torch.zeros(4)),
        layer._replace(slope=torch.ones(3)),
        layer._replace(top=torch.ones(2, 4)),
    ):
        assert lower_bounds(start, [other], *box) is None
    assert lower_bounds(start, [layer, layer], *box) is None
    assert lower_bounds(start, [layer], box[0], box[1][:1]) is None
    assert lower_bounds(start, [layer], box[0][:1], box[1][:1]) is None
    few = Start(torch.ones(compiled.FEW - 1, 300), torch.zeros(compiled.FEW - 1))
    many = Start(torch.ones(9, 300), torch.zeros(9))
    wide, box = Layer(torch.ones(300, 300), None), (torch.zeros(300), torch.ones(300))
    assert lower_bounds(few, [wide], *box) is None
    assert lower_bounds(many, [wide], *box) is not None
    wide, box = Layer(torch.ones(300, 4000), None), (torch.zeros(4000), torch.ones(4000))
    assert lower_bounds(many, [wide], *box) is None


def test_with_another_device_as_the_default() -> None:
    layer, box = Layer(torch.eye(3), torch.ones(3)), (torch.zeros(3), torch.ones(3))
    start = Start(torch.eye(3), torch.zeros(3))
    with torch.device("meta"):
        found = lower_bounds(start, [layer], *box)
    assert found is not None
    assert found.tolist() == [0, 0, 0]
