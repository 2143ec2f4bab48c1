"""Schedules at their corners and in between."""

from __future__ import annotations

import math

import pytest
import torch

from irverify.backends.torch import schedules
from irverify.errors import UsageError


def test_ramps() -> None:
    eps = schedules.linear_eps(0.1)
    assert [eps(time) for time in (0, 10, 20, 80)] == pytest.approx([0.01, 0.055, 0.1, 0.1])
    assert schedules.linear_eps(0.005)(0) == 0.005
    eps, kappa = schedules.ibp_eps(0.3), schedules.ibp_kappa()
    assert [eps(step) for step in (0, 2000, 7000, 12000, 60000)] == pytest.approx([0, 0, 0.15, 0.3, 0.3])
    assert [kappa(step) for step in (0, 2000, 7000, 12000, 60000)] == pytest.approx([1, 1, 0.75, 0.5, 0.5])
    weight = schedules.warm_up(0.5)
    assert [weight(time) for time in (0, 5, 20, 30)] == pytest.approx([0, 0.125, 0.5, 0.5])
    out = schedules.phased_out(0.5, begin=10, end=20)
    assert [out(time) for time in (0, 15, 20)] == pytest.approx([0.5, 0.25, 0])


def test_a_ramp_of_no_length_is_a_step() -> None:
    ramp = schedules.Ramp(1.0, 2.0, 5, 5)
    assert [ramp(4.9), ramp(5)] == [1.0, 2.0]
    with pytest.raises(UsageError, match="begins before it ends"):
        schedules.Ramp(0, 1, 2, 1)


def test_last_fifth() -> None:
    weight = schedules.last_part(1.2e-4, total=70)
    assert [weight(0), weight(55.9), weight(56), weight(70)] == [0, 0, 1.2e-4, 1.2e-4]


def test_adaptive_weight() -> None:
    """Paper 3, sec. 3.3: lambda = gamma L / ((1 + gamma) L + R)."""
    weight = schedules.AdaptiveWeight(gamma=2.0)
    assert weight(0) == 0
    assert weight.update(0.5, 1.0) == pytest.approx(2 * 0.5 / (3 * 0.5 + 1.0))
    assert weight(7) == weight.value
    assert weight.update(0.0, 0.0) == 0
    batches = [(torch.tensor(1.0), torch.tensor(2.0), 3), (torch.tensor(5.0), torch.tensor(6.0), 1)]
    assert weight.measure(batches) == pytest.approx(2 * 2 / (3 * 2 + 3))


@pytest.mark.parametrize(("clean", "regularizer"), [(math.nan, 1.0), (1.0, math.inf), (0.0, -0.5), (-1.0, 9.0)])
def test_adaptive_weight_refuses_what_gives_none(clean: float, regularizer: float) -> None:
    weight = schedules.AdaptiveWeight(value=0.25)
    with pytest.raises(UsageError, match="adaptive weight"):
        weight.update(clean, regularizer)
    assert weight.value == 0.25
    with pytest.raises(UsageError, match="no examples"):
        weight.measure([])
