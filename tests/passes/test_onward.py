"""Rows that pass an activation and the convolution that it reads at once, against one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Conv, Identity, Linear, LinearOp, Neg, Relu, Reshape, Slice, Transpose
from irverify.ir.types import TensorType
from irverify.kernels import available
from irverify.kernels import rows as compiled
from irverify.kernels.adjoint import CHIP, SHORT, BentAdjoint
from irverify.passes import passage, sweep
from irverify.passes.onward import Onward
from irverify.passes.passage import Passage
from irverify.passes.view import View
from tests.passes.at_once import counted, drawn

SEEDS = st.integers(0, 2**16)
ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.LeakyReLU, nn.Hardtanh)


class Net(nn.Module):
    """Convolutions with activations, one of which is read twice, as may be a convolution itself."""

    def __init__(self, act: type[nn.Module], channels: int, stride: int, *, skip: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, channels, 3, padding=1), nn.Conv2d(channels, 5, 3, stride, padding=1)
        self.third, self.short = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1)
        self.act, self.skip, self.head = act(), skip, nn.LazyLinear(3)
        self(torch.zeros(1, 2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.act(self.first(x)))
        active = self.act(x)
        after = self.third(active) + (x if self.skip else self.short(active))
        found: Tensor = self.head(self.act(after).flatten(1))
        return found


@contextmanager
def apart() -> Iterator[None]:
    """One operator after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(View, "onward", lambda self, name: None)
        yield


@settings(max_examples=40, deadline=None)
@given(
    SEEDS, st.sampled_from(ACTIVATIONS), st.sampled_from((torch.float32, torch.float64)), st.integers(1, 3),
    st.sampled_from((3, 8)), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_the_same_bounds(
    seed: int, act: type[nn.Module], dtype: torch.dtype, batch: int, channels: int, stride: int, skip: bool
) -> None:
    module = Net(act, channels, stride, skip=skip)
    drawn(module, seed)
    module = module.to(dtype).requires_grad_(False)
    graph = iv.compile(module, torch.zeros(1, 2, 8, 8, dtype=dtype))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 2, 8, 8, generator=generator, dtype=dtype)
    region, rows = iv.Box(x, x + 0.1), torch.randn(batch, 9, 3, generator=generator, dtype=dtype)
    spec = rows, torch.zeros(batch, 9, dtype=dtype)
    state = iv.run(graph, "crown", region, spec=spec)
    with apart():
        other = iv.run(graph, "crown", region, spec=spec)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for name in state.bounds:
        for side in ("lower", "upper"):
            found, expected = (getattr(part.bounds[name], side) for part in (state, other))
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    points = region.sample(20, torch.Generator().manual_seed(seed)).flatten(0, 1)
    values = torch.einsum("bsj,nbj->nbs", rows, module(points).reshape(20, batch, 3))
    assert bool((values >= state.bounds[state.graph.outputs[0]].lower - tolerance).all())


class Blocks(nn.Module):
    """Residual blocks whose convolutions keep the size of what they read; some values are read three times, or once
    more with their axes in another order."""

    def __init__(self, channels: int, *, plain: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(6))
        self.head = nn.Linear(channels * 36, 3)
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        before = x = torch.relu(self.first(x))
        for one, other in zip(self.layers[::2], self.layers[1::2], strict=True):
            inner = one(x)
            last = other(torch.relu(inner)) + x
            before, x = x, torch.relu(last if self.plain else before.transpose(2, 3) + last + before + inner)
        found: Tensor = self.head(x.flatten(1))
        return found


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.sampled_from((2, 5)), st.sampled_from(("crown", "crown-ibp", "fast-lin")))
def test_rows_that_nobody_else_has_are_written_over(seed: int, batch: int, channels: int, method: str) -> None:
    """Which changes no bit of any bound."""
    module = Blocks(channels)
    drawn(module, seed)
    graph = iv.compile(module.requires_grad_(False), torch.zeros(1, 2, 6, 6))
    x = torch.rand(batch, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    region, rows = iv.Box(x, x + 0.05), torch.randn(batch, 9, 3, generator=torch.Generator().manual_seed(seed))
    spec, kept = (rows, torch.zeros(batch, 9)), rows.clone()
    state = iv.run(graph, method, region, spec=spec)
    before, bend, over, bent = BentAdjoint.__call__, compiled.bend, list[bool](), list[bool]()

    def elsewhere(self: BentAdjoint, *given: Tensor, spent: bool, twice: bool) -> tuple[Tensor, Tensor] | None:
        over.append(spent)
        return before(self, *given, twice=twice)

    def bent_elsewhere(*given: Any, spent: bool) -> tuple[Tensor, Tensor] | None:
        bent.append(spent)
        return bend(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BentAdjoint, "__call__", elsewhere)
        patch.setattr(compiled, "bend", bent_elsewhere)
        other = iv.run(graph, method, region, spec=spec)
    assert any(over) or method != "crown-ibp" or not CHIP
    assert any(bent) or method != "fast-lin" or not available()
    assert torch.equal(rows, kept)
    for name in state.bounds:
        assert torch.equal(state.bounds[name].lower, other.bounds[name].lower)
        assert torch.equal(state.bounds[name].upper, other.bounds[name].upper)


def of_views(shape: tuple[int, ...], op: LinearOp) -> Graph:
    """A sum of sums, one operand of which is another view of a value: rows over it wait there, in memory that rows over
    the others have, when these meet their lines."""
    builder, generator = GraphBuilder("test"), torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    def layer(name: str) -> str:
        if len(shape) == 1:
            return builder.add(Linear(random(*shape, *shape), None), name)
        weight = random(shape[0], shape[0], 3, 3)
        return builder.add(Conv(weight, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), name)

    x = builder.input(TensorType(shape))
    far = builder.add(Relu(), layer(x))
    first, second = layer(x), layer(x)
    first, second = builder.add(Relu(), first), builder.add(Relu(), second)
    view = builder.add(op, far)
    total = builder.add(Add(), builder.add(Add(), first, second), view)
    flat = builder.add(Reshape((math.prod(shape),)), builder.add(Relu(), total))
    return builder.graph([builder.add(Linear(random(12, math.prod(shape)), None), flat)])


VIEWS: tuple[tuple[tuple[int, ...], LinearOp], ...] = (
    ((6,), Reshape((6,))), ((6,), Slice((0,), (6,), (1,))), ((6,), Identity()),
    ((1, 3, 3), Reshape((1, 3, 3))), ((1, 3, 3), Identity()), ((2, 3, 3), Transpose((0, 2, 1))),
    ((2, 3, 3), Slice((0, 0, 0), (2, 3, 3), (1, 1, 1))), ((2, 3, 3), Neg()),
)  # fmt: skip


@pytest.mark.parametrize("method", ["crown", "crown-ibp", "crown-zero", "fast-lin"])
@pytest.mark.parametrize("shape, op", VIEWS)
def test_rows_that_wait_in_a_view_are_not_written_over(shape: tuple[int, ...], op: LinearOp, method: str) -> None:
    graph, bend, through = of_views(shape, op), compiled.bend, BentAdjoint.__call__
    region = iv.Box(torch.full((1, *shape), -0.5), torch.full((1, *shape), 0.5))
    state = iv.run(graph, method, region)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "bend", lambda *given, spent: bend(*given))
        patch.setattr(BentAdjoint, "__call__", lambda *given, spent, twice: through(*given, twice=twice))
        other = iv.run(graph, method, region)
    for name in state.bounds:
        assert torch.equal(state.bounds[name].lower, other.bounds[name].lower)
        assert torch.equal(state.bounds[name].upper, other.bounds[name].upper)


@pytest.mark.skipif(not CHIP, reason="no compiled code for this processor")
@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from((2, 5)), st.sampled_from(("crown", "fast-lin")), st.integers(1, 2))
def test_residual_blocks_in_parts(seed: int, channels: int, method: str, batch: int) -> None:
    module = Blocks(channels, plain=True)
    drawn(module, seed)
    graph = iv.compile(module.requires_grad_(False), torch.zeros(1, 2, 6, 6))
    x = torch.rand(batch, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    region, spec = iv.Box(x, x + 0.05), (torch.randn(batch, 40, 3), torch.zeros(batch, 40))
    state, was = iv.run(graph, method, region, spec=spec), list[bool]()
    before = Passage._in_parts

    def noted(*given: Any) -> bool:
        was.append(before(*given))
        return was[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passage, "PART", 1)
        patch.setattr(passage, "TALL", SHORT)
        patch.setattr(Passage, "_in_parts", noted)
        other = iv.run(graph, method, region, spec=spec)
    assert any(was) or batch > 1 or method == "crown"
    for name in state.bounds:
        torch.testing.assert_close(state.bounds[name].lower, other.bounds[name].lower, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state.bounds[name].upper, other.bounds[name].upper, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not CHIP, reason="no compiled code for this processor")
def test_where_it_is_so() -> None:
    """Through activations of convolutions where nobody looks at these, and through convolutions alone."""
    module = Net(nn.ReLU, 8, 1, skip=False).requires_grad_(False)
    x = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = iv.compile(module, x[:1])
    spec = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 9)
    with counted(Onward) as found:
        iv.run(graph, "crown-ibp", iv.Box(x, x + 0.1), spec=spec)
    assert [one.around for one in found] == [False, False, True, True]


@pytest.mark.skipif(not CHIP, reason="no compiled code for this processor")
def test_rows_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are too many behind a convolution go through its activation alone, and on in parts."""
    first, last = (nn.Conv2d(1, 16, 1), nn.ReLU()), (nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3))
    module = nn.Sequential(*first, nn.Conv2d(16, 2, 1), nn.ReLU(), *last)
    drawn(module, 0)
    module = module.requires_grad_(False)
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = iv.compile(module, x)
    spec = torch.randn(1, 32, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 32)
    with counted(Onward) as whole:
        iv.run(graph, "crown-ibp", iv.Box(x, x + 0.1), spec=spec)
    monkeypatch.setattr(iv.passes.crown, "CHUNK", 16 * 1024 * 4)  # sixteen rows over the widest value
    with counted(Onward) as parts:
        iv.run(graph, "crown-ibp", iv.Box(x, x + 0.1), spec=spec)
    assert [one.around for one in whole] == [True, True]
    assert [one.around for one in parts] == [False, True, False, True]


@pytest.mark.parametrize("of", ["rows", "parameters", "box"])
def test_gradients(of: str) -> None:
    """As one after the other, which is how they are found."""
    module = Net(nn.ReLU, 3, 1, skip=True)
    drawn(module, 3)
    module = module.double().requires_grad_(of == "parameters")
    x = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = iv.compile(module, x[:1])
    rows = torch.ones(2, 9, 3, dtype=torch.float64).requires_grad_(of == "rows")
    radius = torch.full_like(x, 0.1).requires_grad_(of == "box")
    given: dict[str, Sequence[Tensor]] = {"rows": [rows], "parameters": [*module.parameters()], "box": [radius]}
    sources = given[of]

    def gradients() -> tuple[Tensor | None, ...]:
        state = iv.run(graph, "crown", iv.Box(x, x + radius), spec=(rows, torch.zeros(2, 9, dtype=torch.float64)))
        result = state.bounds[state.graph.outputs[0]].lower.sum()
        return torch.autograd.grad(result, sources, allow_unused=True)

    found = gradients()
    with apart():
        expected = gradients()
    assert any(gradient is not None and bool(gradient.any()) for gradient in expected)
    torch.testing.assert_close(found, expected)


def test_gradients_in_one_of_two_inputs() -> None:
    """Where rows pass convolutions that keep their size, with nothing around them, and are looked at on their way."""
    builder = GraphBuilder()
    kind = TensorType((4, 4, 4), torch.float64)
    one, other = (builder.input(kind, name) for name in ("one", "other"))
    generator = torch.Generator().manual_seed(0)

    def conv(value: str) -> str:
        weight = torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64) / 6
        return builder.add(Conv(weight, padding=((1, 1), (1, 1))), value)

    inner = conv(conv(one))
    bent = builder.add(Relu(), builder.add(Add(), conv(builder.add(Relu(), conv(other))), conv(inner)))
    graph = builder.graph([builder.add(Relu(), conv(builder.add(Add(), bent, builder.add(Relu(), inner))))])
    x = torch.rand(1, 4, 4, 4, generator=generator, dtype=torch.float64)

    def gradient() -> Tensor:
        radius = torch.full_like(x, 0.2).requires_grad_()
        state = iv.run(graph, "crown", (iv.Box(x - radius, x + radius), iv.Box(x - 0.2, x + 0.2)))
        total = sum(bounds.lower.sum() - bounds.upper.sum() for bounds in state.bounds.values())
        assert isinstance(total, Tensor)
        return torch.autograd.grad(total, radius)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LITTLE", 0)
        found = gradient()
        with apart():
            expected = gradient()
    torch.testing.assert_close(found, expected)
