"""Losses as modules, sums of named terms, and what both refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import losses, regularizers, schedules
from irverify.backends.torch.losses import Projections, Sum, Term
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from tests.backends.torch.small_networks import batch, mlp


class Holder(nn.Module):
    """A module that stands for a graph."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.module, self.graph = module, graph


def test_public_names() -> None:
    assert iv.losses is losses
    assert iv.regularizers is regularizers
    assert iv.schedules is schedules


def test_weights_follow_schedules() -> None:
    _, graph = mlp(4, 6, 3)
    x, y = batch(graph)
    total = Sum({
        "clean": (0.5, Term(losses.clean, graph)),
        "rs": (schedules.Switch(0.1, at=3), Term(regularizers.rs_loss, graph, bounds="interval")),
        "l1": (2e-5, Term(regularizers.l1, graph)),
    })  # fmt: skip
    early, late = total(x, y, 0.1, 2), total(x, y, 0.1, 3)
    assert set(early.terms) == {"clean", "l1"}
    assert early.weights == {"clean": 0.5, "rs": 0.0, "l1": 2e-5}
    expected = 0.5 * losses.clean(graph, x, y) + 2e-5 * regularizers.l1(graph)
    torch.testing.assert_close(early.total, expected)
    rs = regularizers.rs_loss(graph, x, 0.1, bounds="interval")
    torch.testing.assert_close(late.total, expected + 0.1 * rs)


def test_a_term_without_weight_is_not_computed() -> None:
    def never(x: Tensor, y: Tensor, eps: float | Tensor) -> Tensor:
        raise AssertionError

    _, graph = mlp(4, 6, 3)
    x, y = batch(graph)
    total = Sum({"clean": (1.0, Term(losses.clean, graph)), "never": (0.0, never)})(x, y, 0.1)
    torch.testing.assert_close(total.total, losses.clean(graph, x, y))


def test_terms_that_are_found_together() -> None:
    """Paper 2, eq. 10, with the warm-up of lambda and gamma half way."""
    _, graph = mlp(4, 6, 3)
    x, y = batch(graph)
    weights: dict[str, float | schedules.Schedule] = {
        "dual": 1.0, "d": schedules.warm_up(2e-3), "r": schedules.warm_up(0.5),
    }  # fmt: skip
    found = Sum({"tight": (weights, Term(losses.tight_terms, graph))})(x, y, 0.2, 10)
    dual, d, r = losses.tight_terms(graph, x, y, 0.2)
    torch.testing.assert_close(found.total, dual + 1e-3 * d + 0.25 * r)
    assert list(found.terms) == ["tight.dual", "tight.d", "tight.r"]
    with pytest.raises(UsageError, match=r"gives tight\.dual, tight\.d, tight\.r; got weights for tight\.s"):
        Sum({"tight": ({"s": 1.0}, Term(losses.tight_terms, graph))})(x, y, 0.2)


def test_parameters_of_a_bound_graph_are_those_of_its_terms() -> None:
    module, graph = mlp(4, 6, 3)
    total = Sum({"clean": (1.0, Term(losses.clean, Holder(module, graph)))})
    assert {id(p) for p in total.parameters()} == {id(p) for p in module.parameters()}


def test_a_batch_shape_of_eps_for_each_example() -> None:
    _, graph = mlp(4, 6, 3)
    x, y = batch(graph)
    eps = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    each = [losses.dual(graph, x[i : i + 1], y[i : i + 1], float(eps[i])) for i in range(3)]
    torch.testing.assert_close(losses.dual(graph, x, y, eps.unsqueeze(1)), torch.stack(each).mean())


def test_what_is_refused() -> None:
    _, graph = mlp(4, 6, 3)
    x, y = batch(graph)
    with pytest.raises(UsageError, match="graph or a bound graph, got Linear"):
        losses.clean(nn.Linear(4, 3), x, y)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="norm"):
        losses.dual(graph, x, y, 0.1, norm="3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="hidden"):
        losses.dual(graph, x, y, 0.1, hidden="interval", projections=Projections())
    with pytest.raises(UsageError, match="clean takes x, y; got epsilon"):
        Term(losses.clean, graph, epsilon=0.1)
    with pytest.raises(UsageError, match="at least one term"):
        Sum({})
    with pytest.raises(UsageError, match="steps >= 0"):
        losses.Ascent(steps=-1)
    with pytest.raises(UsageError, match="bounds"):
        regularizers.rs_loss(graph, x, 0.1, bounds="crown")  # type: ignore[arg-type]
