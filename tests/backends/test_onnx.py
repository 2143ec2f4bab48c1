"""Graphs written as ONNX, run by onnxruntime, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.backends.onnx import save_onnx, to_onnx
from irverify.backends.onnx_writer import FORMS
from irverify.data import DIGITS_NETWORK, digits
from irverify.errors import UnsupportedError
from irverify.frontends.compile import compile as compile_source
from irverify.ir.check import deviation, sample_inputs
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import OPERATORS, Cast, Constant, Elementwise, Input, LeakyRelu, Linear, Operand, Relu
from irverify.ir.program import load, save
from irverify.ir.types import TensorType
from irverify.pipeline import run, with_spec
from irverify.regions import Linf
from tests.random_graphs import EVERYTHING, JUMPS, graphs


def executed(graph: Graph, inputs: dict[str, Tensor]) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options)
    found = session.run(None, {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()})
    return [torch.from_numpy(output) for output in found]


def test_every_operator_has_a_form() -> None:
    assert {*FORMS, Input, Operand} == set(OPERATORS.values())


@settings(max_examples=40)
@given(graph=graphs(kinds=EVERYTHING + JUMPS, dtype=torch.float32))
def test_onnxruntime_computes_the_same(graph: Graph) -> None:
    inputs = sample_inputs(graph, samples=3)
    values = graph.values(inputs)
    jumps = any(node.op.name in ("step", "trunc") for node in graph)
    for name, found in zip(graph.outputs, executed(graph, inputs), strict=True):
        assert found.shape == values[name].shape
        assert jumps or deviation(values[name], found) <= 1e-4


def test_specifications_and_constants() -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((2,)))
    y = builder.add(Linear(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 0.0])), x)
    graph = with_spec(builder.graph([y, builder.add(Constant(torch.tensor([5.0])))]), 2)
    inputs = sample_inputs(graph, samples=2)
    (found,) = executed(graph, inputs)
    assert deviation(graph.values(inputs)["spec"], found) <= 1e-6


def test_an_input_without_a_batch_axis_and_an_output_that_is_an_input() -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((2,)), batch_axis=None)
    y = builder.add(Relu(), x)
    found = executed(builder.graph([y, x, y]), {"x": torch.tensor([-1.0, 2.0])})
    assert [output.tolist() for output in found] == [[0.0, 2.0], [-1.0, 2.0], [0.0, 2.0]]


def test_an_output_that_is_an_input_takes_no_name_of_another() -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((2,)), name="x")
    y = builder.add(Relu(), x, name="x.0")
    graph = builder.graph([x, y, y])
    assert [output.name for output in to_onnx(graph).graph.output] == ["x.0.0", "x.0", "x.0.2"]
    found = executed(graph, {"x": torch.tensor([[-1.0, 2.0]])})
    assert [output.tolist() for output in found] == [[[-1.0, 2.0]], [[0.0, 2.0]], [[0.0, 2.0]]]


def test_a_slope_that_no_attribute_holds() -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((2,), torch.float64))
    graph = builder.graph([builder.add(LeakyRelu(0.1), x)])
    (found,) = executed(graph, {"x": torch.tensor([[-1.0, 2.0]], dtype=torch.float64)})
    assert found.tolist() == [[-0.1, 2.0]]


def test_a_file_is_read_back(tmp_path: Path) -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((2,)))
    graph = builder.graph([builder.add(Relu(), builder.add(Linear(torch.eye(2)), x))])
    save_onnx(graph, tmp_path / "g.onnx", {"recipe": "none"})
    point = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    read = compile_source(tmp_path / "g.onnx")
    assert torch.equal(read.evaluate(point), graph.evaluate(point))  # type: ignore[arg-type]


def test_a_rewritten_network_leaves_and_comes_back(tmp_path: Path) -> None:
    """What eliminate-stable and pruning make, as ONNX and as a program, at points of the region."""
    images = digits("test")
    centres = torch.from_numpy(images.images[:1]).reshape(1, 1, 8, 8)
    region = Linf(centres, 0.02, clip=(0.0, 1.0))
    passes = "canonicalize,fold-batchnorm,fuse-linear,prune-weights{threshold=0.01},ibp,eliminate-stable"
    graph = run(compile_source(DIGITS_NETWORK), passes, region).graph
    save_onnx(graph, tmp_path / "g.onnx")
    save(graph, tmp_path / "g.safetensors")
    points = region.sample(4)[:, 0]
    expected = graph.evaluate(points)
    assert isinstance(expected, Tensor)
    assert deviation(expected, executed(graph, {graph.inputs[0].name: points})[0]) <= 1e-4
    for read in (compile_source(tmp_path / "g.onnx"), load(tmp_path / "g.safetensors")):
        found = read.evaluate(points)
        assert isinstance(found, Tensor) and deviation(expected, found) <= 1e-4


@dataclass(frozen=True, eq=False)
class Strange(Elementwise):
    """An operator from outside."""

    name = "strange"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def test_what_has_no_form_is_listed_at_once() -> None:
    builder = GraphBuilder("g")
    a = builder.add(Strange(), builder.input(TensorType((2,))), name="a")
    b = builder.add(Strange(), a, name="b")
    c = builder.add(Cast(torch.bfloat16), b, name="c")
    with pytest.raises(UnsupportedError) as caught:
        to_onnx(builder.graph([c]))
    assert all(f"%{name} = " in str(caught.value) for name in "abc")


@settings(max_examples=5)
@given(data=st.data())
def test_double_precision_without_convolutions(data: st.DataObject) -> None:
    builder = GraphBuilder("g")
    x = builder.input(TensorType((3,), torch.float64))
    graph = builder.graph([builder.add(Linear(torch.randn(2, 3, dtype=torch.float64)), x)])
    inputs = sample_inputs(graph, samples=data.draw(st.integers(1, 4)))
    assert deviation(graph.values(inputs)[graph.outputs[0]], executed(graph, inputs)[0]) <= 1e-12
