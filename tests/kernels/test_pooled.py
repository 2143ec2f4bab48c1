"""Rows over poolings through lines and the adjoint of a convolution at once, against one after the other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.kernels.adjoint import CHIP, adjoint
from irverify.kernels.pooled import Around, Choices, adjoint_of_pooled

pytestmark = [
    pytest.mark.skipif(not CHIP, reason="no kernels here, or no processor for this one"),
    pytest.mark.usefixtures("threads", "chip"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SEEDS = st.integers(0, 2**16)
ROWS = 8
WEIGHT, MOVES = torch.ones(1, 1, 1, 1), ((1, 1), (0, 0), (2, 5))


def whole(*shape: int, seed: int, dtype: torch.dtype, least: int = -3) -> Tensor:
    """Small whole numbers, whose sums of products are exact."""
    return torch.randint(least, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_mean_by_hand() -> None:
    """Two windows of four elements, the last column in none; the first row is positive, the others negative."""
    rows = torch.tensor([4.0, 8.0] + 7 * [-4.0, -8.0]).reshape(ROWS, 1, 1, 2)
    low = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0]]).reshape(1, 1, 2, 5)
    high = torch.tensor([[1.0, 0.5, 1.0, 0.0, 1.0], [0.0, 0.0, 0.5, 0.0, 1.0]]).reshape(1, 1, 2, 5)
    top = torch.tensor([[0.0, 3.0, 0.0, 0.0, 9.0], [0.0, 0.0, 5.0, 0.0, 9.0]]).reshape(1, 1, 2, 5)
    around = Around(low, high, None, top)
    found = adjoint_of_pooled(rows, (2, 2), None, around, None, (2, 5), WEIGHT, torch.tensor([10.0]), *MOVES)
    assert found is not None
    passed, constants = found
    assert passed.shape == (ROWS, 2, 5, 1)
    assert passed[0].flatten().tolist() == [1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert passed[1].flatten().tolist() == [-1.0, -0.5, -2.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    assert constants.tolist() == [30.0] + 7 * [-(3.0 + 10.0) - 45.0]


def test_a_maximum_by_hand() -> None:
    """`y = x_1` in the first window, `x_4 <= y <= 7` in the second; what is chosen is the value itself."""
    rows = torch.tensor([2.0, 3.0] + 7 * [-2.0, -3.0]).reshape(ROWS, 1, 1, 2)
    index = torch.tensor([1, 8]).reshape(1, 1, 1, 2)
    certain, ceiling = (torch.tensor(pair).reshape(1, 1, 1, 2) for pair in ((1.0, 0.0), (math.inf, 7.0)))
    found = adjoint_of_pooled(rows, (2, 2), Choices(index, certain, ceiling), None, None, (2, 5), WEIGHT, None, *MOVES)
    assert found is not None
    passed, constants = found
    assert constants.tolist() == [0.0] + 7 * [-21.0]
    assert passed[0].flatten().nonzero().flatten().tolist() == [1, 8]
    assert passed[0].flatten()[[1, 8]].tolist() == [2.0, 3.0]
    assert passed[1].flatten().nonzero().flatten().tolist() == [1]
    assert passed[1].flatten()[1] == -2.0
    endless = Choices(index, certain, ceiling * math.inf)
    found = adjoint_of_pooled(rows, (2, 2), endless, None, None, (2, 5), WEIGHT, None, *MOVES)
    assert found is not None
    assert found[1].tolist() == [0.0] + 7 * [-math.inf]


@settings(max_examples=80)
@given(st.data(), DTYPES, SEEDS)
def test_at_once(data: st.DataObject, dtype: torch.dtype, seed: int) -> None:
    def pair(low: int, high: int) -> Any:
        return tuple(data.draw(st.integers(low, high)) for _ in range(2))

    kernel = data.draw(st.sampled_from((1, 2, 4))), data.draw(st.sampled_from((1, 2)))
    windows, rest = pair(1, 4), pair(0, 3)
    plane = [k * n + min(more, k - 1) for k, n, more in zip(kernel, windows, rest, strict=True)]
    taps, stride, first, extents = pair(1, 3), pair(1, 3), pair(-2, 3), pair(1, 9)
    count, out, channels, examples = (data.draw(st.integers(*ends)) for ends in ((8, 40), (1, 9), (1, 40), (1, 3)))
    maximum, lines, biased, last = (data.draw(st.booleans()) for _ in range(4))
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(examples, (count,), generator=generator).sort().values if examples > 1 else None
    of = torch.zeros(count, dtype=torch.long) if owner is None else owner

    rows = 8 * whole(count, out, *windows, seed=seed, dtype=dtype)
    given_rows = rows.contiguous(memory_format=torch.channels_last) if last else rows
    weight, offset = whole(out, channels, *taps, seed=seed + 1, dtype=dtype), whole(out, seed=seed + 2, dtype=dtype)
    low, more, base, top = (
        whole(examples, out, *plane, seed=seed + 3 + k, dtype=dtype, least=-1).clamp(min=0) for k in range(4)
    )
    based = data.draw(st.booleans())
    around = Around(low, low + more, base if based else None, top) if lines else None
    index = torch.randint(math.prod(plane), (examples, out, *windows), generator=generator)
    certain = whole(examples, out, *windows, seed=seed + 8, dtype=dtype).gt(0).to(dtype)
    ceiling = whole(examples, out, *windows, seed=seed + 9, dtype=dtype)

    negative, expected = rows.clamp(max=0), rows.new_zeros(count)
    planes = rows.new_zeros(count, out, *plane)
    if maximum:
        expected = (negative * (1 - certain[of]) * ceiling[of]).flatten(1).sum(1)
        passed = rows - negative + negative * certain[of]
        planes = planes.flatten(2).scatter_add(2, index[of].flatten(2), passed.flatten(2)).reshape(planes.shape)
        if lines:  # each choice meets them by itself, where one element is chosen twice
            def met(part: Tensor) -> Tensor:
                return part[of].flatten(2).gather(2, index[of].flatten(2)).reshape(passed.shape)

            less = passed.clamp(max=0)
            bent = passed * met(low) + less * met(more)
            expected = expected + (less * met(top)).flatten(1).sum(1)
            expected = expected + based * ((passed - less) * met(base)).flatten(1).sum(1)
            planes = torch.zeros_like(planes).flatten(2).scatter_add(2, index[of].flatten(2), bent.flatten(2))
            planes = planes.reshape(count, out, *plane)
    else:
        spread = rows.repeat_interleave(kernel[0], 2).repeat_interleave(kernel[1], 3) / math.prod(kernel)
        planes[:, :, : spread.shape[2], : spread.shape[3]] = spread
        if lines:
            less = planes.clamp(max=0)
            expected = (less * top[of]).flatten(1).sum(1) + based * ((planes - less) * base[of]).flatten(1).sum(1)
            planes = planes * low[of] + less * more[of]
    if biased:
        expected = expected + (planes.flatten(2).sum(2) * offset).sum(1)
    wanted = adjoint(planes.permute(0, 2, 3, 1).contiguous(), weight, stride, first, extents)

    choices = Choices(index, certain, ceiling) if maximum else None
    moves, adds = (stride, first, extents), offset if biased else None
    found = adjoint_of_pooled(given_rows, kernel, choices, around, owner, plane, weight, adds, *moves)
    assert wanted is not None
    if not lines and not maximum:  # all elements count
        assert found is None
        return
    assert found is not None
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], expected)


def test_what_does_not_fit_is_left_to_others() -> None:
    rows, low = torch.ones(ROWS, 1, 1, 2), torch.ones(2, 1, 2, 5)
    around, owner = Around(low, low, None, low), torch.zeros(ROWS, dtype=torch.long)
    index = torch.zeros(1, 1, 1, 2, dtype=torch.long)
    choices = Choices(index, index.float(), index.float())

    def done(rows: Tensor = rows, around: Around | None = around, **changes: Any) -> bool:
        parts: dict[str, Any] = {"kernel": (2, 2), "choices": None, "owner": owner, "plane": (2, 5)}
        parts |= {"weight": WEIGHT, "offset": None, **dict(zip(("stride", "first", "extents"), MOVES, strict=True))}
        return adjoint_of_pooled(rows, around=around, **{**parts, **changes}) is not None

    assert done()
    assert done(around=None, choices=choices, owner=None)
    assert not done(rows[:7], owner=owner[:7])  # so few are faster otherwise
    assert not done(rows.double())
    assert not done(rows.expand(-1, 2, -1, -1))
    assert not done(owner=owner + 2)
    assert not done(owner=owner - 1)
    assert not done(owner=owner[1:])
    assert not done(plane=(2, 6))
    assert not done(plane=(3, 5), kernel=(2, 2))
    assert not done(around=around._replace(top=low[:1]))
    assert not done(around=around._replace(top=low[..., 1:]))
    assert not done(around=around._replace(top=low.permute(0, 1, 3, 2)))
    assert not done(offset=torch.ones(2))
    two, chosen = torch.ones(ROWS, 2, 1, 2), torch.zeros(1, 2, 1, 2, dtype=torch.long)
    pair = {"choices": Choices(chosen, chosen.float(), chosen.float()), "weight": torch.ones(2, 1, 1, 1)}
    assert done(two, None, owner=None, offset=torch.ones(2), **pair)
    assert not done(two, None, owner=None, offset=torch.ones(4)[::2], **pair)
    assert not done(two, None, owner=None, offset=torch.ones(1).expand(2), **pair)
    assert not done(weight=WEIGHT * math.nan)
    for wrong in (index + 10, index - 1, index.int()):
        assert not done(around=None, choices=choices._replace(place=wrong), owner=None)
    assert not done(choices=choices)  # one example and two
