"""Losses on bounds: the values of their formulas, their gradients, and one process against two."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import irverify as iv
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.losses import crown_ibp, ibp
from irverify.errors import UsageError
from tests.processes import run_two, together


def two_layers() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    return module, torch.rand(4, 3, dtype=torch.float64), torch.tensor([0, 3, 1, 1])


def tensors(module: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, bias, second, last = module.parameters()
    return first, bias, second, last


def interval_margins(module: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Paper 4, eq. 6, 7 and 9, written out."""
    w1, b1, w2, b2 = tensors(module)
    center, radius = x @ w1.T + b1, torch.full_like(x, eps) @ w1.abs().T
    low, high = (center - radius).clamp(min=0), (center + radius).clamp(min=0)
    margins = []
    for row, label in enumerate(y.tolist()):
        c, d = w2[label] - w2, b2[label] - b2
        margins.append(c.clamp(min=0) @ low[row] + c.clamp(max=0) @ high[row] + d)
    return torch.stack(margins)


def backward_margins(module: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The rows C W_2 through the lines of Zhang et al. (2018) to the input, written out."""
    w1, b1, w2, b2 = tensors(module)
    center, radius = x @ w1.T + b1, torch.full_like(x, eps) @ w1.abs().T
    low, high = center - radius, center + radius
    margins = []
    for row, label in enumerate(y.tolist()):
        c, total = w2[label] - w2, b2[label] - b2
        passed = []
        for neuron, (lo, up) in enumerate(zip(low[row], high[row], strict=True)):
            a = c[:, neuron]
            below, above, top = (torch.full_like(lo, number) for number in (lo >= 0, lo >= 0, 0.0))
            if lo < 0 < up:
                below, above, top = (up > -lo).to(lo), up / (up - lo), -up * lo / (up - lo)
            passed.append(a.clamp(min=0) * below + a.clamp(max=0) * above)
            total = total + a.clamp(max=0) * top
        lines = torch.stack(passed, dim=1)
        margins.append(lines @ (w1 @ x[row] + b1) + total - eps * (lines @ w1).abs().sum(1))
    return torch.stack(margins)


@pytest.mark.parametrize("kappa", [0.0, 0.25, 1.0])
def test_ibp_is_its_formula(kappa: float) -> None:
    module, x, y = two_layers()
    robust = functional.cross_entropy(-interval_margins(module, x, y, 0.1), y)
    expected = kappa * functional.cross_entropy(module(x), y) + (1 - kappa) * robust
    assert torch.allclose(ibp(BoundGraph(module, x[:1]), x, y, 0.1, kappa), expected)
    assert torch.allclose(ibp(iv.compile(module, x[:1]), x, y, 0.1, kappa), expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_crown_ibp_is_its_formula(beta: float) -> None:
    module, x, y = two_layers()
    margins = beta * backward_margins(module, x, y, 0.3) + (1 - beta) * interval_margins(module, x, y, 0.3)
    clean = functional.cross_entropy(module(x), y)
    expected = 0.25 * clean + 0.75 * functional.cross_entropy(-margins, y)
    assert torch.allclose(crown_ibp(BoundGraph(module, x[:1], "crown-ibp"), x, y, 0.3, 0.25, beta), expected)
    assert torch.allclose(crown_ibp(iv.compile(module, x[:1]), x, y, 0.3, 0.25, beta), expected)


@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_gradients_are_those_of_finite_differences(clip: tuple[int, int] | None) -> None:
    module, x, y = two_layers()
    bound = BoundGraph(module, x[:1], "crown-ibp")
    parameters = list(module.parameters())
    assert torch.autograd.gradcheck(lambda *_: ibp(bound, x, y, 0.2, 0.5, clip), parameters)
    assert torch.autograd.gradcheck(lambda *_: crown_ibp(bound, x, y, 0.2, 0.5, 0.3, clip), parameters)


def test_without_a_perturbation_it_is_the_plain_loss() -> None:
    """Paper 4, after eq. 12: at eps = 0 both terms are the same."""
    module, x, y = two_layers()
    plain = functional.cross_entropy(module(x), y)
    assert torch.allclose(ibp(BoundGraph(module, x[:1]), x, y, 0.0, 0.3), plain)
    assert torch.allclose(crown_ibp(iv.compile(module, x[:1]), x, y, 0.0, 0.3, 0.5), plain)


def test_what_makes_no_sense() -> None:
    module, x, y = two_layers()
    bound = BoundGraph(module, x[:1])
    with pytest.raises(UsageError, match="kappa"):
        ibp(bound, x, y, 0.1, 1.5)
    with pytest.raises(UsageError, match="beta"):
        crown_ibp(bound, x, y, 0.1, beta=float("nan"))
    with pytest.raises(UsageError, match="backward margins"):
        crown_ibp(bound, x, y, 0.1)
    with pytest.raises(UsageError, match="got Sequential"):
        ibp(module, x, y, 0.1)  # type: ignore[arg-type]


def _keep_gradients(rank: int, folder: str) -> None:
    """What one of two processes computes on its half of the batch, left in a file."""
    store, limit = f"file://{folder}/store", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=limit)
    module, x, y = two_layers()
    parallel = DistributedDataParallel(BoundGraph(module, x[:1], "crown-ibp"))
    found = parallel(x[rank::2], 0.1, y[rank::2])
    terms = [functional.cross_entropy(scores, y[rank::2]) for scores in (found.worst, found.logits)]
    (terms[0] + terms[1]).backward()
    torch.save([parameter.grad for parameter in module.parameters() if parameter.grad is not None], f"{folder}/{rank}")
    dist.barrier()
    os._exit(0)  # the tear-down of process groups can wait for ever, and is not what is tested


@together
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    run_two(_keep_gradients, str(tmp_path), seconds=120)
    gradients: list[Tensor] = torch.load(tmp_path / "0")
    module, x, y = two_layers()
    found = BoundGraph(module, x[:1], "crown-ibp")(x, 0.1, y)
    assert found.logits is not None
    (functional.cross_entropy(found.worst, y) + functional.cross_entropy(found.logits, y)).backward()
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient)
