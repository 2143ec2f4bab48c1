"""The text form prints and parses back exactly, and says where a text is wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.errors import GraphError, IRVerifyError, ParseError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Clip, Constant, Gather, Linear, Pow, Relu, Reshape
from irverify.ir.text import named_parameters, parse_graph, print_graph
from irverify.ir.types import TensorType

NET = """graph "net" {
  %x: f32[2] = input()
  %h: f32[2] = linear(%x) {weight=tensor([[1.0, 2.0], [3.0, 0.1]]), bias=tensor([0.0, 1.0])} ; torch linear at "fc1"
  %r: f32[2] = relu(%h)
  %g: f32[3] = gather(%r) {indices=tensor([0, 1, 0], i64), axis=0}
  %c: f32[3] = clip(%g) {lower=-inf, upper=1e-05}
  %s: f32[5] = concat(%c, %r) {axis=0}
  return %s, %r
}
"""


def test_prints_what_it_parsed() -> None:
    graph = parse_graph(NET)
    assert print_graph(graph, inline=10) == NET
    assert graph["h"].source == 'torch linear at "fc1"'
    assert isinstance(graph["c"].op, Clip)
    assert graph["c"].op.lower == -torch.inf


def test_tensors_are_references_and_shared_ones_have_one_name() -> None:
    weight = torch.eye(2)
    builder = GraphBuilder("shared")
    x = builder.input(TensorType((2,)))
    first = builder.add(Linear(weight), x, name="a")
    second = builder.add(Linear(weight), first, name="b")
    graph = builder.graph([second])
    assert str(graph).count("@a.weight") == 2
    again = parse_graph(str(graph), named_parameters(graph))
    assert str(again) == str(graph)
    assert again["a"].op.parameters()["weight"] is again["b"].op.parameters()["weight"] is weight


def test_types_may_be_left_out_and_lines_broken() -> None:
    graph = parse_graph("""
        graph "g" {   # a comment
          %x: f64[2, 3] = input() {batch_axis=None}
          %y = reshape(%x) {
            shape=(6,),   # another
          }
          return %y
        }""")
    assert graph["y"].type == TensorType((6,), torch.float64)


def test_tensors_in_place_take_the_type_of_the_first_input() -> None:
    graph = parse_graph('graph "g" { %x: f64[2] = input() %y = scale_shift(%x) {scale=tensor(0.1)} return %y }')
    scale = graph["y"].op.parameters()["scale"]
    assert isinstance(scale, torch.Tensor)
    assert scale.dtype == torch.float64
    assert scale.item() == 0.1


def body(lines: str) -> str:
    return f'graph "g" {{\n  %x: f32[2] = input()\n{lines}\n}}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'graph'"),
        ("graph {", "line 1: expected the name of the graph"),
        (body("  return %y"), "line 3: expected a value defined before, got %y"),
        (body("  %y = rleu(%x)\n  return %y"), "line 3: expected an operator (input, .*got 'rleu'"),
        (body("  %x = relu(%x)\n  return %x"), "line 3: expected a name that is new"),
        (body("  %y: f32[3] = relu(%x)\n  return %y"), r"line 3: expected type f32\[2\] for %y, got f32\[3\]"),
        (body("  %y = relu(%x) {slope=1}\n  return %y"), "line 3: expected an attribute of relu"),
        (body("  %y = relu(%x, %x)\n  return %y"), "line 3: %y = relu: expected 1 inputs, got 2"),
        (body("  %y = pow(%x)\n  return %y"), "line 3: expected attributes exponent of pow"),
        (body("  %y = pow(%x) {exponent=True}\n  return %y"), "line 3: expected float for exponent of pow, got True"),
        (body("  %y = reshape(%x) {shape=3}\n  return %y"), r"line 3: expected \(int, ...\) for shape of reshape"),
        (body("  %y = reshape(%x) {shape=(3,)}\n  return %y"), "line 3: %y = reshape: expected a shape with 2"),
        (body("  %y = linear(%x) {weight=@w}\n  return %y"), "line 3: expected a tensor for @w"),
        (body("  %y = linear(%x) {weight=tensor([[1], [1, 2]])}\n  return %y"), "line 3: expected nested lists"),
        (body("  %y = gather(%x) {indices=tensor([0.5], i64), axis=0}\n  return %y"), "line 3: expected nested lists"),
        (body("  %y = input()\n  return %y"), "line 3: expected a type for an input"),
        (body("  return %x\n  %y = relu(%x)"), "line 4: expected '}'"),
        (body("  return %x") + "more", "line 5: expected nothing after the graph"),
        (body("  %y = relu(%x) ^\n  return %y"), "line 3: expected a token"),
        (body(f"  %y = pow(%x) {{exponent={'(' * 40}1}}\n  return %y"), "line 3: expected at most 16 brackets"),
        (body(f"  %y = reshape(%x) {{shape=({'9' * 5000},)}}\n  return %y"), "line 3: expected a shorter number"),
    ],
)
def test_errors_name_line_and_expectation(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message.replace("(input", r"\(input")):
        parse_graph(text)


def test_an_attribute_without_a_text_form_is_refused() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2,)))
    graph = builder.graph([builder.add(Reshape([2]), x)])  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"got \[2\]"):
        print_graph(graph)


NUMBERS = st.floats(allow_nan=False) | st.integers(-3, 3)
EXPONENTS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Chains and sums with odd names, odd sources, shared tensors and several outputs."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    builder = GraphBuilder(draw(st.text(max_size=5)))
    values = [builder.input(TensorType((2,), dtype), batch_axis=draw(st.sampled_from([0, None])))]
    weights = [torch.randn(2, 2, dtype=dtype) for _ in range(2)]
    for _ in range(draw(st.integers(0, 6))):
        operand, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        limits = sorted((draw(NUMBERS), draw(NUMBERS)))
        op, operands = draw(
            st.sampled_from(
                [
                    (Relu(), (operand,)),
                    (Add(), (operand, other)),
                    (Linear(draw(st.sampled_from(weights)), draw(st.sampled_from([None, weights[0][0]]))), (operand,)),
                    (Clip(*limits), (operand,)),
                    (Pow(draw(EXPONENTS)), (operand,)),
                    (Constant(torch.randn(2, dtype=dtype)), ()),
                    (Gather(torch.tensor([1, 0]), 0), (operand,)),
                    (Reshape((2,)), (operand,)),
                ]
            )
        )
        source = draw(st.none() | st.text(max_size=6))
        values.append(builder.add(op, *operands, name=draw(st.none() | st.text(max_size=4)), source=source))
    return builder.graph(draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))


@given(graphs())
def test_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, named_parameters(graph))
    assert print_graph(again) == text
    assert (again.name, again.outputs) == (graph.name, graph.outputs)
    for before, after in zip(graph, again, strict=True):
        assert (before.name, before.inputs, before.type, before.source) == (
            after.name, after.inputs, after.type, after.source
        )  # fmt: skip
        for field, attribute in before.op.fields().items():
            assert attribute is after.op.fields()[field] or attribute == after.op.fields()[field]


@given(graphs())
def test_round_trip_with_tensors_in_place(graph: Graph) -> None:
    again = parse_graph(print_graph(graph, inline=4))
    for name, parameter in graph.parameters().items():
        other = again.parameters()[name]
        assert isinstance(parameter, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert other.dtype == parameter.dtype
        assert torch.equal(other, parameter)


PIECES = st.sampled_from([*pairwise((*NET.split(), "")), *((mark,) for mark in "{}()[],=:%@;#\"\n-")])


@given(st.lists(PIECES, max_size=12), st.integers(0, len(NET)), st.integers(0, 6))
def test_a_broken_text_is_a_parse_error(pieces: list[tuple[str, ...]], place: int, deleted: int) -> None:
    inserted = " ".join(word for piece in pieces for word in piece)
    try:
        parse_graph(NET[:place] + inserted + NET[place + deleted :])
    except IRVerifyError as error:
        assert isinstance(error, ParseError)
