"""Poolings whose rows reach some elements of their operand only, against rows over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.ir.ops import AveragePool, MaxPool
from irverify.passes import alpha, crown, narrow, view
from irverify.passes.bent import Lines
from irverify.passes.forms import Columns, Dense, Form
from irverify.passes.maxima import Selected
from irverify.passes.narrow import Narrow, supporting, winning
from irverify.passes.swept import Swept

SEEDS = st.integers(0, 2**16)
POOLS = ("maximum", "mean")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However few rows there are."""
    monkeypatch.setattr(view, "LARGE", 0)
    yield


class Pooled(nn.Module):
    """Poolings behind ReLUs, one of which is read twice."""

    def __init__(self, pool: Callable[[int], nn.Module], channels: int, extent: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, channels, 3), nn.Conv2d(channels, channels, 3, padding=1)
        self.pool, self.head = pool(2), nn.Linear(channels * ((extent - 2) // 2) ** 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.second(x).relu()
        pooled = self.pool(x)
        found: Tensor = self.head((pooled + nn.functional.avg_pool2d(x, 2)).flatten(1))
        return found


@cache
def net(pool: str, extent: int, dtype: torch.dtype) -> tuple[Pooled, iv.Graph]:
    """A network, and its graph, which follows its parameters."""
    module = Pooled(nn.MaxPool2d if pool == "maximum" else nn.AvgPool2d, 3, extent).to(dtype).requires_grad_(False)
    return module, iv.compile(module, torch.zeros(1, 1, extent, extent, dtype=dtype))


def drawn(module: Pooled, seed: int, shift: float) -> None:
    """Gives a network other parameters; with those of `shift` ReLUs pass on more or less."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        bias = module.second.bias
        assert bias is not None
        bias.add_(shift)


def test_by_hand() -> None:
    """Two windows of two elements; the second and the last element are never passed on."""
    pool = AveragePool((1, 2), (1, 2), ((0, 0), (0, 0)), ((0, 0), (0, 0)), (1, 1))
    slope = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0]).reshape(1, 1, 5)
    found = supporting(pool, Lines(slope, None, None, None), (1, 1, 5))
    assert found is not None
    assert found.index.tolist() == [0, 2]  # the fifth is in no window
    rows, constant = found.before(Dense(torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2)))
    assert constant is None
    assert rows.coefficients.tolist() == [[2.0, 3.0]]
    assert rows.dense().tolist() == [[[[2.0, 0.0, 3.0, 0.0, 0.0]]]]
    steep = Lines(torch.ones(1, 1, 5), None, None, None)
    assert supporting(pool, steep, (1, 1, 5)) is None  # all of them are no gain


def test_a_maximum_by_hand() -> None:
    """`y = x_1` in the first window, `x_3 <= y <= 7` in the second."""
    pool = MaxPool((1, 2), (1, 2), ((0, 0), (0, 0)), (1, 1))
    index = torch.tensor([1, 3]).reshape(1, 1, 1, 2)
    certain, ceiling = (torch.tensor(pair).reshape(1, 1, 1, 2) for pair in ((1.0, 0.0), (5.0, 7.0)))
    found = winning(Selected(pool, (1, 1, 4), index, certain, ceiling), 0)
    assert found is not None
    rows, constant = found.before(Dense(torch.tensor([[2.0, 3.0], [-2.0, -3.0]]).reshape(2, 1, 1, 2)))
    assert constant is not None
    assert constant.tolist() == [0.0, -21.0]
    assert rows.dense().reshape(2, 4).tolist() == [[0.0, 2.0, 0.0, 3.0], [0.0, -2.0, 0.0, 0.0]]
    infinite = Selected(pool, (1, 1, 4), index, certain, ceiling * math.inf)
    assert winning(infinite, 0) is None


def test_columns_of_examples() -> None:
    """Rows of two examples with columns of their own; the second one has fewer."""
    rows = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]])
    form = Columns(rows, torch.tensor([[0, 2], [1, 1]]), (3,), torch.tensor([0, 1, 0]))
    assert form.dense().tolist() == [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [4.0, 0.0, 5.0]]
    tensor = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    assert form.dot(tensor).tolist() == [201.0, 60.0, 504.0]
    assert form.select(torch.tensor([1])).dense().tolist() == [[0.0, 3.0, 0.0]]
    assert form.both_signs().dense()[3:].tolist() == (-form.dense()).tolist()
    assert form.select(torch.tensor([0, 2])).of(0).dense().tolist() == [[1.0, 0.0, 2.0], [4.0, 0.0, 5.0]]


def test_an_element_that_stands_there_again_keeps_its_coefficient() -> None:
    """The second example alone, whose first element is the one that fills up its columns."""
    rows, index = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]), torch.tensor([[0, 1, 2], [0, 2, 0]])
    form = Columns(rows, index, (3,), torch.tensor([0, 1])).select(torch.tensor([1]))
    assert form.dense().tolist() == [[4.0, 0.0, 5.0]]
    assert form.of(1).dense().tolist() == [[4.0, 0.0, 5.0]]


@pytest.mark.usefixtures("always")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SEEDS, st.sampled_from(POOLS), st.sampled_from((torch.float32, torch.float64)),
    st.integers(1, 4), st.sampled_from((6, 7, 9)), st.sampled_from((-9.0, -0.4, 0.0)), st.sampled_from((0.5, 1.0)),
)  # fmt: skip
def test_the_same_bounds(
    seed: int, pool: str, dtype: torch.dtype, batch: int, extent: int, shift: float, share: float
) -> None:
    module, graph = net(pool, extent, dtype)
    drawn(module, seed, shift)
    x = torch.rand(batch, 1, extent, extent, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    region = iv.Box(x, x + 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "SHARE", share)
        found = iv.run(graph, "crown", region).bounds[graph.outputs[0]]
        patch.setattr(view, "LARGE", math.inf)
        expected = iv.run(graph, "crown", region).bounds[graph.outputs[0]]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.lower, expected.lower, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.upper, expected.upper, rtol=tolerance, atol=tolerance)
    points = region.sample(20, torch.Generator().manual_seed(seed)).flatten(0, 1)
    values = module(points).detach().reshape(20, batch, -1)
    assert bool((values >= found.lower - tolerance).all())
    assert bool((values <= found.upper + tolerance).all())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("of", ["rows", "parameters"])
def test_gradients(pool: str, of: str) -> None:
    """In rows and in parameters, as through rows over all elements."""
    module, graph = net(pool, 6, torch.float64)
    drawn(module, 0, -0.4)
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.ones(2, 1, 3, dtype=torch.float64).requires_grad_(of == "rows")
    module.requires_grad_(of == "parameters")
    sources = [rows] if of == "rows" else list(module.parameters())

    def gradients() -> tuple[Tensor, ...]:
        state = iv.run(graph, "crown", iv.Box(x, x + 0.3), spec=(rows, torch.zeros(2, 1, dtype=torch.float64)))
        return torch.autograd.grad(state.bounds[state.graph.outputs[0]].lower.sum(), sources)

    try:
        found = gradients()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(view, "LARGE", math.inf)
            expected = gradients()
    finally:
        module.requires_grad_(False)
    assert any(bool(gradient.any()) for gradient in expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("always")
def test_some_elements_are_reached_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds above come from what they are about."""
    found = []
    before = narrow.Narrow.before

    def noted(self: Narrow, form: Form) -> tuple[Columns, Tensor | None]:
        found.append(self)
        return before(self, form)

    monkeypatch.setattr(narrow.Narrow, "before", noted)
    monkeypatch.setattr(narrow, "SHARE", 1.0)
    module, graph = net("maximum", 6, torch.float32)
    drawn(module, 1, -0.4)
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    iv.run(graph, "crown", iv.Box(x, x + 0.3))
    assert len(found) == 2  # a maximum and a mean


def test_rows_that_go_on_alone_have_the_choices_that_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few they are: choices for some elements only stay choices for these."""
    found = []
    before = Swept.select

    def noted(self: Swept, kept: Tensor) -> Swept:
        other = before(self, kept)
        found.append((self, other))
        return other

    monkeypatch.setattr(Swept, "select", noted)
    monkeypatch.setattr(alpha, "NARROW", 0)  # windows, for a network of any size
    monkeypatch.setattr(narrow, "SHARE", 1.0)
    generator = torch.Generator().manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 2)).requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    monkeypatch.setattr(view, "LARGE", 8 * 3 * 8 * 8)
    x = torch.rand(2, 1, 10, 10, generator=generator)
    iv.run(iv.compile(module, x[:1]), "alpha{steps=1, intermediate=9}", iv.Box(x, x + 0.2))
    assert any(first.rows >= 8 > second.rows for first, second in found)
    for first, second in found:
        assert second.least.shape == first.least.shape
        assert torch.equal(second.start, first.start)
        assert second._sizes == first._sizes


@pytest.mark.usefixtures("always")
def test_rows_over_windows_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where they reach fewer elements than there are windows."""
    found = []
    before = narrow.Narrow.before

    def noted(self: Narrow, form: Form) -> tuple[Columns, Tensor | None]:
        columns, constant = before(self, form)
        found.append((columns.coefficients.shape[0], columns.coefficients.shape[1]))
        return columns, constant

    monkeypatch.setattr(narrow.Narrow, "before", noted)
    monkeypatch.setattr(crown, "CHUNK", 8 * 1152 * 4)  # eight rows over the windows
    generator = torch.Generator().manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 4, 2), nn.ReLU()
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 11 * 11, 2)).requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    module.get_parameter("0.bias")[1:] = -99.0  # only one channel is ever passed on
    x = torch.rand(1, 1, 26, 26, generator=generator)
    iv.run(iv.compile(module, x), "crown", iv.Box(x - 1, x + 1))
    assert found
    assert all(columns < 1152 for _, columns in found)
    assert max(rows for rows, _ in found) <= 8
