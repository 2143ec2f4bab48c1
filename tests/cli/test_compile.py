"""`irverify compile`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from irverify.data import DIGITS_NETWORK
from irverify.ir.graph import Graph
from irverify.ir.program import load
from irverify.ir.text import parse_graph
from tests.cli.conftest import Irverify


def test_summary(irverify: Irverify, models: Path) -> None:
    ran = irverify("compile", models / "relu.onnx")
    assert ran.code == 0
    assert "%x: f32[2]" in ran.out
    assert "weights  6" in ran.out


def test_print_is_the_text_form(irverify: Irverify, models: Path) -> None:
    ran = irverify("compile", models / "relu.onnx", "--print")
    assert ran.code == 0
    assert [node.op.name for node in load_text(ran.out)] == ["input", "linear", "relu"]


def load_text(text: str) -> Graph:
    tensors = {name: torch.zeros(2, 2) if "weight" in name else torch.zeros(2) for name in ("z.weight", "z.bias")}
    return parse_graph(text, tensors)


def test_print_before_and_after(irverify: Irverify, models: Path) -> None:
    ran = irverify("compile", models / "relu.onnx", "--print-before", "all", "--print-after", "fuse-linear")
    heads = [line for line in ran.out.splitlines() if line.startswith("# ")]
    assert heads == ["# before canonicalize", "# before fold-batchnorm", "# before fuse-linear", "# after fuse-linear"]


def test_stats_have_a_line_for_each_pass(irverify: Irverify) -> None:
    ran = irverify("compile", DIGITS_NETWORK, "--stats", "--check", "--passes", "fold-batchnorm,fuse-linear")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()[2:4]] == ["fold-batchnorm", "fuse-linear"]


REGIONS = ("--data", "digits", "--eps", "0.02", "--first", "2", "--passes", "fuse-linear,ibp,eliminate-stable,ibp")


def test_stats_compare_sizes(irverify: Irverify) -> None:
    said = irverify("compile", DIGITS_NETWORK, *REGIONS, "--stats", "--check", "--json").json
    before, after = said["before"], said["after"]
    assert after["neurons"] < before["neurons"]
    assert sum(after["unstable"].values()) <= sum(before["unstable"].values())
    assert after["program"]["columns"] <= before["program"]["columns"]
    assert before["accuracy"] == after["accuracy"] == 1.0
    ran = irverify("compile", DIGITS_NETWORK, *REGIONS, "--stats")
    assert ran.code == 0
    assert all(word in ran.out for word in ("MILP columns", "nonzeros", "accuracy", "unstable in %"))


def test_stats_solve_the_programs(irverify: Irverify) -> None:
    said = irverify("compile", DIGITS_NETWORK, *REGIONS, "--stats", "--solve", "60", "--json").json
    programs = [said[side]["program"] for side in ("before", "after")]
    assert [program["margin"] for program in programs] == ["positive", "positive"]
    assert all(program["solving"] > 0 for program in programs)
    ran = irverify("compile", DIGITS_NETWORK, "--solve", "60")
    assert (ran.code, ran.out) == (1, "")
    assert "--stats" in ran.err


def test_stats_ask_what_a_property_asks(irverify: Irverify, models: Path) -> None:
    arguments = (models / "relu.onnx", models / "unsat.vnnlib", "--passes", "ibp,eliminate-stable")
    ran = irverify("compile", *arguments, "--stats", "--solve", "60")
    assert ran.code == 0
    (line,) = (line for line in ran.out.splitlines() if line.startswith("MILP smallest margin"))
    assert line.split()[-2:] == ["positive", "positive"]


def test_stats_without_regions_count_what_there_is(irverify: Irverify) -> None:
    said = irverify("compile", DIGITS_NETWORK, "--stats", "--passes", "prune-weights{sparsity=0.5}", "--json").json
    assert said["after"]["nonzeros"] < said["before"]["nonzeros"] == said["before"]["parameters"]
    assert said["after"]["program"] is None


def test_saved_as_onnx(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    assert irverify("compile", models / "relu.onnx", "-o", tmp_path / "a.onnx").code == 0
    assert irverify("compile", tmp_path / "a.onnx", "--json").json["operators"] == {"input": 1, "linear": 1, "relu": 1}


def test_what_holds_on_regions_only_says_so(irverify: Irverify, tmp_path: Path) -> None:
    ran = irverify("compile", DIGITS_NETWORK, *REGIONS, "-o", tmp_path / "a.onnx")
    assert ran.code == 0
    assert "a.onnx equals the model on the regions of this run only" in ran.err
    assert onnx.load(tmp_path / "a.onnx").metadata_props[0].value == "on the regions of this run only"
    assert "equals" not in irverify("compile", DIGITS_NETWORK, "-o", tmp_path / "b.onnx").err


def test_saved_programs_are_models(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    program = tmp_path / "relu.safetensors"
    ran = irverify("compile", models / "relu.onnx", "-o", program)
    assert ran.code == 0
    assert str(program) in ran.err
    y = load(program).evaluate(torch.tensor([[1.0, 0.5]]))
    assert torch.equal(y, torch.tensor([[0.5, 0.5]]))  # type: ignore[arg-type]
    assert irverify("compile", program).code == 0


def test_pictures(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    assert irverify("compile", models / "relu.onnx", "-o", tmp_path / "a.dot").code == 0
    assert (tmp_path / "a.dot").read_text().startswith("digraph")


def test_json(irverify: Irverify, models: Path) -> None:
    said = irverify("compile", models / "relu.onnx", "--json").json
    assert said["schema"] == "irverify/compile/1"
    assert said["inputs"] == {"x": "f32[2]"}
    assert said["operators"] == {"input": 1, "linear": 1, "relu": 1}


def test_python_models(irverify: Irverify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model.py").write_text(
        "import torch\nprint('loading')\ndef make():\n    return torch.nn.Linear(3, 2), torch.zeros(1, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    ran = irverify("compile", "my_model:make", "--json")
    assert ran.json["operators"] == {"input": 1, "linear": 1}
    assert "loading" in ran.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("truncated.onnx",), "truncated.onnx"),
        (("nan.onnx",), "NaN"),
        (("erf.onnx",), "Erf"),
        (("missing.onnx",), "no such file"),
        (("notes.txt",), "expected a model"),
        (("relu.onnx", "--passes", "ibp"), "region"),
        (("relu.onnx", "--passes", "fuse"), "unknown pass"),
        (("relu.onnx", "--print-after", "ibp"), "pass of the pipeline"),
        (("relu.onnx", "-o", "x.txt"), ".safetensors"),
        (("relu.onnx", "-o", "no/such/folder/x.safetensors"), "no/such/folder"),
        (("relu.onnx", "--eps", "0.1"), "--data"),
        (("relu.onnx", "--data", "digits"), "--eps"),
        (("relu.onnx", "--data", "digits", "--eps", "0.1"), "shape"),
        (("relu.onnx", "--data", "letters", "--eps", "0.1"), "unknown data set"),
        (("relu.onnx", "--data", "digits", "--eps", "0.1", "--norm", "3"), "--norm"),
    ],
)
def test_errors(
    irverify: Irverify, models: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(models)
    ran = irverify("compile", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err
    assert ran.err.startswith("irverify: error: ")


def test_another_element_type(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    ran = irverify("compile", models / "relu.onnx", "--dtype", "float64", "-o", tmp_path / "out.safetensors", "--print")
    assert ran.code == 0
    assert "f64[2]" in ran.out
    assert "f32" not in ran.out
    assert irverify("compile", tmp_path / "out.safetensors").code == 0


def test_a_device_that_is_not_there(irverify: Irverify, models: Path) -> None:
    ran = irverify("compile", models / "relu.onnx", "--device", "cuda:77")
    assert (ran.code, ran.out) == (1, "")
    assert "--device cuda:77 cannot be used" in ran.err
    assert "there is cpu" in ran.err
