"""Rule tables, and what they support."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Elementwise, Input, Linear, LinearOp, Neg, Operator, Relu, Sin
from irverify.ir.text import parse_graph
from irverify.ir.types import TensorType
from irverify.passes.rules import RuleTable, increasing
from irverify.passes.support import TABLES, support
from irverify.pipeline import run
from irverify.regions import Box


@dataclass(frozen=True, eq=False)
class Mystery(Elementwise):
    """An operator that no analysis knows."""

    name = "mystery"

    def evaluate(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0]


def table() -> RuleTable[str]:
    rules: RuleTable[str] = RuleTable("test")
    rules.rule(LinearOp)("linear family")
    rules.rule(Neg)("neg")
    rules.rule(Elementwise, when=increasing)("monotone")
    return rules


def test_found_along_the_class_hierarchy() -> None:
    rules = table()
    assert rules.find(Neg) == "neg"
    assert rules.find(Linear) == "linear family"
    assert rules.find(Relu) == "monotone"
    assert rules.find(Sin) is None


def test_a_table_over_another() -> None:
    over: RuleTable[str] = RuleTable("over", base=table())
    over.rule(LinearOp)("own")
    assert over.find(Linear) == "own"
    assert over.find(Neg) == "neg"
    assert over.find(Relu) == "monotone"


def test_a_rule_that_comes_later_counts() -> None:
    below = RuleTable[str]("below")
    below.rule(Elementwise)("family")
    above = RuleTable[str]("above", base=below)
    graph = parse_graph('graph "t" {\n%x: f64[2] = input()\n%y = relu(%x)\nreturn %y\n}')
    assert [rule for _, rule in above.resolve(graph)] == [None, "family"]
    assert above.resolve(graph) is above.resolve(graph)
    below.rule(Relu)("own")
    assert [rule for _, rule in above.resolve(graph)] == [None, "own"]


def test_registering_twice_is_an_error() -> None:
    rules = table()
    with pytest.raises(ValueError, match="has a rule for Neg already"):
        rules.rule(Neg)("again")
    with pytest.raises(ValueError, match="has a rule for Neg already"):
        rules.refuse("because", Neg)


def test_a_refusal_says_why() -> None:
    rules = table()
    rules.refuse("sines come later", Sin)
    assert rules.refusal(Sin) == "sines come later"
    assert rules.refusal(Relu) is None
    assert rules.refusal(Input) is None


def test_a_refusal_in_a_table_over_another_counts() -> None:
    over: RuleTable[str] = RuleTable("over", base=table())
    over.refuse("not here", Neg)
    assert over.find(Neg) is None
    assert over.refusal(Neg) == "not here"


@pytest.mark.parametrize("analysis", ["interval", "ibp"])
def test_one_error_lists_all_offenders(analysis: str) -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1,)))
    first = builder.add(Mystery(), x, name="first", source='onnx node "M_0"')
    second = builder.add(Mystery(), builder.add(Relu(), first), name="second")
    graph = builder.graph([second])
    with pytest.raises(UnsupportedError) as caught:
        run(graph, analysis, Box(torch.zeros(1, 1), torch.ones(1, 1)))
    assert len(caught.value.items) == 2
    assert caught.value.items[0].startswith('%first = mystery (from onnx node "M_0"): no rule')
    assert caught.value.items[1].startswith("%second = mystery: no rule")
    assert "2 of the values" in str(caught.value)
    assert "relu" in str(caught.value)


@pytest.mark.parametrize("analysis", [entry.analysis for entry in TABLES])
def test_every_operator_has_a_rule_or_a_reason(analysis: str) -> None:
    for word, cells in support().items():
        assert cells[analysis] in ("rule", "given") or cells[analysis].strip(), word


@pytest.mark.parametrize("analysis", ["interval", "ibp"])
def test_intervals_have_a_rule_for_every_operator(analysis: str) -> None:
    assert {word for word, cells in support().items() if cells[analysis] not in ("rule", "given")} == set()


def test_refusals_are_told() -> None:
    rules = table()
    rules.refuse("sines come later", Sin)
    operators: dict[str, type[Operator]] = {"relu": Relu, "sin": Sin, "mystery": Mystery}
    assert support(operators, [rules]) == {
        "relu": {"test": "rule"},
        "sin": {"test": "sines come later"},
        "mystery": {"test": "no rule of test fits; decompose it into operators that have one"},
    }
