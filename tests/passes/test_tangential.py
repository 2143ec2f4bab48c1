"""Rows between tangents of S-shaped functions: one side for each coefficient, as both sides say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Sigmoid, Tanh
from irverify.ir.types import TensorType
from irverify.kernels import available, native
from irverify.kernels import tangents as compiled
from irverify.passes.freedom import FREEDOM, Free
from irverify.passes.lines import Relaxation
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS
from irverify.passes.tangential import Tangential
from irverify.passes.turns import Bends

KERNELS = [True, False] if available() else [False]


def around(op: Sigmoid | Tanh, *shape: int, dtype: torch.dtype) -> tuple[Relaxation, Free]:
    torch.manual_seed(4)
    middle, width = 3 * torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    operand = Interval(middle - 4 * width**3, middle + 4 * width**3)
    node = Node("y", op, ("x",), TensorType(shape[1:], dtype))
    rule, freedom = RELAXATIONS.find(type(op)), FREEDOM.find(type(op))
    assert rule is not None
    assert freedom is not None
    relaxation = rule(node, [operand], "adaptive")
    assert isinstance(relaxation, Relaxation)
    return relaxation, freedom(node, operand, relaxation)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", [Sigmoid(), Tanh()], ids=["sigmoid", "tanh"])
@pytest.mark.parametrize("owner", [[0, 0, 2, 1, 1, 1, 2], [1, 1, 1], [0]])
def test_as_both_sides(
    owner: list[int], op: Sigmoid | Tanh, dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(native, "native", None)
    relaxation, free = around(op, 3, 4, 5, dtype=dtype)
    owners = torch.tensor(owner)
    single = len(set(owner)) == 1

    def gather(tensor: Tensor) -> Tensor:
        return tensor[owners[:1]] if single else tensor[owners]

    one, both = Tangential.of(free, gather), Bends(relaxation, free, gather, torch.arange(20))
    assert one is not None
    for side in ("least", "most", "start"):
        torch.testing.assert_close(getattr(one, side), getattr(both, side), rtol=0, atol=0)
    rows, x = torch.randn(len(owner), 4, 5, dtype=dtype), torch.randn(len(owner), 4, 5, dtype=dtype)
    rows[0, 0, :3] = 0
    share = torch.rand(len(owner), 40, dtype=dtype)
    choices = one.least + share * (one.most - one.least)
    near = 1e-5 if dtype == torch.float32 else 1e-12
    for found, expected in zip(one.down(rows, choices), both.down(rows, choices), strict=True):
        torch.testing.assert_close(found, expected, rtol=near, atol=near)
    for wanted in (True, False):
        gradient, value = one.up(x, wanted)
        expected_gradient, expected_value = both.up(x, wanted)
        torch.testing.assert_close(gradient, expected_gradient, rtol=near, atol=near)
        torch.testing.assert_close(value, expected_value, rtol=near, atol=near)
        assert (value is not None) == wanted
    again = one.again(gather)
    torch.testing.assert_close(again.down(rows, choices), one.down(rows, choices), rtol=0, atol=0)


def test_lines_are_valid_and_other_families_none() -> None:
    """Wherever the tangents touch, a row along its lines is below the row over the function."""
    _, free = around(Sigmoid(), 2, 30, dtype=torch.float64)

    def gather(tensor: Tensor) -> Tensor:
        return tensor

    turn = Tangential.of(free, gather)
    assert turn is not None
    rows = torch.randn(2, 30, dtype=torch.float64)
    for share in (0.0, 0.3, 1.0):
        passed, constants = turn.down(rows, turn.least + share * (turn.most - turn.least))
        torch.manual_seed(4)
        middle, width = (3 * torch.randn(2, 30, dtype=torch.float64)), torch.rand(2, 30, dtype=torch.float64)
        for point in (-1.0, -0.4, 0.1, 0.9, 1.0):
            x = middle + point * 4 * width**3
            assert bool(((passed * x).sum(1) + constants <= (rows * x.sigmoid()).sum(1) + 1e-9).all())
    assert Tangential.of(Free(free.below, None), gather) is None
    assert Tangential.of(Free(free.below, around(Tanh(), 2, 30, dtype=torch.float64)[1].above), gather) is None


@pytest.mark.skipif(not available(), reason="kernels are not compiled here")
def test_by_hand_and_refused() -> None:
    """Rows (2, -1, 0) with tangents free below the first and above the second."""
    rows = torch.tensor([[2.0, -1, 0]])
    lines = torch.tensor([[[1.0, 1, 0], [0, 0, 5], [0, 0, 6], [0, 1, 0], [7, 0, 8], [9, 0, 10]]])
    point = compiled.touch(rows, torch.tensor([[1.0, 2, 3, 4, 5, 6]]))
    assert point is not None
    assert point.tolist() == [[1, 5, 3]]
    value, slope, bend = torch.tensor([[10.0, 20, 30]]), torch.tensor([[3.0, 4, 5]]), torch.tensor([[0.5, -1, 2]])
    met = compiled.taken(rows, None, lines, point, value, slope)
    assert met is not None
    assert [part.tolist() for part in met] == [[[6, -4, 0]], [14 - 0 + 0], [[3, 4, 5]], [[7, 0, 6]]]
    x = torch.tensor([[2.0, 3, 4]])
    found = compiled.taken_back(rows, None, lines, point, bend, (met.slope, met.constant), x, wanted=True)
    assert found is not None
    assert found[0].tolist() == [[1, 0, 0, 0, -2, 0]]
    assert found[1] is not None
    assert found[1].tolist() == [[13, 12, 26]]
    rows[0, 0] = math.nan
    met = compiled.taken(rows, None, lines, point, value, slope)
    assert met is not None
    assert math.isnan(float(met.constants))
    assert compiled.touch(rows, torch.ones(1, 5)) is None
    assert compiled.touch(rows[:0], torch.ones(0, 6)) is None
    assert compiled.taken(rows, torch.tensor([1]), lines, point, value, slope) is None
    assert compiled.taken(rows, None, lines[:, :5], point, value, slope) is None
    assert compiled.taken(rows, None, lines, point[:, :2], value, slope) is None
    assert compiled.taken(rows, None, lines, point.double(), value, slope) is None
