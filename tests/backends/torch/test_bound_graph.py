"""Bound graphs: the bounds of the analyses, in whatever way they are computed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import losses
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.errors import PropertyError, RegionError, ShapeError, UnsupportedError, UsageError
from irverify.ir.check import check
from irverify.ir.graph import Graph
from irverify.ir.text import parse_graph
from irverify.pipeline.rows import margin_rows, rows_run
from irverify.regions import Box
from tests.random_graphs import EVERYTHING, JUMPS, graphs

NETWORK = """
graph "net" {
  %x: f64[2] = input()
  %a = linear(%x) {weight=tensor([[1, -1], [2, 1]]), bias=tensor([0, 1])}
  %r = relu(%a)
  %y = linear(%r) {weight=tensor([[1, -2], [0, 1]]), bias=tensor([0.5, 0])}
  return %y
}
"""


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 4, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)).double()


def batch(size: int = 3, extent: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, extent, extent, generator=generator, dtype=torch.float64)
    return x, torch.arange(size) % 4


def test_by_hand() -> None:
    """x = (1, 2), eps 0.5: a in [-2, 0] x [3.5, 6.5], so r = (0, [3.5, 6.5]); y_1 - y_0 = -r_0 + 3 r_1 - 0.5 >= 10."""
    bounded = BoundGraph(parse_graph(NETWORK))(torch.tensor([[1.0, 2.0]]).double(), 0.5, torch.tensor([1]))
    assert bounded.bounds["a"][0].tolist() == [[-2, 3.5]]
    assert bounded.bounds["a"][1].tolist() == [[0, 6.5]]
    assert bounded.margins.tolist() == [[10, 0]]
    assert bounded.worst.tolist() == [[-10, 0]]
    assert bounded.logits is not None
    assert bounded.logits.tolist() == [[-9.5, 5]]


def compared(graph: Graph, method: str, x: tuple[Tensor, ...], eps: float) -> None:
    """Raises AssertionError unless a bound graph says what the analysis says, margins and bounds in between."""
    bound = BoundGraph(graph, method=method)
    labels = torch.arange(x[0].shape[0]) % bound.classes
    regions = tuple(Box(part - eps, part + eps) for part in x)
    found = bound(x, eps, labels)
    state = rows_run(graph, regions, margin_rows(graph, regions, labels), method)
    expected = state.bounds[state.graph.outputs[0]].lower
    scale = max(1.0, *(float(entry.upper.detach().abs().max()) for entry in state.bounds.values()))
    assert torch.allclose(found.margins, expected, rtol=1e-9, atol=1e-9 * scale)
    for name, (lower, upper) in found.bounds.items():
        assert torch.allclose(lower, state.bounds[name].lower, rtol=1e-9, atol=1e-9 * scale)
        assert torch.allclose(upper, state.bounds[name].upper, rtol=1e-9, atol=1e-9 * scale)
    values = graph.values({node.name: part for node, part in zip(graph.inputs, x, strict=True)})
    logits = torch.cat([values[name].reshape(len(labels), -1) for name in graph.outputs], dim=1)
    assert found.logits is not None
    assert torch.allclose(found.logits, logits, rtol=1e-9, atol=1e-9 * scale)
    if found.backward is not None:
        assert found.interval is not None
        assert torch.equal(found.margins, torch.maximum(found.backward, found.interval))


@settings(max_examples=40, deadline=None)
@given(graph=graphs(kinds=EVERYTHING), seed=st.integers(0, 1000), method=st.sampled_from(("ibp", "crown-ibp")))
def test_says_what_the_analyses_say(graph: Graph, seed: int, method: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = tuple(torch.randn(2, *node.type.shape, generator=generator, dtype=torch.float64) for node in graph.inputs)
    compared(graph, method, x, 0.1)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_values_that_are_a_single_number(method: str) -> None:
    graph = parse_graph("""graph "g" {
        %x: f64[] = input()
        %0: f64[] = relu(%x)
        %1: f64[] = neg(%0)
        %y: f64[] = relu(%1)
        return %0, %y
    }""")
    compared(graph, method, (torch.tensor([-0.05, 1.0]).double(),), 0.1)


@settings(max_examples=5, deadline=None)
@given(graph=graphs(kinds=(*JUMPS, *EVERYTHING[:8]), max_nodes=5), method=st.sampled_from(("ibp", "crown-ibp")))
def test_jumps_are_left_to_the_walk(graph: Graph, method: str) -> None:
    compared(graph, method, tuple(torch.full((2, *node.type.shape), 0.3).double() for node in graph.inputs), 0.1)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_margins_of_a_module(method: str, clip: tuple[int, int] | None) -> None:
    module, (x, labels) = convolutional(), batch()
    found = BoundGraph(module, x[:1], method)(x, 0.05, labels, clip)
    graph = iv.compile(module, x[:1])
    assert torch.allclose(found.margins, iv.margins(graph, iv.Linf(x, 0.05, clip=clip), labels, method))
    assert found.logits is not None
    assert torch.equal(found.logits, module(x))
    assert set(found.bounds) == {"0", "2", "5"}


def test_many_classes_have_no_table() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 40)).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for method in ("ibp", "crown-ibp"):
        compared(iv.compile(module, x[:1]), method, (x,), 0.1)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_gradients_are_those_of_finite_differences(method: str) -> None:
    module, (x, labels) = convolutional(), batch(2)
    bound = BoundGraph(module, x[:1], method)
    parameters = [module.get_parameter(name) for name in ("0.bias", "2.weight", "7.weight", "7.bias")]

    def margins(*given: Tensor) -> Tensor:
        found = bound(x, 0.05, labels)
        return torch.cat([found.margins, found.margins if found.interval is None else found.interval])

    assert torch.autograd.gradcheck(margins, parameters, fast_mode=True)


def test_parameters_are_the_modules_own() -> None:
    module, (x, labels) = convolutional(), batch()
    bound = BoundGraph(module, x[:1])
    assert [id(part) for part in bound.parameters()] == [id(part) for part in module.parameters()]
    assert list(bound.state_dict()) == list(module.state_dict())
    before = bound(x, 0.05, labels).margins
    bound.load_state_dict({name: 2 * tensor for name, tensor in module.state_dict().items()})
    after = bound(x, 0.05, labels).margins
    assert not torch.allclose(before, after)
    assert torch.allclose(after, BoundGraph(module, x[:1])(x, 0.05, labels).margins)
    whole = nn.Sequential(bound)
    whole.load_state_dict(whole.state_dict())
    assert next(iter(whole.state_dict())) == "0.0.weight"


def test_moved_to_another_type() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.rand(2, 3)
    bound = BoundGraph(module, x[:1])
    bound.double()
    found = bound(x, 0.1, torch.tensor([0, 1]))
    assert found.margins.dtype == torch.float64
    assert found.logits is not None
    assert torch.allclose(found.logits, module(x.double()))
    module.get_buffer("1.running_mean").add_(1.0)  # the graph was read with another tensor
    expected = iv.margins(iv.compile(module, x[:1]), iv.Linf(x.double(), 0.1), [0, 1])
    assert torch.allclose(bound(x, 0.1, torch.tensor([0, 1])).margins, expected)
    walk = BoundGraph(module.float(), x[:1], "crown")
    walk.double()
    assert walk.graph.parameters()["1.mean"] is module.get_buffer("1.running_mean")


@pytest.mark.parametrize("normalised", [False, True])
def test_losses_of_what_was_moved_to_another_type(normalised: bool) -> None:
    """The graph is one and the same in all steps: what is kept for it is not made anew in each."""
    middle = nn.BatchNorm1d(4) if normalised else nn.Identity()
    module = nn.Sequential(nn.Linear(3, 4), middle, nn.ReLU(), nn.Linear(4, 3)).eval()
    x, labels = torch.rand(2, 3), torch.tensor([0, 1])
    bound = BoundGraph(module, x[:1])
    first = bound.graph
    for change in (module.double, module.float):
        change()
        x = x.to(next(module.parameters()).dtype)
        expected = losses.singleprop(iv.compile(module, x[:1]), x, labels, 0.1)
        assert losses.singleprop(bound, x, labels, 0.1) == expected
        assert bound.graph is bound.graph and bound.graph is not first
        check(bound.graph)
    module[0].weight = nn.Parameter(2 * module.get_parameter("0.weight"))
    expected = losses.singleprop(iv.compile(module, x[:1]), x, labels, 0.1)
    assert losses.singleprop(bound, x, labels, 0.1) == expected


def test_copies_are_apart() -> None:
    module, (x, labels) = convolutional(), batch()
    bound = BoundGraph(module, x[:1])
    before = bound(x, 0.05, labels).margins
    twin = copy.deepcopy(bound)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(bound(x, 0.05, labels).margins, before)
    assert not torch.allclose(twin(x, 0.05, labels).margins, before)


def test_labels_may_be_the_predictions() -> None:
    module, (x, _) = convolutional(), batch()
    bound = BoundGraph(module, x[:1])
    assert torch.equal(bound(x, 0.05).margins, bound(x, 0.05, module(x).argmax(1), clean=False).margins)
    assert bound(x, 0.05, clean=False).logits is None


def test_compiled() -> None:
    """With a backend that needs no compiler of C++; the code is the same."""
    module, (x, labels) = convolutional(), batch()
    bound = BoundGraph(module, x[:1], "crown-ibp")
    expected = bound(x, 0.05, labels).margins
    compiled = torch.compile(bound, backend="eager")
    assert torch.allclose(compiled(x, 0.05, labels).margins, expected)


def test_what_does_not_fit() -> None:
    module, (x, labels) = convolutional(), batch()
    bound = BoundGraph(module, x[:1])
    cases: list[tuple[type[Exception], str, tuple[object, ...]]] = [
        (ShapeError, "expected a tensor", (x[:, :, :4], 0.1, labels)),
        (UsageError, "tensor of floats", (x.long(), 0.1, labels)),
        (RegionError, "eps must be", (x, float("nan"), labels)),
        (RegionError, "eps must be", (x, -torch.ones(()), labels)),
        (RegionError, "broadcasts", (x, torch.ones(3), labels)),
        (RegionError, "empty", (x + 3, 0.1, labels, (0, 1))),
        (RegionError, "broadcasts", (x, 0.1, labels, (torch.zeros(5, 1, 8, 8), 1))),
        (PropertyError, "labels in", (x, 0.1, labels + 2)),
        (PropertyError, "whole numbers", (x, 0.1, labels[:1])),
    ]
    for kind, words, arguments in cases:
        with pytest.raises(kind, match=words):
            bound(*arguments)
    with pytest.raises(UsageError, match="certifies nothing"):
        BoundGraph(module, x[:1], "singleprop-zero")
    with pytest.raises(UsageError, match="inputs alone"):
        BoundGraph(parse_graph('graph "g" {\n  %x: f64[2] = input()\n  %w: f64[2] = operand()\n'
                               "  %y = add(%x, %w)\n  return %y\n}"))  # fmt: skip


def test_dropout_in_training_mode_is_refused() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3))
    bound = BoundGraph(module, torch.rand(1, 3))
    assert module[1].training
    with pytest.raises(UnsupportedError, match="1 \\(Dropout\\)"):
        bound(torch.rand(2, 3), 0.1)
    bound.eval()
    assert bound(torch.rand(2, 3), 0.1).margins.shape == (2, 3)
