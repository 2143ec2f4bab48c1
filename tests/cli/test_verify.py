"""`irverify verify`: verdicts, their formats, and everything that must not become a verdict."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

from irverify.data import DIGITS_NETWORK, digits
from tests.cli.conftest import Irverify, model_of

ROOT = Path(__file__).resolve().parents[2]


def test_unsat(irverify: Irverify, models: Path) -> None:
    ran = irverify("verify", models / "relu.onnx", models / "unsat.vnnlib")
    assert (ran.code, ran.out) == (0, "unsat\n")


def test_sat_with_an_assignment_that_replays(irverify: Irverify, models: Path) -> None:
    ran = irverify("verify", models / "relu.onnx", models / "sat.vnnlib")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "sat"
    said = irverify("verify", models / "relu.onnx", models / "sat.vnnlib", "--json").json
    found = said["counterexample"]
    x = np.array(found["inputs"][0], dtype=np.float32)
    assert ((x >= 0) & (x <= 1)).all()
    (y,) = onnxruntime.InferenceSession(models / "relu.onnx").run(None, {"x": x})
    assert y[0, 0] >= 0.5
    assert found["outputs"][0] == y.tolist()
    assert "onnxruntime" in found["replayed_on"]


def test_json(irverify: Irverify, models: Path) -> None:
    said = irverify("verify", models / "relu.onnx", models / "unsat.vnnlib", "--json").json
    assert said["schema"] == "irverify/verify/1"
    fields = {"verdict", "method", "bound", "tolerance", "counterexample", "seconds", "stages"}
    assert fields <= said.keys()
    assert (said["verdict"], said["counterexample"]) == ("verified", None)
    assert said["bound"] > said["tolerance"] > 0
    assert {"name", "seconds", "outcome"} == said["stages"][0].keys()


def test_results_file(irverify: Irverify, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.txt"
    assert irverify("verify", models / "relu.onnx", models / "unsat.vnnlib", "--results-file", file).code == 0
    assert file.read_text().split() == ["unsat"]
    assert irverify("verify", models / "relu.onnx", models / "sat.vnnlib", "--results-file", file).code == 0
    verdict, witness = file.read_text().split(maxsplit=1)
    assert verdict == "sat"
    assert re.fullmatch(r"\(\(X_0 \S+\)\s+\(X_1 \S+\)\s+\(Y_0 \S+\)\s+\(Y_1 \S+\)\)\n", witness)


@pytest.mark.parametrize("extra", [(), ("--json",)])
@pytest.mark.parametrize("query", ["sat", "unsat"])
def test_a_verdict_is_said_even_if_the_results_file_cannot_be_written(
    irverify: Irverify, models: Path, extra: tuple[str, ...], query: str
) -> None:
    file = models / "no" / "such" / "folder" / "results.txt"
    ran = irverify("verify", models / "relu.onnx", models / f"{query}.vnnlib", "--results-file", file, *extra)
    assert ran.code == 1
    if extra:
        assert ran.json["verdict"] == {"sat": "falsified", "unsat": "verified"}[query]
    else:
        assert ran.out.splitlines()[0] == query
    assert [line for line in ran.err.splitlines() if "error" in line] == [
        f"irverify: error: {file}: cannot be written: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("truncated.onnx", "unsat.vnnlib"), "truncated.onnx"),
        (("nan.onnx", "unsat.vnnlib"), "NaN"),
        (("erf.onnx", "unsat.vnnlib"), "Erf"),
        (("relu.onnx", "three.vnnlib"), "three.vnnlib"),
        (("relu.onnx", "crossed.vnnlib"), "crossed"),
        (("missing.onnx", "unsat.vnnlib"), "missing.onnx: no such file"),
        (("relu.onnx", "missing.vnnlib"), "missing.vnnlib: no such file"),
        (("relu.onnx",), "PROPERTY"),
        (("unsat.vnnlib",), "--network"),
        (("relu.onnx", "unsat.vnnlib", "--timeout", "-1"), "--timeout"),
        (("relu.onnx", "unsat.vnnlib", "--timeout", "nan"), "--timeout"),
        (("relu.onnx", "unsat.vnnlib", "--solver", "gurobi"), "--solver"),
        (("relu.onnx", "unsat.vnnlib", "--pipeline", "ipb"), "unknown pass"),
    ],
)
@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_errors_are_no_verdicts(
    irverify: Irverify,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    part: str,
    extra: tuple[str, ...],
) -> None:
    monkeypatch.chdir(models)
    ran = irverify("verify", *arguments, *extra)
    assert ran.code == 1
    assert part in ran.err
    assert ran.err.count("irverify: error: ") == 1
    if extra:
        assert set(ran.json) == {"schema", "version", "error"}
    else:
        assert ran.out == ""


def test_a_time_limit_that_is_over_before_anything_began(irverify: Irverify, models: Path) -> None:
    ran = irverify("verify", models / "relu.onnx", models / "unsat.vnnlib", "--timeout", "1e-6")
    assert (ran.code, ran.out) == (0, "timed-out\n")


def test_interruption_while_deciding(tmp_path: Path) -> None:
    """Ctrl-C in the middle of an exact search: one message, no verdict, code 130, and the solver is gone too."""
    image = digits("test").images[0].ravel()
    query = robustness(image, 0.2, int(digits("test").labels[0]))
    (tmp_path / "hard.vnnlib").write_text(query)
    command = [sys.executable, "-m", "irverify.cli", "verify", str(DIGITS_NETWORK), str(tmp_path / "hard.vnnlib")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("irverify: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "irverify: interrupted"
    assert "Traceback" not in err


def robustness(image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], eps: float, label: int) -> str:
    """Is there an image within `eps` of this one that is classified as something else than `label`?"""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(image))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(10)]
    for i, pixel in enumerate(image.tolist()):
        lines += [f"(assert (>= X_{i} {max(0.0, pixel - eps)!r}))", f"(assert (<= X_{i} {min(1.0, pixel + eps)!r}))"]
    others = " ".join(f"(and (>= Y_{j} Y_{label}))" for j in range(10) if j != label)
    return "\n".join([*lines, f"(assert (or {others}))", ""])


# The interface of VNN-LIB 2.0.

SECOND = """(vnnlib-version <2.0>)
(declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0)))
(assert (>= Y[0,0] {bound}))
"""


@pytest.fixture
def second(models: Path, tmp_path: Path) -> Path:
    onnx.save(model_of([[1.0, 1.0], [1.0, -1.0]], [-1.0, 0.0]), tmp_path / "relu.onnx")
    (tmp_path / "sat.vnnlib").write_text(SECOND.format(bound=0.5))
    (tmp_path / "unsat.vnnlib").write_text(SECOND.format(bound=1.5))
    pytest.importorskip("vnnlib", reason="needs the VNN-LIB 2.0 parser, which has wheels for some systems only")
    return tmp_path


def test_query_with_a_network(irverify: Irverify, second: Path) -> None:
    network = ("--network", f"N={second / 'relu.onnx'}")
    assert irverify("verify", second / "unsat.vnnlib", *network, "--timeout", "60.0").out == "unsat\n"
    ran = irverify("verify", second / "sat.vnnlib", *network)
    verdict, x_head, *values = ran.out.splitlines()
    assert (verdict, x_head, values[2]) == ("sat", "X float32 [1,2]", "Y float32 [1,2]")
    x1, x2, y1, y2 = (float(values[at]) for at in (0, 1, 3, 4))
    assert (y1, y2) == (max(0, x1 + x2 - 1), max(0, x1 - x2))
    assert y1 >= 0.5


def test_the_model_and_property_form_takes_both_versions(irverify: Irverify, second: Path) -> None:
    assert irverify("verify", second / "relu.onnx", second / "unsat.vnnlib").out == "unsat\n"


def test_assignments_as_tensors(irverify: Irverify, second: Path) -> None:
    network = ("--network", f"N={second / 'relu.onnx'}")
    ran = irverify("verify", second / "sat.vnnlib", *network, "--serialise-assignments", second / "out")
    assert ran.out == "sat\n"
    tensors = [onnx.load_tensor(second / "out" / f"{name}.pb") for name in ("X", "Y")]
    assert [tensor.data_type for tensor in tensors] == [onnx.TensorProto.FLOAT] * 2
    x, y = map(onnx.numpy_helper.to_array, tensors)
    assert (x.shape, y.shape) == ((1, 2), (1, 2))
    assert y[0, 0] == max(0, x[0, 0] + x[0, 1] - 1)


@pytest.mark.parametrize(
    ("networks", "part"),
    [((), "--network"), (("M={}",), "N"), (("N={}", "M={}"), "M"), (("{}",), "NAME=MODEL"), (("N=x.onnx",), "x.onnx")],
)
def test_networks_that_do_not_fit(irverify: Irverify, second: Path, networks: tuple[str, ...], part: str) -> None:
    flags = [text for network in networks for text in ("--network", network.format(second / "relu.onnx"))]
    ran = irverify("verify", second / "unsat.vnnlib", *flags)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err
