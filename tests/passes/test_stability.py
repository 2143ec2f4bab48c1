"""Stability labels by hand, and what the analysis asks for."""

from __future__ import annotations

import torch

from irverify.ir.text import parse_graph
from irverify.pipeline import Stability, run
from irverify.regions import Box


def labels(operator: str, *pairs: tuple[float, float]) -> Stability:
    ends = torch.tensor(pairs, dtype=torch.float64)
    graph = parse_graph(f'graph "t" {{\n%x: f64[{len(pairs)}] = input()\n%y = {operator}\nreturn %y\n}}')
    return run(graph, "stability", Box(ends[None, :, 0], ends[None, :, 1])).stability["y"]


def test_relu() -> None:
    found = labels("relu(%x)", (1, 2), (0, 2), (-1, 2), (-1, 0), (-2, -1), (0, 0))
    assert found.piece.tolist() == [[1, 1, -1, 0, 0, 1]]
    assert found.active.tolist() == [[True, True, False, False, False, True]]
    assert found.inactive.tolist() == [[False, False, False, True, True, False]]
    assert found.unstable.tolist() == [[False, False, True, False, False, False]]
    assert found.counts() == (3, 2, 1)


def test_leaky_relu_and_abs() -> None:
    assert labels("leaky_relu(%x)", (1, 2), (-2, -1), (-1, 1)).counts() == (1, 1, 1)
    found = labels("abs(%x)", (1, 2), (-2, -1), (-1, 1))
    assert found.piece.tolist() == [[1, 0, -1]]
    assert found.counts() == (2, 0, 1)


def test_clip() -> None:
    found = labels("clip(%x)", (-3, -1), (-1, 1), (1, 2), (-2, 0), (0, 2), (-2, 2))
    assert found.piece.tolist() == [[0, 1, 2, -1, -1, -1]]
    assert found.counts() == (1, 2, 3)


def test_clip_with_one_end() -> None:
    found = labels("clip(%x) {lower=0.0, upper=inf}", (1, 2), (-2, -1), (-1, 1))
    assert found.piece.tolist() == [[1, 0, -1]]


def test_smooth_activations_have_no_pieces() -> None:
    graph = parse_graph('graph "t" {\n%x: f64[1] = input()\n%y = tanh(%x)\nreturn %y\n}')
    state = run(graph, "stability", Box(torch.zeros(1, 1).double(), torch.ones(1, 1).double()))
    assert state.stability == {}
    assert state.timings[-1].statistics == {"active": 0, "inactive": 0, "unstable": 0}


GRAPH = """
graph "t" {
  %x: f64[1] = input()
  %a = relu(%x)
  %b = scale_shift(%a) {shift=tensor(-0.5)}
  %c = relu(%b)
  return %c
}
"""


def test_asks_ibp_for_bounds_that_nobody_has_computed() -> None:
    state = run(parse_graph(GRAPH), "stability", Box(torch.zeros(2, 1).double(), torch.ones(2, 1).double()))
    assert [timing.step for timing in state.timings] == ["ibp", "stability"]
    assert state.timings[-1].statistics == {"active": 2, "inactive": 0, "unstable": 2}


def test_takes_the_tightest_bounds_that_are_known() -> None:
    region = Box(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    tighter = (torch.tensor([[0.0]]), torch.tensor([[0.25]]))
    state = run(parse_graph(GRAPH), "interval,stability", region, bounds={"a": tighter})
    assert [timing.step for timing in state.timings] == ["interval", "stability"]
    assert state.stability["c"].counts() == (0, 1, 0)
