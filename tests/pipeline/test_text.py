"""The pipeline text and the catalog of passes: parsed, printed, in agreement with the classes, and without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.pipeline import (
    CATALOG,
    Entry,
    Facts,
    Option,
    State,
    Step,
    load,
    parse_passes,
    parse_pipeline,
    print_pipeline,
    register,
)
from irverify.pipeline.base import _LOADED, Analysis, Pass, Rewrite, entry_of


@dataclass(frozen=True)
class Probe(Analysis):
    """An analysis with an option of every type."""

    name = "probe"
    lower: Literal["adaptive", "zero"] = "adaptive"
    threshold: float = 1e-3
    max_rounds: int = 50
    deep: bool = False
    label: str = "a"
    limit: int | None = None

    def run(self, state: State) -> Facts:
        return Facts()


@pytest.fixture(autouse=True)
def probe() -> Iterator[None]:
    register(Probe)
    yield
    del CATALOG["probe"], _LOADED["probe"]


def test_steps_and_options() -> None:
    text = "canonicalize,probe{lower=zero,threshold=1e-3,max-rounds=7,deep=true,label=b,limit=3},ibp"
    first, second, third = parse_pipeline(text)
    assert (first, third) == (Step("canonicalize"), Step("ibp"))
    assert second.options == (
        ("lower", "zero"), ("threshold", 0.001), ("max-rounds", 7), ("deep", True), ("label", "b"), ("limit", 3)
    )  # fmt: skip
    assert parse_passes(text)[1] == Probe("zero", 0.001, 7, True, "b", 3)


@pytest.mark.parametrize("text", [" ibp , probe { deep = true , } ", "ibp,probe{deep=true}"])
def test_space_and_a_last_comma_do_not_matter(text: str) -> None:
    assert parse_pipeline(text) == (Step("ibp"), Step("probe", (("deep", True),)))


def test_the_empty_pipeline() -> None:
    assert parse_pipeline("  ") == ()
    assert parse_passes("") == ()


def test_a_pass_prints_what_differs_from_the_defaults() -> None:
    assert str(Probe()) == "probe"
    assert print_pipeline([Probe(max_rounds=3, deep=True), load("ibp")()]) == "probe{max-rounds=3,deep=true},ibp"


probes = st.builds(
    Probe,
    st.sampled_from(("adaptive", "zero")),
    st.floats(allow_nan=False),
    st.integers(),
    st.booleans(),
    st.text(),
    st.none() | st.integers(),
)


@given(passes=st.lists(probes, max_size=3))
def test_printed_and_parsed_back(passes: list[Probe]) -> None:
    assert parse_passes(print_pipeline(passes)) == tuple(passes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crwn", "unknown pass 'crwn'"),
        ("intervall", "did you mean interval"),
        ("fuse_linear", "did you mean fuse-linear"),
        ("probe{treshold=1}", r"unknown option 'treshold' of pass probe \(did you mean threshold\?\)"),
        ("ibp{deep=true}", r"unknown option 'deep' of pass ibp \(it has no options\)"),
        ("probe{lower=adaptve}", "pass probe: expected one of adaptive, zero for option lower, got 'adaptve'"),
        ("probe{threshold=high}", "expected a number for option threshold, got 'high'"),
        ("probe{threshold=nan}", "expected a number for option threshold, got 'nan'"),
        ('probe{threshold="1"}', "expected a number for option threshold"),
        ("probe{max-rounds=1.5}", "expected a whole number for option max-rounds, got '1.5'"),
        ("probe{deep=yes}", "expected true or false for option deep, got 'yes'"),
        ("probe{limit=few}", "expected a whole number or none for option limit"),
        ("probe{max-rounds=none}", "expected a whole number for option max-rounds"),
        ("probe{deep=true,deep=false}", "column 17: expected each option of probe once, got 'deep=false}'"),
        ("ibp,", "pipeline, column 5: expected the name of a pass, got the end"),
        (",ibp", "expected the name of a pass, got ',ibp'"),
        ("ibp interval", "expected a comma or the end, got 'interval'"),
        ("probe{deep}", "expected = and a value for option deep, got '}'"),
        ("probe{deep=}", "expected a value for option deep, got '}'"),
        ("probe{deep=true", "expected a comma or }, got the end"),
        ('probe{label="x}', "expected a name, a value"),
    ],
)
def test_bad_pipelines(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("{", r"\{")):
        parse_pipeline(text)


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.home.startswith("irverify.")])
def test_catalog_and_class_agree(name: str) -> None:
    cls = load(name)
    assert cls.name == name
    assert entry_of(cls) == CATALOG[name]


def test_what_is_read_off_a_class() -> None:
    assert entry_of(Probe) == Entry(
        "probe",
        "analysis",
        f"{__name__}:Probe",
        "An analysis with an option of every type.",
        (
            Option("lower", "str", "adaptive", ("adaptive", "zero")),
            Option("threshold", "float", 0.001),
            Option("max-rounds", "int", 50),
            Option("deep", "bool", False),
            Option("label", "str", "a"),
            Option("limit", "int", None, (), True),
        ),
    )
    assert list(map(str, entry_of(Probe).options))[:3] == [
        "lower: adaptive|zero = adaptive", "threshold: float = 0.001", "max-rounds: int = 50"
    ]  # fmt: skip


def test_registering_a_name_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match="a pass named probe is registered already"):
        register(Probe)

    @dataclass(frozen=True)
    class Impostor(Rewrite):
        """Takes the name of another."""

        name = "ibp"

        def run(self, state: State) -> Graph:
            return state.graph

    with pytest.raises(UsageError, match="ibp is registered already"):
        register(Impostor)


def test_what_is_no_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a pipeline text or passes"):
        parse_passes([Step("ibp")])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="expected a pipeline text or passes, got 3"):
        parse_passes(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected an Analysis or a Rewrite"):
        entry_of(Pass)


def test_the_catalog_needs_no_torch() -> None:
    program = (
        "import sys, irverify.pipeline as p; p.parse_pipeline('fuse-linear{elide=false},ibp'); list(p.CATALOG);"
        "assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    import irverify.pipeline

    for name in irverify.pipeline.__all__:
        assert getattr(irverify.pipeline, name) is not None
        assert name in dir(irverify.pipeline)
    with pytest.raises(AttributeError):
        irverify.pipeline.nothing  # noqa: B018
