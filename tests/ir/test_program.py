"""A program file holds a whole graph and says what is wrong with a file that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from irverify.errors import FileError, GraphError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Gather, Linear, Relu
from irverify.ir.params import Derived
from irverify.ir.program import load, save
from irverify.ir.types import TensorType


def shared_network(batch_axis: int | None = 0) -> Graph:
    """Two layers with one transposed weight, one layer with a derived weight, indices."""
    torch.manual_seed(0)
    weight, scale = torch.randn(3, 3).t(), torch.nn.Parameter(torch.randn(3, 1))
    builder = GraphBuilder("shared")
    x = builder.input(TensorType((3,)), batch_axis=batch_axis, source='onnx input "π"')
    h = builder.add(Linear(weight), builder.add(Relu(), builder.add(Linear(weight), x, name="a")), name="b")
    y = builder.add(Linear(Derived(torch.mul, weight, scale), scale.detach()[:, 0]), h, name="c")
    return builder.graph([builder.add(Gather(torch.tensor([2, 0]), 0), y), y])


def test_round_trip(tmp_path: Path) -> None:
    graph = shared_network()
    save(graph, tmp_path / "net.safetensors")
    again = load(str(tmp_path / "net.safetensors"))
    assert str(again) == str(graph)
    parameters = again.parameters()
    assert parameters["a.weight"] is parameters["b.weight"]
    x = torch.randn(5, 3)
    for ours, theirs in zip(graph.evaluate(x), again.evaluate(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_program_is_its_own_origin(tmp_path: Path) -> None:
    for batch_axis, x in ((0, torch.randn(5, 3)), (None, torch.randn(3))):
        graph = shared_network(batch_axis)
        save(graph, tmp_path / "net.safetensors")
        origin = load(tmp_path / "net.safetensors").origin
        assert origin is not None
        assert "net.safetensors" in origin.description
        for ours, theirs in zip(graph.evaluate(x), origin.run(x.double()), strict=True):
            torch.testing.assert_close(ours, theirs, check_stride=False)


def test_saving_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("something else")
    save(shared_network(), path)
    assert len(load(path)) == 6


def test_no_program(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(FileError, match=r"weights.safetensors: expected a saved irverify program"):
        load(path)


def test_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(2)}, path, {"irverify.format": "2", "irverify.graph": ""})
    with pytest.raises(FileError, match="expected a program in format 1, got format '2'"):
        load(path)


def test_broken_text(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(2)}, path, {"irverify.format": "1", "irverify.graph": "graph"})
    with pytest.raises(FileError, match="the graph in the file cannot be read: line 1"):
        load(path)


def test_nan_weights_name_their_place(tmp_path: Path) -> None:
    graph = shared_network()
    weight = graph.parameters()["a.weight"]
    assert isinstance(weight, torch.Tensor)
    weight[0, 0] = torch.nan
    save(graph, tmp_path / "net.safetensors")
    with pytest.raises(GraphError, match="%a = linear: expected finite numbers in weight"):
        load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 20, 200, -1])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "net.safetensors"
    save(shared_network(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=r"net.safetensors: "):
        load(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected a file, got none"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="expected a file"):
        load(tmp_path)


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written: No such file or directory"):
        save(shared_network(), tmp_path / "none" / "net.safetensors")
    with pytest.raises(FileError, match="cannot be written"):
        save(shared_network(), tmp_path)
    assert list(tmp_path.iterdir()) == []
