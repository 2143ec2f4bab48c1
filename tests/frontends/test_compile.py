"""`compile` finds the right frontend and says what is wrong with a source."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.errors import FileError, UsageError
from irverify.frontends import compile as compile_model
from irverify.ir.program import save

MODELS = """
import torch
from torch import nn

from irverify.frontends import compile

torch.manual_seed(0)
layer = nn.Linear(2, 3)

def network():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval(), torch.zeros(1, 2)

def bare():
    return nn.Linear(2, 3)

def graph():
    return compile(layer, torch.zeros(2))

def failing():
    raise RuntimeError("no weights here")

def wrong():
    return 3

class Holder:
    network = staticmethod(network)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_models.py").write_text(MODELS)
    (tmp_path / "broken_models.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    for name in ("my_models", "broken_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_modules_and_functions() -> None:
    module = nn.Linear(2, 3)
    x = torch.randn(4, 2)
    for source in (module, module.forward, lambda x: module(x) * 1):
        graph = compile_model(source, torch.zeros(2))
        torch.testing.assert_close(graph.evaluate(x), module(x))
    assert compile_model(graph) is graph


def test_a_function_gives_its_name() -> None:
    def twice(x: Tensor) -> Tensor:
        return x + x

    assert iv.compile(twice, torch.zeros(2)).name == "twice"


def test_a_saved_program(tmp_path: Path) -> None:
    graph = compile_model(nn.Linear(2, 3), torch.zeros(2))
    save(graph, tmp_path / "net.safetensors")
    again = compile_model(tmp_path / "net.safetensors")
    assert str(again) == str(graph)


@pytest.mark.parametrize("path", ["network", "Holder.network", "graph"])
def test_a_place_in_a_python_module(folder: Path, path: str) -> None:
    before = list(sys.path)
    graph = compile_model(f"my_models:{path}")
    assert graph.inputs[0].type.shape == (2,)
    assert sys.path == before


def test_an_example_beside_a_place(folder: Path) -> None:
    assert compile_model("my_models:bare", torch.zeros(5, 2)).outputs
    assert compile_model("my_models:layer", torch.zeros(5, 2)).outputs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none_such:network", "none_such:network: cannot import none_such: No module named"),
        ("broken_models:network", "broken_models fails when imported: ZeroDivisionError"),
        ("my_models:network.part", "expected 'part' in my_models"),
        ("my_models:torch", "expected a callable that returns a module, got module"),
        ("my_models:failing", r"failing\(\) fails: RuntimeError: no weights here"),
        ("my_models:wrong", r"expected a module, \(module, example\) or a graph, got int"),
        ("my_models:bare", "expected an example input beside the module"),
    ],
)
def test_places_that_are_wrong(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_model(spec)


def test_files_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_text("weights")
    with pytest.raises(FileError, match=r"net.pt: expected a model \(.onnx, .*got a file of another kind"):
        compile_model(tmp_path / "net.pt")
    with pytest.raises(FileError, match="got no such file"):
        compile_model(str(tmp_path / "net.bin"))
    with pytest.raises(FileError, match="expected a file, got none"):
        compile_model(tmp_path / "net.safetensors")


def test_sources_that_are_none() -> None:
    with pytest.raises(UsageError, match=r"expected a module, a function or a path .* got int"):
        compile_model(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected an example input"):
        compile_model(nn.Linear(2, 3))
    with pytest.raises(UsageError, match="expected batch_axis 'auto', 0 or None, got 1"):
        compile_model(nn.Linear(2, 3), torch.zeros(2), batch_axis=1)  # type: ignore[arg-type]
