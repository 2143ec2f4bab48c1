"""Rows that have coefficients for some elements of their example only, against PyTorch's operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.kernels import available
from irverify.kernels.adjoint import CHIP, adjoint, adjoint_of_elements
from irverify.kernels.narrow import fetch, used

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.usefixtures("threads"),
]
DTYPES = st.sampled_from((torch.float32, torch.float64))
SEEDS = st.integers(0, 2**16)


def whole(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Small whole numbers, whose sums of products are exact."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_used_by_hand() -> None:
    source = torch.tensor([0, 0, -1, 1])
    first, second = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, float("nan")]])
    found = used(source, 2, first, None, second)
    assert found is not None
    index, own = found
    assert index.tolist() == [[1, 3]]
    assert own.tolist() == [[0, 1]]
    assert used(source[:3], 2, first) is None
    assert used(source, 2, first.T) is None
    assert used(source, 2, first, second.double()) is None
    nothing = used(source, 2, first * 0)
    assert nothing is not None
    assert [part.tolist() for part in nothing] == [[[0]], [[2]]]


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.sampled_from((1, 5, 700, 1300)), st.integers(1, 4), st.integers(0, 3))
def test_used(dtype: torch.dtype, seed: int, size: int, examples: int, others: int) -> None:
    parts = [whole(examples, size, seed=seed + k, dtype=dtype).clamp(min=0) for k in range(others + 1)]
    source = whole(size, seed=seed + 9, dtype=torch.float64).long()
    found = used(source, 9, *parts)
    assert found is not None
    index, own = found
    expected = torch.stack(parts).ne(0).any(0) & (source >= 0)
    assert index.shape[1] == max(1, int(expected.sum(1).max()))
    for example in range(examples):
        elements = expected[example].nonzero()[:, 0]
        behind = index.shape[1] - len(elements)
        assert index[example].tolist() == elements.tolist() + [0] * behind
        assert own[example].tolist() == source[elements].tolist() + [9] * behind


@settings(max_examples=25)
@given(DTYPES, SEEDS, st.sampled_from((1, 40)), st.sampled_from(("owner", "each", "first")))
def test_fetch(dtype: torch.dtype, seed: int, columns: int, how: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    examples = 1 if how == "first" else 4
    rows = whole(4 if how == "each" else 9, 6, seed=seed, dtype=dtype)
    source = torch.randint(7, (examples, columns), generator=generator)
    owner = torch.randint(4, (9,), generator=generator) if how == "owner" else None
    found = fetch(rows, source, owner)
    assert found is not None
    of = owner if owner is not None else torch.arange(4) if how == "each" else torch.zeros(9, dtype=torch.long)
    padded = torch.nn.functional.pad(rows, (0, 1))
    assert torch.equal(found, padded.gather(1, source[of]))


def test_what_is_out_of_range_is_left_to_pytorch() -> None:
    rows, source = torch.ones(3, 4), torch.tensor([[0, 4]])
    assert fetch(rows, source, None) is not None
    assert fetch(rows, source + 1, None) is None
    assert fetch(rows, source - 1, None) is None
    assert fetch(rows, source, torch.tensor([0, 0, 1])) is None
    assert fetch(rows, source, torch.tensor([0, 0])) is None
    assert fetch(rows, source.expand(2, 2), None) is None


@pytest.mark.skipif(not CHIP, reason="no processor for this kernel")
@settings(max_examples=40)
@given(st.data(), DTYPES, SEEDS, st.booleans())
def test_the_adjoint_of_elements(data: st.DataObject, dtype: torch.dtype, seed: int, owned: bool) -> None:
    """As that of rows with zeros everywhere else; an element that stands there again counts again."""
    kernel, stride, windows, first, extents = (
        tuple(data.draw(st.integers(low, high)) for _ in range(2))
        for low, high in ((1, 3), (1, 4), (1, 5), (-2, 3), (1, 9))
    )
    count, out, channels = (data.draw(st.integers(low, high)) for low, high in ((8, 40), (1, 9), (1, 40)))
    generator = torch.Generator().manual_seed(seed)
    size, columns, examples = windows[0] * windows[1] * out, data.draw(st.integers(1, 30)), 3 if owned else 1
    place = torch.randint(size, (examples, columns), generator=generator)
    owner = torch.randint(examples, (count,), generator=generator).sort().values if owned else None
    rows = whole(count, columns, seed=seed, dtype=dtype)
    weight = whole(out, channels, *kernel, seed=seed + 1, dtype=dtype)
    each = place[owner] if owner is not None else place.expand(count, -1)
    dense = rows.new_zeros(count, size).scatter_add(1, each, rows).reshape(count, out, *windows)
    expected = adjoint(dense.permute(0, 2, 3, 1).contiguous(), weight, stride, first, extents)
    found = adjoint_of_elements(rows, place, owner, windows, weight, stride, first, extents)
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
    assert adjoint_of_elements(rows, place + size, owner, windows, weight, stride, first, extents) is None
    assert adjoint_of_elements(rows, place - size, owner, windows, weight, stride, first, extents) is None
