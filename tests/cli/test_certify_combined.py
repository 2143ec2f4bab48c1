"""`irverify certify` with two methods, with two models, and on a cascade."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from irverify.certify import Cascade, save_cascade
from irverify.data import DIGITS_NETWORK
from irverify.frontends.compile import compile as compile_source
from irverify.ir.program import save
from tests.cli.conftest import Irverify

DATA = ("--data", "digits", "--first", "24")
COUNTS = ("certified", "falsified", "unknown", "timeout", "error")


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = compile_source(DIGITS_NETWORK)
    path = tmp_path_factory.mktemp("cascade") / "cascade.safetensors"
    save_cascade(Cascade((graph, graph), 0.05, about={"seed": 1}), path)
    return path


def test_two_methods_on_one_model(irverify: Irverify, tmp_path: Path) -> None:
    asked = ("certify", DIGITS_NETWORK, *DATA, "--eps", "0.03", "--method", "ibp", "--also", "crown", "--out", tmp_path)
    ran = irverify(*asked, "--json")
    assert ran.code == 0, ran.err
    said = ran.json
    assert (said["schema"], said["one_network"]) == ("irverify/certify-combined/1", True)
    counts = said["complementarity"]
    assert counts["either"] == counts["first"] + counts["only_second"] == said["certified"]
    assert counts["n"] == counts["either"] + counts["neither"] == 24 == sum(said[name] for name in COUNTS)
    assert (said["first"]["certified"], said["second"]["certified"]) == (counts["first"], counts["second"])
    assert json.loads((tmp_path / "certify.json").read_text()) == said
    assert all((tmp_path / name / "certify.sqlite").exists() for name in ("first", "second"))
    again = irverify(*asked)
    assert "Two methods on one network: what either certifies is certified." in again.out
    other = irverify(*("crown-zero" if part == "crown" else part for part in asked))
    assert other.code == 1
    assert "first:" not in other.err  # the second store belongs to another question: nothing runs


def test_two_models(irverify: Irverify, tmp_path: Path) -> None:
    """The program is another network for all that is known: nothing is claimed of one network."""
    save(compile_source(DIGITS_NETWORK), tmp_path / "other.safetensors")
    asked = ("certify", DIGITS_NETWORK, "--data", "digits", "--index", "0,5,3", "--method", "ibp", "--eps")
    ran = irverify(*asked, "0.02,0.03", "--also-model", "tests.cli.test_certify_combined:another", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["one_network"] is False
    assert ran.json["claim"] == "certified by either of two networks"
    assert [run["eps"] for run in ran.json["runs"]] == [0.02, 0.03]
    assert not set(COUNTS) & set(ran.json["runs"][0])
    ran = irverify(*asked, 0.02, "--also-model", tmp_path / "other.safetensors", "--also", "crown")
    assert ran.code == 0, ran.err
    assert "second: crown on" in ran.out


def another() -> object:
    """A network for the digits that knows nothing."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(1, 1, 8, 8)


def test_a_cascade(irverify: Irverify, cascade: Path) -> None:
    ran = irverify("certify", cascade, *DATA, "--eps", "0.02", "--dtype", "float32", "--json")
    assert ran.code == 0, ran.err
    said = ran.json
    assert said["schema"] == "irverify/certify-cascade/1"
    assert (said["method"], said["norm"], said["stages"]) == ("ibp", "inf", 2)
    first, second = said["per_stage"]
    assert (first["reached"], second["reached"]) == (24, 24 - first["stay"])
    assert first["certified_cascade"] + second["certified_cascade"] == said["certified_cascade"] > 0
    assert not {"certified", "verified"} & set(said)
    ran = irverify("certify", cascade, *DATA, "--eps", "0.02", "--method", "crown", "--norm", "2")
    assert "no verdict about the cascade as a whole" in ran.out
    assert "certified (cascade) error" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "ibp", "--also", "ibp"), "expected two methods or two models, got ibp"),
        (("--method", "ibp", "--also", "stability"), "--also stability certifies nothing"),
        (("--method", "ibp", "--also-model", "{cascade}"), "expected one network, got a cascade"),
        (("--method", "ibp", "--also-model", "no.onnx"), "no such file"),
        (("--method", "ibp", "--also", "crown", "--timeout", "3"), "--timeout is for the whole driver"),
        (("--method", "ibp", "--also", "exact", "--timeout", "-3"), "a positive number of seconds"),
    ],
)
def test_combinations_that_make_no_sense(
    irverify: Irverify, cascade: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [argument.replace("{cascade}", str(cascade)) for argument in arguments]
    ran = irverify("certify", DIGITS_NETWORK, *DATA, "--eps", "0.1", *given)
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "exact"), "--method exact is not for a cascade"),
        (("--timeout", "3"), "--timeout is not for a cascade"),
        (("--also", "crown"), "--also is not for a cascade"),
        (("--out", "here"), "--out is not for a cascade"),
        (("--method", "dual-proj"), "an estimate proves nothing"),
        (("--index", "3,3"), "no such option|got both"),
    ],
)
def test_what_a_cascade_does_not_take(
    irverify: Irverify, cascade: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = irverify("certify", cascade, *DATA, "--eps", "0.1", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert any(part in ran.err for part in message.split("|"))


def test_a_cascade_is_no_network(irverify: Irverify, cascade: Path) -> None:
    ran = irverify("compile", cascade, "--print")
    assert ran.code == 1
    assert "expected one network, got a cascade of several" in ran.err
