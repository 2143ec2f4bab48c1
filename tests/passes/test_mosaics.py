"""Values that are another one element by element, and rows that pass them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Concat, Gather, Neg, Pad, Relu, Reshape, Sub
from irverify.ir.types import TensorType
from irverify.passes import crown
from irverify.passes.adjoints import before_gather
from irverify.passes.eliminate_stable import eliminated
from irverify.passes.forms import Units
from irverify.passes.mosaics import mosaics
from irverify.train.masked_relu import MaskedReLU
from tests.random_graphs import AFFINE, boxes, elementwise, graphs, points

KINDS = (*AFFINE, *(elementwise(Relu()),) * 4)


def chain(order: list[int]) -> Graph:
    """Elements 1 and 3 of four through a ReLU, element 0 past it; `order` of these and a zero."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2, 2), torch.float64), name="x")
    flat = builder.add(Reshape((4,)), x)
    through = builder.add(Relu(), builder.add(Gather(torch.tensor([1, 3]), 0), flat), name="relu")
    past = builder.add(Gather(torch.tensor([0]), 0), flat)
    padded = builder.add(Pad(((0, 1),)), builder.add(Concat(0), through, past))
    back = builder.add(Gather(torch.tensor(order), 0), padded, name="back")
    return builder.graph([builder.add(Reshape((2, 2)), back, name="y")])


def test_by_hand() -> None:
    found = mosaics(chain([2, 0, 3, 1]))
    assert set(found) == {"back", "y"}  # in the same flat order
    mosaic = found["y"]
    assert (mosaic.operand, mosaic.past.tolist()) == ("x", [0])
    (part,) = mosaic.parts
    assert (part.activation, part.places.tolist(), part.positions.tolist()) == ("relu", [1, 3], [0, 1])


@pytest.mark.parametrize("analysis", ["crown", "crown-zero", "fast-lin", "alpha"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_of_a_single_number(shape: tuple[int, ...], analysis: str) -> None:
    """-x read as a number without axes, through a ReLU: for x in [-1, 3] no less than 0, and no more than 1."""
    builder = GraphBuilder()
    x = builder.input(TensorType(shape, torch.float64), name="x")
    start = builder.add(Reshape(()), builder.add(Neg(), x))
    through = builder.add(Reshape((1,)), builder.add(Relu(), start))
    graph = builder.graph([builder.add(Reshape(shape), builder.add(Gather(torch.tensor([0]), 0), through), name="y")])
    assert set(mosaics(graph)) >= {"y"}
    lower = torch.full((2, *shape), -1.0, dtype=torch.float64)
    found = iv.run(graph, analysis, iv.Box(lower, lower + 4)).bounds["y"]
    assert (found.lower.flatten().tolist(), found.upper.flatten().tolist()) == ([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("order", [[0, 2, 3, 1], [2, 0, 3, 0], [2, 1, 3, 0]])
def test_elements_at_other_places(order: list[int]) -> None:
    assert mosaics(chain(order)) == {}


def test_without_a_gather() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2, 2), torch.float64))
    assert mosaics(builder.graph([builder.add(Reshape((4,)), builder.add(Relu(), x))])) == {}


@settings(max_examples=30)
@given(st.data())
def test_gather_of_single_elements(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=5))
    op = Gather(torch.tensor(indices), axis)
    result = op.infer(TensorType(shape, torch.float64))
    elements = torch.arange(result.size)
    form = before_gather(op, shape, Units(elements, result.shape, torch.zeros(1)))
    assert isinstance(form, Units) and form.shape == shape
    values = torch.arange(TensorType(shape, torch.float64).size).reshape(1, *shape)
    assert form.elements.tolist() == op.evaluate(values).flatten().tolist()


@settings(max_examples=40)
@given(data=st.data())
def test_bounds_hold_and_are_those_of_the_long_way(data: st.DataObject) -> None:
    """ReLUs of random graphs with random pieces: whatever the function then is, it is bounded."""
    graph = data.draw(graphs(kinds=KINDS, max_nodes=6))
    regions = data.draw(boxes(graph))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def piece(shape: tuple[int, ...]) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).to(torch.int8)

    pieces: Mapping[str, Any] = {node.name: piece(node.type.shape) for node in graph if isinstance(node.op, Relu)}
    pruned = eliminated(graph, pieces)
    method = data.draw(st.sampled_from(["crown", "crown-zero", "fast-lin"]))
    state = iv.run(pruned, method, regions)
    for point in points(pruned, regions):
        values = pruned.values(point)
        for name, bounds in state.bounds.items():
            assert bool((values[name] >= bounds.lower - 1e-9).all()) and bool(
                (values[name] <= bounds.upper + 1e-9).all()
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crown, "mosaics", lambda graph: {})
        long = iv.run(pruned, method, regions)
    for name in pruned.outputs:
        for side in ("lower", "upper"):
            torch.testing.assert_close(
                getattr(state.bounds[name], side), getattr(long.bounds[name], side), rtol=1e-9, atol=1e-9
            )


def test_masked_convolutions_in_a_batch() -> None:
    """Windows of several images, a mask in front of a flattening as well; compacted, channels are left out."""
    torch.manual_seed(0)

    def mask(*shape: int) -> MaskedReLU:
        return MaskedReLU(torch.randint(-1, 2, shape))

    first = mask(4, 7, 7)
    first.settle(torch.cat([torch.zeros(1, 7, 7), first.piece[1:]]))
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), first, nn.Conv2d(4, 6, 3, 1, 1), mask(6, 7, 7), nn.Conv2d(6, 4, 3, 2, 1),
        mask(4, 4, 4), nn.Flatten(), nn.Linear(64, 10), mask(10), nn.Linear(10, 3),
    ).double()  # fmt: skip
    x = torch.rand(3, 1, 14, 14).double()
    region = iv.Linf(x, 0.05, clip=(0, 1))
    for passes in ("canonicalize", "compact"):
        graph = iv.run(iv.compile(module, x[:1]), passes).graph
        assert len(mosaics(graph)) >= 3
        labels = torch.tensor([0, 1, 2])
        margins = iv.margins(graph, region, labels, method="crown")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crown, "mosaics", lambda graph: {})
            torch.testing.assert_close(margins, iv.margins(graph, region, labels, method="crown"), rtol=1e-9, atol=1e-9)


def test_an_activation_that_somebody_else_reads() -> None:
    """relu(x) less what a gather takes of it, all in order, is 0: rows of both readers meet before the lines do."""
    builder = GraphBuilder()
    x = builder.input(TensorType((3,), torch.float64), name="x")
    relu = builder.add(Relu(), x, name="relu")
    gathered = builder.add(Gather(torch.arange(3), 0), relu, name="gathered")
    graph = builder.graph([builder.add(Sub(), relu, gathered, name="y")])
    assert mosaics(graph) == {}
    found = iv.run(graph, "crown", iv.Linf(torch.zeros(1, 3).double(), 1.0)).bounds["y"]
    assert (found.lower.tolist(), found.upper.tolist()) == ([[0.0] * 3], [[0.0] * 3])
