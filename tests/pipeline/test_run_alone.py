"""Margins by one walk, which forgets what nobody reads any more."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.graph import Node
from irverify.ir.ops import Add, Relu, Sigmoid
from irverify.ir.text import parse_graph
from irverify.ir.types import TensorType
from irverify.passes import crown, frugal, sweep
from irverify.passes.ibp import IBP
from irverify.passes.lines import Drawn
from irverify.passes.needs import waited_at
from irverify.passes.propagate import Interval, IntervalRule, Spent, applied
from irverify.pipeline import margins, run
from irverify.pipeline.manager import run_alone
from irverify.regions import Box
from tests.random_graphs import AFFINE, boxes, conv, elementwise, graphs, max_pool

RELUS = (*AFFINE, *(conv,) * 3, *(elementwise(Relu()),) * 4)
KINDS = (*AFFINE, *(conv,) * 3, *(elementwise(op) for op in (Relu(), Relu(), Sigmoid())), max_pool)


@pytest.mark.parametrize("method", ["ibp", "interval"])
@given(data=st.data())
def test_the_bounds_are_the_same(method: str, data: st.DataObject) -> None:
    """Bit by bit, with values that are read several times, or are outputs and read, too."""
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    whole, alone = run(graph, method, regions).bounds, run_alone(graph, method, regions, {}).bounds
    inputs = {node.name for node in graph.inputs}
    assert set(graph.outputs) - inputs <= set(alone) <= set(graph.outputs) | inputs | {
        node.name for node in graph if not any(node.name in other.inputs for other in graph)
    }
    for name in graph.outputs:
        assert torch.equal(alone[name].lower, whole[name].lower)
        assert torch.equal(alone[name].upper, whole[name].upper)
        assert alone[name].source == whole[name].source


@settings(deadline=None)
@given(data=st.data(), method=st.sampled_from(("crown", "crown-zero", "crown-ibp", "fast-lin")))
def test_linear_bounds_forget_where_only_relus_are(data: st.DataObject, method: str) -> None:
    """Bit by bit, whatever values rows wait at while others are looked at."""
    graph = data.draw(graphs(kinds=RELUS))
    regions = data.draw(boxes(graph, batch=data.draw(st.integers(1, 3))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LITTLE", data.draw(st.sampled_from((0, 2**10, 2**17))))
        patch.setattr(sweep, "PROBE", 0)
        patch.setattr(sweep, "WORTH", -1)
        whole, alone = run(graph, method, regions).bounds, run_alone(graph, method, regions, {}).bounds
    for name in graph.outputs:
        assert torch.equal(alone[name].lower, whole[name].lower)
        assert torch.equal(alone[name].upper, whole[name].upper)


def test_sums_in_memory_that_nobody_reads() -> None:
    """[0, 2] + [1, 4], whichever may be written over; what somebody reads yet is left as it is."""
    ends = [torch.tensor([[end]]) for end in (0.0, 2.0, 1.0, 4.0)]
    node = Node("y", Add(), ("a", "b"), TensorType((1,), torch.float32))
    rule = IBP.find(Add)
    assert rule is not None
    for first, second in product((Interval, Spent), repeat=2):
        one, two = (kind(*(end.clone() for end in pair)) for kind, pair in ((first, ends[:2]), (second, ends[2:])))
        found = rule(node, one, two)
        assert [side.item() for side in found] == [1, 6]
        for operand, kind, pair in ((one, first, ends[:2]), (two, second, ends[2:])):
            assert kind is Spent or [side.item() for side in operand] == [side.item() for side in pair]
        written = [side.data_ptr() for operand in (one, two) for side in operand]
        assert (found.lower.data_ptr() in written) == (Spent in (first, second))
    row, column = torch.ones(1, 2, 3), torch.ones(1, 3, 2).mT
    for mine, other in ((row, column), (column, row)):
        found = rule(node, Spent(mine.clone(), mine.clone()), Interval(other, other.clone()))
        assert found.lower.stride() == (mine + other).stride()
    wide = Interval(*(end.double() for end in ends[2:]))
    found = rule(node, Spent(ends[0], ends[1]), wide)
    assert found.lower.dtype == torch.float64


def test_rows_that_are_never_looked_at_wait_for_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are held, and not what they are made from."""
    graph = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %a = relu(%z)
  %b = linear(%a) {weight=tensor([[1, -1], [1, 1]]), bias=tensor([0, 0])}
  %c = relu(%b)
  %d = linear(%c) {weight=tensor([[1, -1], [1, 1]]), bias=tensor([0, 0])}
  %f = relu(%d)
  return %f
}
""")
    region = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    walks: list[crown._Walk] = []
    refine = crown._Walk.refine

    def noted(walk: crown._Walk, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        if node.name == "f":
            walks.append(walk)
            seen.append(set(results))
        return refine(walk, node, interval, results)

    monkeypatch.setattr(crown._Walk, "refine", noted)
    seen: list[set[str]] = []
    run_alone(graph, "crown", region, {})
    assert seen.pop() == {"x", "d"}
    walk = walks.pop()
    assert not walk.leans
    assert isinstance(walk.context.relaxed["c"], Drawn)
    with pytest.raises(AssertionError, match="drawn"):
        walk.context.relaxed["c"].through(torch.zeros(1, 2), lambda tensor: tensor)
    monkeypatch.setattr(sweep, "LITTLE", 0)
    run_alone(graph, "crown", region, {})
    assert seen.pop() == {"x", "z", "b", "d"}


def test_values_that_rows_wait_at() -> None:
    """The inner block's operand, which its other branch and the sum read; not what one row passes after the other."""
    graph = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %a = relu(%z)
  %b = linear(%a) {weight=tensor([[1, -1], [1, 1]]), bias=tensor([0, 0])}
  %c = relu(%b)
  %d = linear(%c) {weight=tensor([[1, -1], [1, 1]]), bias=tensor([0, 0])}
  %e = add(%d, %a)
  %f = relu(%e)
  return %f
}
""")
    assert waited_at(graph, frozenset("zbe")) == frozenset("xzabe")
    assert waited_at(graph, frozenset("z")) == frozenset("xz")
    region = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    assert run_alone(graph, "crown", region, {}).bounds.keys() == {"x", "f"}


@pytest.mark.parametrize("method", ["ibp,crown", "stability", "alpha{steps=1}"])
def test_other_passes_keep_all(method: str) -> None:
    graph = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %r = relu(%z)
  %y = linear(%r) {weight=tensor([[1, -1]]), bias=tensor([1])}
  return %y
}
""")
    region = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    assert run_alone(graph, method, region, {}).bounds.keys() == run(graph, method, region).bounds.keys()


def test_what_fails_fails_alike() -> None:
    """An overflow is told by the same error, at the same value."""
    graph = parse_graph("""
graph "test" {
  %x: f32[2] = input()
  %z = linear(%x) {weight=tensor([[3e38, 3e38], [1, -1]]), bias=tensor([0, 0])}
  %a = relu(%z)
  %b = linear(%a) {weight=tensor([[1, -1]]), bias=tensor([0])}
  %y = relu(%b)
  return %y
}
""")
    region = Box(torch.full((1, 2), -9.0), torch.full((1, 2), 9.0))
    told = []
    for alone in (False, True):
        with pytest.raises(UnsupportedError) as raised:
            run_alone(graph, "ibp", region, {}) if alone else run(graph, "ibp", region)
        told.append(str(raised.value))
    assert told[0] == told[1]


@pytest.mark.parametrize("method", ["ibp", "interval"])
@given(data=st.data())
def test_some_examples_at_a_time(method: str, data: st.DataObject) -> None:
    """Wide values for one, two or three examples at a time, and nothing that others may see is written over."""
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    ends = [side for region in regions for side in region.box()]
    before, whole = [side.clone() for side in ends], run(graph, method, regions).bounds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frugal, "HELD", data.draw(st.sampled_from((1, 64, 512))))
        first, second = (run_alone(graph, method, regions, {}).bounds for _ in range(2))
    for side, unchanged in zip(ends, before, strict=True):
        assert torch.equal(side, unchanged)
    for name in graph.outputs:
        for found in (first[name], second[name]):
            torch.testing.assert_close(found.lower, whole[name].lower, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.upper, whole[name].upper, rtol=1e-9, atol=1e-9)


POOLED = """
graph "pooled" {
  %x: f64[1, 6, 6] = input()
  %c = conv(%x) {weight=tensor([[[[1, -1], [2, 1]]], [[[1, 1], [-1, 3]]]]), bias=tensor([1, -1]), stride=(1, 1), \
padding=((0, 1), (0, 1)), dilation=(1, 1), groups=1}
  %r = relu(%c)
  %m = max_pool(%r) {kernel=(3, 3), stride=(3, 3), padding=((0, 0), (0, 0)), dilation=(1, 1)}
  %f = reshape(%m) {shape=(8,)}
  return %f
}
""".replace("\\\n", "")


@pytest.mark.parametrize("batch", [0, 1, 2, 5, 7])
def test_wide_planes(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolution, ReLU and pooling are computed for two examples at a time, whatever is left at the end."""
    graph = parse_graph(POOLED)
    generator = torch.Generator().manual_seed(batch)
    lower = torch.randn(batch, 1, 6, 6, dtype=torch.float64, generator=generator)
    region = Box(lower, lower + torch.rand(lower.shape, dtype=torch.float64, generator=generator))
    sizes = []
    def counted(node: Node, rule: IntervalRule, operands: list[Interval]) -> Interval:
        sizes.append(operands[0].lower.shape[0])
        return applied(node, rule, operands)

    monkeypatch.setattr(frugal, "applied", counted)
    monkeypatch.setattr(frugal, "HELD", 2 * 2 * 36 * 8 * frugal.TENSORS)
    found = run_alone(graph, "ibp", region, {}).bounds["f"]
    whole = run(graph, "ibp", region).bounds["f"]
    assert torch.equal(found.lower, whole.lower)
    assert torch.equal(found.upper, whole.upper)
    assert all(size <= 2 for size in sizes[:-1])
    assert sizes[-1] == batch  # what is narrow all at once


@pytest.mark.parametrize("method", ["ibp", "interval"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_wide_planes_of_an_example(method: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one example is wider than what stays in a cache, every node on the way counts, all of one shape too."""
    layer = "conv(%{}) {{weight=tensor([[[[2]]]]), bias=tensor([-1]), stride=(1, 1), padding=((0, 0), (0, 0)), \
dilation=(1, 1), groups=1}}".replace("\\\n", "")
    graph = parse_graph(f"""
graph "narrow" {{
  %x: f64[1, 4, 4] = input()
  %a = {layer.format("x")}
  %b = relu(%a)
  %c = {layer.format("b")}
  %d = relu(%c)
  %e = {layer.format("d")}
  return %e
}}
""")
    monkeypatch.setattr(frugal, "HELD", 1)
    lower = torch.rand(batch, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
    region = Box(lower, lower + 0.5)
    found, whole = run_alone(graph, method, region, {}).bounds["e"], run(graph, method, region).bounds["e"]
    torch.testing.assert_close(found.lower, whole.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.upper, whole.upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["lower", "weight"])
def test_gradients_are_kept(part: str) -> None:
    graph = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %r = relu(%z)
  %y = linear(%r) {weight=tensor([[1, -1]]), bias=tensor([1])}
  return %y
}
""")
    lower = torch.zeros(3, 2).double()
    given = lower if part == "lower" else graph.leaves[0]
    given.requires_grad_()
    region = Box(lower, lower + 1)
    gradients: list[torch.Tensor] = []
    for state in (run(graph, "ibp", region), run_alone(graph, "ibp", region, {})):
        gradients += torch.autograd.grad(state.bounds["y"].lower.sum(), given)
    assert torch.equal(*gradients)


def test_margins_need_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two values are held: what is read, and what is made."""
    layers = "\n".join(
        f"  %z{k} = linear(%r{k}) {{weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}}\n  %r{k + 1} = relu(%z{k})"
        for k in range(6)
    )
    graph = parse_graph(f'graph "deep" {{\n  %x: f64[2] = input()\n  %r0 = relu(%x)\n{layers}\n  return %r6\n}}')
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []
    def counted(node: Node, rule: IntervalRule, operands: list[Interval]) -> Interval:
        found = applied(node, rule, operands)
        made.extend(weakref.ref(side) for side in found)
        alive.append(sum(side() is not None for side in made))
        return found

    monkeypatch.setattr(frugal, "applied", counted)
    margins(graph, Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double()), 0)
    assert max(alive) <= 6  # with those that were read last
