"""Rows that pass a pooling, the activation before it and a convolution at once, against one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.kernels.adjoint import CHIP
from irverify.passes import view
from irverify.passes.pooled import Pooled
from tests.passes.at_once import counted, drawn

SEEDS = st.integers(0, 2**16)
ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.LeakyReLU, nn.Hardtanh)


class Net(nn.Module):
    """A pooling of a convolution, before or after its activation, which something else may read too."""

    def __init__(self, pool: str, order: str, act: type[nn.Module], extent: int, stride: int, *, twice: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3, stride=stride, padding=1)
        self.pool = nn.MaxPool2d(2) if pool == "maximum" else nn.AvgPool2d(2)
        self.act, self.order, self.twice = act(), order, twice
        self.last, self.head = nn.Conv2d(5, 4, 2, padding=1), nn.LazyLinear(3)
        self(torch.zeros(1, 1, extent, extent))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        active = self.act(x)
        pooled = self.pool(active) if self.order == "behind" else self.act(self.pool(x))
        if self.twice:
            pooled = pooled - nn.functional.avg_pool2d(active, 2)
        found: Tensor = self.head(self.last(pooled).relu().flatten(1))
        return found


@contextmanager
def apart() -> Iterator[None]:
    """One operator after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "CHIP", 0)
        yield


@settings(max_examples=40, deadline=None)
@given(
    SEEDS, st.sampled_from(("maximum", "mean")), st.sampled_from(("behind", "before")), st.sampled_from(ACTIVATIONS),
    st.sampled_from((torch.float32, torch.float64)), st.integers(1, 3), st.sampled_from((7, 9, 12)),
    st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_the_same_bounds(
    seed: int, pool: str, order: str, act: type[nn.Module], dtype: torch.dtype, batch: int, extent: int, stride: int,
    twice: bool,
) -> None:  # fmt: skip
    module = Net(pool, order, act, extent, stride, twice=twice)
    drawn(module, seed)
    module = module.to(dtype).requires_grad_(False)
    graph = iv.compile(module, torch.zeros(1, 1, extent, extent, dtype=dtype))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 1, extent, extent, generator=generator, dtype=dtype)
    region, rows = iv.Box(x, x + 0.2), torch.randn(batch, 9, 3, generator=generator, dtype=dtype)
    spec = rows, torch.zeros(batch, 9, dtype=dtype)
    with counted(Pooled):
        state = iv.run(graph, "crown", region, spec=spec)
    with apart():
        other = iv.run(graph, "crown", region, spec=spec)
    found, expected = (part.bounds[part.graph.outputs[0]] for part in (state, other))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.lower, expected.lower, rtol=tolerance, atol=tolerance)
    points = region.sample(20, torch.Generator().manual_seed(seed)).flatten(0, 1)
    values = torch.einsum("bsj,nbj->nbs", rows, module(points).reshape(20, batch, 3))
    assert bool((values >= found.lower - tolerance).all())


@pytest.mark.skipif(not CHIP, reason="no compiled code for this processor")
@pytest.mark.parametrize(
    ("pool", "order", "twice", "passes"),
    [("mean", "behind", False, True), ("maximum", "behind", False, True), ("maximum", "before", False, True),
     ("mean", "before", False, False), ("mean", "behind", True, False), ("maximum", "behind", True, False)],
)  # fmt: skip
def test_where_it_is_so(pool: str, order: str, twice: bool, passes: bool) -> None:
    """Not where all elements count, nor where rows of several readers meet the same lines."""
    module = Net(pool, order, nn.ReLU, 9, 1, twice=twice).requires_grad_(False)
    x = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    graph = iv.compile(module, x[:1])
    spec = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 9)
    with counted(Pooled) as found:
        iv.run(graph, "crown-ibp", iv.Box(x, x + 0.2), spec=spec)
    assert bool(found) is passes


@pytest.mark.parametrize("of", ["rows", "parameters"])
def test_gradients(of: str) -> None:
    """As one after the other, which is how they are found."""
    module = Net("maximum", "behind", nn.ReLU, 7, 1, twice=False)
    drawn(module, 3)
    module = module.double().requires_grad_(of == "parameters")
    x = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = iv.compile(module, x[:1])
    rows = torch.ones(2, 9, 3, dtype=torch.float64).requires_grad_(of == "rows")
    sources = [rows] if of == "rows" else list(module.parameters())

    def gradients() -> tuple[Tensor, ...]:
        state = iv.run(graph, "crown", iv.Box(x, x + 0.3), spec=(rows, torch.zeros(2, 9, dtype=torch.float64)))
        return torch.autograd.grad(state.bounds[state.graph.outputs[0]].lower.sum(), sources)

    found = gradients()
    with apart():
        expected = gradients()
    assert any(bool(gradient.any()) for gradient in expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("layers", ["mean", "maximum", "residual", "dense", "sigmoid"])
def test_parameters_that_do_not_stand_together_in_memory(layers: str, expanded: bool) -> None:
    """Parts of other tensors, and one number for all: the bounds are those of the same numbers in a row."""
    generator = torch.Generator().manual_seed(7)
    head = (nn.Flatten(), nn.LazyLinear(20), nn.Sigmoid() if layers == "sigmoid" else nn.ReLU(), nn.Linear(20, 10))
    first = nn.Conv2d(1, 8, 3), nn.ReLU()
    kinds: dict[str, tuple[nn.Module, ...]] = {
        "mean": (*first, nn.AvgPool2d(2)), "maximum": (*first, nn.MaxPool2d(2)), "dense": (), "sigmoid": (),
        "residual": (*first, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), nn.ReLU()),
    }  # fmt: skip
    module = nn.Sequential(*kinds[layers], *head)
    x = torch.rand(2, 1, 8, 8, generator=generator)
    module(x)
    drawn(module, 7)
    if expanded:
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.detach().fill_(0.25)
    module.requires_grad_(False)
    region = iv.Box(x - 0.1, x + 0.1)
    methods = ["ibp", "crown", "crown-ibp", *([] if layers in ("maximum", "sigmoid") else ["fast-lin"])]
    expected = [iv.margins(iv.compile(module, x[:1]), region, [0, 1], method) for method in methods]
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if name == "bias" and expanded:
                other = torch.tensor([0.25]).expand(parameter.shape)
            else:
                other = torch.full((*parameter.shape, 2), 99.0)
                other[..., 0] = parameter
                other = other[..., 0]
            setattr(part, name, nn.Parameter(other, requires_grad=False))
            assert parameter.numel() == 1 or not getattr(part, name).is_contiguous()
    graph = iv.compile(module, x[:1])
    for method, bounds in zip(methods, expected, strict=True):
        torch.testing.assert_close(iv.margins(graph, region, [0, 1], method), bounds, rtol=1e-4, atol=1e-4)
