"""Margins by one walk, which forgets what nobody reads any more."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.graph import Node
from irverify.ir.ops import Relu, Sigmoid
from irverify.ir.text import parse_graph
from irverify.passes import propagate
from irverify.passes.propagate import Interval, IntervalRule
from irverify.pipeline import margins, run
from irverify.pipeline.manager import run_alone
from irverify.regions import Box
from tests.random_graphs import AFFINE, boxes, conv, elementwise, graphs, max_pool

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


@pytest.mark.parametrize("method", ["crown", "ibp,crown", "stability", "improved-interval", "alpha{steps=1}"])
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


def test_margins_need_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two values are held: what is read, and what is made."""
    layers = "\n".join(
        f"  %z{k} = linear(%r{k}) {{weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}}\n  %r{k + 1} = relu(%z{k})"
        for k in range(6)
    )
    graph = parse_graph(f'graph "deep" {{\n  %x: f64[2] = input()\n  %r0 = relu(%x)\n{layers}\n  return %r6\n}}')
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []
    applied = propagate._applied

    def counted(node: Node, rule: IntervalRule, operands: list[Interval]) -> Interval:
        found = applied(node, rule, operands)
        made.extend(weakref.ref(side) for side in found)
        alive.append(sum(side() is not None for side in made))
        return found

    monkeypatch.setattr(propagate, "_applied", counted)
    margins(graph, Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double()), 0)
    assert max(alive) <= 6  # with those that were read last
