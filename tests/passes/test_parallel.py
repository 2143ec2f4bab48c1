"""Parallel lines around piecewise linear functions: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.ops import Elementwise, LeakyRelu, Relu
from irverify.passes.parallel import parallel_lines


def test_a_relu_by_hand() -> None:
    """Over [-1, 2] the chord is (2 z + 2) / 3 and the other line 2 z / 3; slope u / (u - l) has the derivatives 2/9 in
    l and 1/9 in u, middle and radius are -slope l / 2."""
    lower, upper = (torch.tensor([end], dtype=torch.float64, requires_grad=True) for end in (-1.0, 2.0))
    lines = parallel_lines(Relu(), lower, upper)
    assert [part.item() for part in (lines.slope, lines.middle, lines.radius)] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    for part, of_lower, of_upper in ((lines.slope, 2 / 9, 1 / 9), (lines.middle, -2 / 9, 1 / 18)):
        found = torch.autograd.grad(part.sum(), (lower, upper), retain_graph=True)
        assert [part.item() for part in found] == pytest.approx([of_lower, of_upper])


def test_stable_neurons_have_no_gradients() -> None:
    lower = torch.tensor([-3.0, 0.0, 1.0, -1.0, 0.0], requires_grad=True)
    upper = torch.tensor([-1.0, 0.0, 2.0, 0.0, 1.0], requires_grad=True)
    lines = parallel_lines(Relu(), lower, upper)
    assert lines.slope.tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]
    found = torch.autograd.grad((lines.slope + lines.middle + lines.radius).sum(), (lower, upper))
    assert not torch.cat(found).any()


@pytest.mark.parametrize("op", (Relu(), LeakyRelu(0.1), LeakyRelu(1.5), LeakyRelu(-0.5)), ids=str)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_gradients_match_finite_differences(op: Elementwise, seed: int) -> None:
    """First and second derivatives, away from where a neuron becomes stable."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(2, 6, dtype=torch.float64, generator=generator) + 0.1
    signs = torch.tensor([[-1.0, -1, -1, -1, 1, -2], [1, 1, 1, 1, 2, -1]], dtype=torch.float64)
    lower, upper = (side.clone().requires_grad_() for side in (ends + 2) * signs)

    def values(lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        lines = parallel_lines(op, lower, upper)
        return lines.slope, lines.middle, lines.radius

    assert torch.autograd.gradcheck(values, (lower, upper))
    assert torch.autograd.gradgradcheck(values, (lower, upper))
    with torch.no_grad():
        plain = parallel_lines(op, lower, upper)
    for ours, theirs in zip(values(lower, upper), (plain.slope, plain.middle, plain.radius), strict=True):
        assert torch.equal(ours, theirs)
