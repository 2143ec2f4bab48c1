"""Norms from random columns: what they estimate, and how often their upper bounds fail."""

from __future__ import annotations

import pytest
import torch

from irverify.passes import norm_estimators as norms

VECTOR = torch.tensor([3.0, -4.0, 0.5, 0.0, -0.5], dtype=torch.float64)


def projections(repeats: int, columns: int, *, cauchy: bool) -> torch.Tensor:
    """`[repeats, columns]` projections of VECTOR, whose l1 norm is 8."""
    generator = torch.Generator().manual_seed(3)
    draw = norms.cauchy if cauchy else norms.normal
    return torch.einsum("n,rnk->rk", VECTOR, draw((repeats, 5, columns), VECTOR, generator))


def test_the_median_is_near_the_l1_norm() -> None:
    assert float(norms.median(projections(1, 40_001, cauchy=True))) == pytest.approx(8.0, rel=0.03)


def test_the_median_of_few_columns() -> None:
    columns = torch.tensor([[3.0, -1.0, 10.0]])
    assert norms.median(columns).tolist() == [3.0]
    assert norms.median(torch.cat([columns, torch.tensor([[-4.0]])], 1)).tolist() == [3.5]


def test_the_geometric_mean_is_unbiased_with_its_factor() -> None:
    found = norms.geometric(projections(40_000, 10, cauchy=True)) * norms.unbiased(10)
    assert float(found.mean()) == pytest.approx(8.0, rel=0.02)


def test_the_geometric_mean_of_a_zero_vector() -> None:
    assert norms.geometric(torch.zeros(2, 5)).tolist() == [0.0, 0.0]


def test_the_l2_norm() -> None:
    expected = float(torch.linalg.vector_norm(VECTOR))
    assert float(norms.root_mean_square(projections(1, 40_000, cauchy=False))) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("columns", [1, 5, 40])
@pytest.mark.parametrize("failure", [0.3, 0.02])
def test_upper_bounds_fail_no_more_often_than_they_may(columns: int, failure: float) -> None:
    expected = {True: 8.0, False: float(torch.linalg.vector_norm(VECTOR))}
    for cauchy, estimator, factor in (
        (True, norms.geometric, norms.geometric_factor(columns, failure)),
        (False, norms.root_mean_square, norms.normal_factor(columns, failure)),
    ):
        found = estimator(projections(20_000, columns, cauchy=cauchy)) * factor
        assert float((found < expected[cauchy]).double().mean()) <= failure


def test_factors_fall_with_the_columns() -> None:
    """By hand: for t -> 0 the rate is 2 t^2 / pi^2, so that e^t is about exp(pi sqrt(log(1/p) / 2k))."""
    found = [norms.geometric_factor(columns, 0.01) for columns in (10, 100, 10_000, 1_000_000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(1.00477, abs=2e-5)
    assert norms.normal_factor(1_000_000, 0.01) == pytest.approx(1.00215, abs=2e-5)


def test_the_median_does_not_depend_on_the_order_in_memory() -> None:
    plain = torch.randn(2, 5, 3, 4, 2, dtype=torch.float64)
    moved = plain.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).requires_grad_()
    plain.requires_grad_()
    found = norms.median(moved)
    assert torch.equal(found, norms.median(plain))
    assert found.stride() == (24, 1, 6, 3)
    weight = torch.randn_like(found)
    (ours,) = torch.autograd.grad((found * weight).sum(), moved)
    (theirs,) = torch.autograd.grad((norms.median(plain) * weight).sum(), plain)
    assert torch.equal(ours, theirs)
