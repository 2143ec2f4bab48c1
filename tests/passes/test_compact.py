"""compact in text: what is left out, and what stays; on random graphs with zeros and duplicates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.ir.check import check, same_function
from irverify.ir.graph import Graph, convert, rewrite
from irverify.ir.ops import AveragePool, Conv, Linear, Relu
from irverify.ir.params import Derived, value
from irverify.ir.text import parse_graph
from irverify.pipeline import optimize
from tests.passes.rewrite_text import assert_rewrites, assert_stays
from tests.random_graphs import (
    EVERYTHING,
    Kind,
    average_pool,
    conv,
    elementwise,
    gather,
    graphs,
    linear,
    reshape,
    slice_,
)

NAME = "compact"
CHAINS: tuple[tuple[Kind, ...], ...] = (
    (conv, conv, average_pool, elementwise(Relu()), reshape, linear, gather),
    (linear, elementwise(Relu()), gather, slice_),
)  # fmt: skip


def test_gather_of_linear_takes_rows() -> None:
    assert_rewrites(
        NAME,
        """
        %x: f32[2] = input()
        %a: f32[3] = linear(%x) {weight=tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), bias=tensor([7.0, 8.0, 9.0])}
        %y: f32[2] = gather(%a) {indices=tensor([2, 0], i64), axis=0}
        return %y
        """,
        """
        %x: f32[2] = input()
        %y: f32[2] = linear(%x) {weight=tensor([[5.0, 6.0], [1.0, 2.0]]), bias=tensor([9.0, 7.0])}
        return %y
        """,
    )


def test_linear_of_gather_and_pad_adds_columns() -> None:
    """Element 0 is read by columns 0 and 2; what stands in the padding is dropped."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1] = input()
        %r: f32[1] = relu(%x)
        %p: f32[2] = pad(%r) {padding=((0, 1),)}
        %g: f32[3] = gather(%p) {indices=tensor([0, 1, 0], i64), axis=0}
        %y: f32[1] = linear(%g) {weight=tensor([[1.0, 2.0, 4.0]])}
        return %y
        """,
        """
        %x: f32[1] = input()
        %r: f32[1] = relu(%x)
        %y: f32[1] = linear(%r) {weight=tensor([[5.0]])}
        return %y
        """,
    )


def test_dead_identical_and_constant_neurons() -> None:
    """Neurons 0 and 1 are one; nobody reads 2; 3 is relu(2) = 2 everywhere and adds 3 * 2 to the bias."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1] = input()
        %a: f32[5] = linear(%x) {weight=tensor([[1.0], [1.0], [5.0], [0.0], [4.0]]), \
bias=tensor([1.0, 1.0, 1.0, 2.0, 0.0])}
        %r: f32[5] = relu(%a)
        %y: f32[1] = linear(%r) {weight=tensor([[1.0, 2.0, 0.0, 3.0, 4.0]]), bias=tensor([10.0])}
        return %y
        """,
        """
        %x: f32[1] = input()
        %y.units: f32[2] = linear(%x) {weight=tensor([[1.0], [4.0]]), bias=tensor([1.0, 0.0])}
        %y.units$1: f32[2] = relu(%y.units)
        %y: f32[1] = linear(%y.units$1) {weight=tensor([[3.0, 4.0]]), bias=tensor([16.0])}
        return %y
        """,
    )


def test_dead_channels_of_a_convolution() -> None:
    """The second convolution does not read channel 0; channel 1 is the constant 3, which padding would not carry."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1,2,2] = input()
        %a: f32[3,2,2] = conv(%x) {weight=tensor([[[[1.0]]], [[[0.0]]], [[[2.0]]]]), bias=tensor([1.0, 3.0, 4.0])}
        %r: f32[3,2,2] = relu(%a)
        %y: f32[1,2,2] = conv(%r) {weight=tensor([[[[0.0]], [[2.0]], [[5.0]]]])}
        return %y
        """,
        """
        %x: f32[1,2,2] = input()
        %y.units: f32[1,2,2] = conv(%x) {weight=tensor([[[[2.0]]]]), bias=tensor([4.0])}
        %y.units$1: f32[1,2,2] = relu(%y.units)
        %y: f32[1,2,2] = conv(%y.units$1) {weight=tensor([[[[5.0]]]]), bias=tensor([6.0])}
        return %y
        """,
    )


def test_a_constant_channel_in_front_of_padding_stays() -> None:
    assert_stays(
        NAME,
        """
        %x: f32[1,2,2] = input()
        %a: f32[2,2,2] = conv(%x) {weight=tensor([[[[1.0]]], [[[0.0]]]]), bias=tensor([1.0, 3.0])}
        %r: f32[2,2,2] = relu(%a)
        %y: f32[1,4,2] = conv(%r) {weight=tensor([[[[2.0]], [[5.0]]]]), padding=((1, 1), (0, 0))}
        return %y
        """,
    )


def test_dead_channels_of_a_depthwise_convolution() -> None:
    """Nobody reads channel 1, and so nobody its group and the channel of the first convolution that this reads."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1,2,2] = input()
        %a: f32[3,2,2] = conv(%x) {weight=tensor([[[[1.0]]], [[[2.0]]], [[[3.0]]]])}
        %r: f32[3,2,2] = relu(%a)
        %d: f32[3,2,2] = conv(%r) {weight=tensor([[[[4.0]]], [[[5.0]]], [[[6.0]]]]), bias=tensor([7.0, 8.0, 9.0]), \
groups=3}
        %s: f32[3,2,2] = relu(%d)
        %y: f32[1,2,2] = conv(%s) {weight=tensor([[[[1.0]], [[0.0]], [[2.0]]]])}
        return %y
        """,
        """
        %x: f32[1,2,2] = input()
        %y.read.of0.groups.of0: f32[2,2,2] = conv(%x) {weight=tensor([[[[1.0]]], [[[3.0]]]])}
        %y.read.of0.groups: f32[2,2,2] = relu(%y.read.of0.groups.of0)
        %y.read.of0: f32[2,2,2] = conv(%y.read.of0.groups) {weight=tensor([[[[4.0]]], [[[6.0]]]]), \
bias=tensor([7.0, 9.0]), groups=2}
        %y.read: f32[2,2,2] = relu(%y.read.of0)
        %y: f32[1,2,2] = conv(%y.read) {weight=tensor([[[[1.0]], [[2.0]]]])}
        return %y
        """,
    )


def test_units_of_other_groups_are_other_units() -> None:
    """Rows 0 and 1 are equal but read different channels; 2 and 3 are one unit; 4 and 5 are the constant 3."""
    text = """
        %x: f32[3,1,1] = input()
        %a: f32[6,1,1] = conv(%x) {weight=tensor([[[[1.0]]], [[[2.0]]], [[[1.0]]], [[[1.0]]], [[[0.0]]], [[[0.0]]]]), \
bias=tensor([0.0, 0.0, 0.0, 0.0, 3.0, 3.0]), groups=3}
        %r: f32[6,1,1] = relu(%a)
        %y: f32[1,1,1] = conv(%r) {weight=tensor([[[[1.0]], [[1.0]], [[10.0]], [[100.0]], [[5.0]], [[7.0]]]]), \
bias=tensor([1.0])}
        return %y
        """
    graph = parse_graph(f'graph "g" {{{text}}}')
    after = optimize(graph, NAME, check=True)
    layer = after["y"].op
    assert isinstance(layer, Conv) and layer.bias is not None
    assert value(layer.weight).flatten().tolist() == [1.0, 1.0, 110.0]
    assert value(layer.bias).tolist() == [37.0]


def test_pooling_stands_between_units_and_their_reader() -> None:
    """Channels 0 and 1 are one; 2 is a constant, which its mean over counted padding is not."""
    text = """graph "g" {{
        %x: f32[1,1,4] = input()
        %a: f32[3,1,4] = conv(%x) {{weight=tensor([[[[1.0]]], [[[1.0]]], [[[0.0]]]]), bias=tensor([0.0, 0.0, 3.0])}}
        %p: f32[3,1,2] = average_pool(%a) {{kernel=(1, 3), stride=(1, 3), padding=((0, 0), (1, 1)), \
counted=((0, 0), ({0}, {0})), dilation=(1, 1)}}
        %r: f32[3,1,2] = relu(%p)
        %f: f32[6] = reshape(%r) {{shape=(6,)}}
        %y: f32[1] = linear(%f) {{weight=tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])}}
        return %y
    }}"""
    for counted, channels in ((0, 1), (1, 2)):
        after = optimize(parse_graph(text.format(counted)), NAME, check=True)
        pools = [node.type.shape for node in after if isinstance(node.op, AveragePool)]
        assert pools == [(channels, 1, 2)]


def test_few_elements_of_a_convolution_are_a_linear_of_what_they_read() -> None:
    """Elements 1 and 2 of the result read elements 1 to 3 of the operand: 6 multiplications instead of 8."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1,1,5] = input()
        %c: f32[1,1,4] = conv(%x) {weight=tensor([[[[1.0, 2.0]]]]), bias=tensor([3.0])}
        %f: f32[4] = reshape(%c) {shape=(4,)}
        %y: f32[2] = gather(%f) {indices=tensor([1, 2], i64), axis=0}
        return %y
        """,
        """
        %x: f32[1,1,5] = input()
        %y.flat: f32[5] = reshape(%x) {shape=(5,)}
        %y.reads: f32[3] = gather(%y.flat) {indices=tensor([1, 2, 3], i64), axis=0}
        %y: f32[2] = linear(%y.reads) {weight=tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]]), bias=tensor([3.0, 3.0])}
        return %y
        """,
    )


def test_few_averages_are_a_linear_of_what_they_read() -> None:
    """Nothing on the way has weights of its own."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1,1,4] = input()
        %a: f32[1,1,2] = average_pool(%x) {kernel=(1, 2), stride=(1, 2), padding=((0, 0), (0, 0)), \
counted=((0, 0), (0, 0)), dilation=(1, 1)}
        %f: f32[2] = reshape(%a) {shape=(2,)}
        %y: f32[1] = gather(%f) {indices=tensor([1], i64), axis=0}
        return %y
        """,
        """
        %x: f32[1,1,4] = input()
        %y.flat: f32[4] = reshape(%x) {shape=(4,)}
        %y.reads: f32[2] = gather(%y.flat) {indices=tensor([2, 3], i64), axis=0}
        %y: f32[1] = linear(%y.reads) {weight=tensor([[0.5, 0.5]])}
        return %y
        """,
    )


def test_a_dense_map_follows_a_conversion() -> None:
    text = """graph "g" {
    %x: f32[1,2,5] = input()
    %c: f32[1,1,4] = {MAP}
    %f: f32[4] = reshape(%c) {shape=(4,)}
    %y: f32[2] = gather(%f) {indices=tensor([1, 2], i64), axis=0}
    return %y
    }"""
    maps = (
        "conv(%x) {weight=tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), bias=tensor([3.0])}",
        "average_pool(%x) {kernel=(2, 2), stride=(2, 1), padding=((0, 0), (0, 0)), counted=((0, 0), (0, 0)), "
        "dilation=(1, 1)}",
    )
    for made in maps:
        graph = parse_graph(text.replace("{MAP}", made))
        after = convert(optimize(graph, NAME), torch.float64)
        assert any(isinstance(node.op, Linear) for node in after)
        check(after)
        x = torch.arange(10.0, dtype=torch.float64).reshape(1, 1, 2, 5)
        assert torch.equal(after.evaluate(x), convert(graph, torch.float64).evaluate(x))  # type: ignore[arg-type]


def test_what_is_past_a_concatenation_composes() -> None:
    """`y = W_1 relu(a) + W_2 b`, and b is a linear of x."""
    assert_rewrites(
        NAME,
        """
        %x: f32[1] = input()
        %a: f32[1] = linear(%x) {weight=tensor([[2.0]])}
        %r: f32[1] = relu(%a)
        %b: f32[2] = linear(%x) {weight=tensor([[3.0], [4.0]]), bias=tensor([1.0, 1.0])}
        %c: f32[3] = concat(%r, %b) {axis=0}
        %y: f32[1] = linear(%c) {weight=tensor([[1.0, 10.0, 100.0]]), bias=tensor([5.0])}
        return %y
        """,
        """
        %x: f32[1] = input()
        %a: f32[1] = linear(%x) {weight=tensor([[2.0]])}
        %r: f32[1] = relu(%a)
        %y.term0: f32[1] = linear(%r) {weight=tensor([[1.0]]), bias=tensor([5.0])}
        %y.term1: f32[1] = linear(%x) {weight=tensor([[430.0]]), bias=tensor([110.0])}
        %y: f32[1] = add(%y.term0, %y.term1)
        return %y
        """,
    )


def thinned(graph: Graph, seed: int) -> Graph:
    """Weights rounded to few values, so that zeros, duplicates and constants are frequent."""
    generator = torch.Generator().manual_seed(seed)

    def thin(parameter: object) -> torch.Tensor:
        tensor = value(parameter)  # type: ignore[arg-type]
        kept = torch.rand(tensor.shape, generator=generator) < 0.4
        return torch.where(kept, tensor.sign(), torch.zeros_like(tensor))

    def rule(builder, node, inputs):  # type: ignore[no-untyped-def]
        op = node.op
        if isinstance(op, Linear | Conv):
            op = op.replace(weight=thin(op.weight), bias=None if op.bias is None else thin(op.bias))
        return builder.add(op, *inputs, name=node.name)

    return rewrite(graph, rule)


@pytest.mark.parametrize("kinds", [EVERYTHING, *CHAINS], ids=["everything", "convolutions", "dense"])
@settings(max_examples=20)
@given(data=st.data())
def test_same_function_and_same_values_by_name(kinds: tuple[Kind, ...], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=kinds, max_nodes=12))
    graph = thinned(graph, data.draw(st.integers(0, 1000))) if data.draw(st.booleans()) else graph
    after = optimize(graph, NAME)
    check(after)
    same_function(graph, after)
    shared = [node.name for node in after if node.name in graph]
    same_function(Graph(graph.nodes, shared), Graph(after.nodes, shared))
    assert optimize(after, NAME) is after
    check(convert(after, torch.float32))


def test_parameters_stay_live() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    text = """graph "g" {
    %x: f32[2] = input()
    %a: f32[2] = linear(%x) {weight=tensor([[1.0, 2.0], [3.0, 4.0]])}
    %y: f32[1] = gather(%a) {indices=tensor([1], i64), axis=0}
    return %y
    }"""
    graph = parse_graph(text)
    graph = rewrite(graph, lambda builder, node, inputs: builder.add(
        node.op.replace(weight=weight) if isinstance(node.op, Linear) else node.op, *inputs, name=node.name
    ))  # fmt: skip
    after = optimize(graph, NAME)
    layer = after["y"].op
    assert isinstance(layer, Linear) and isinstance(layer.weight, Derived)
    with torch.no_grad():
        weight.mul_(2.0)
    assert after.evaluate(torch.ones(1, 2)).tolist() == [[14.0]]  # type: ignore[union-attr]
