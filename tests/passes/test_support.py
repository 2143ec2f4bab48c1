"""What the support table says is so: every method, on every operator, gives bounds that hold or one typed refusal."""

from __future__ import annotations

import pytest
import torch

from irverify.errors import UnsupportedError
from irverify.ir.ops import OPERATORS
from irverify.passes.support import METHODS, support
from irverify.pipeline import run
from irverify.pipeline.catalog import CATALOG
from tests.passes.operator_cases import CASES, network


def test_every_operator_has_a_case() -> None:
    assert set(CASES) == set(OPERATORS)


def test_every_analysis_has_a_table() -> None:
    labels = {"stability"}
    programs = {"lp", "lp-tighten", "milp-tighten"}  # they go by the encodings of the mixed-integer backend
    assert set(METHODS) == {entry.name for entry in CATALOG.values() if entry.kind != "rewrite"} - labels - programs


@pytest.mark.parametrize("method", METHODS)
def test_bounds_that_hold_or_the_refusal_of_the_table(method: str) -> None:
    for word, cells in support(tables=[METHODS[method]]).items():
        said = cells[METHODS[method].analysis]
        graph, region = network(word)
        size = sum(graph[name].type.size for name in graph.outputs)
        rows = torch.stack([torch.ones(size), torch.arange(size) % 3 - 1.0]).double()
        spec = (rows[None], torch.tensor([[0.5, -0.5]]).double())
        try:
            state = run(graph, method, region, spec=spec)
        except UnsupportedError as error:
            assert said not in ("rule", "given"), f"{word}: {error}"
            assert said in str(error), word
            continue
        assert said in ("rule", "given"), f"{word} is refused by the table alone: {said}"
        if "spec" in state.bounds:
            (name,) = graph.outputs
            values = [graph.values({"x": points})[name] for points in region.sample(16)]
            exact = torch.stack(values).reshape(16, 2, -1) @ rows.T + spec[1]
            assert bool((state.bounds["spec"].lower <= exact + 1e-9).all()), word
