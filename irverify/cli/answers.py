"""How `verify` answers: on stdout, in a results file, as JSON, as serialised tensors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from irverify.cli.streams import encode, note, write, write_file
from irverify.errors import IRVerifyError

if TYPE_CHECKING:
    from fractions import Fraction

    from torch import Tensor

    from irverify.cli.queries import Question
    from irverify.verify import Counterexample, Verdict

WORDS = {"verified": "unsat", "falsified": "sat", "unknown": "unknown", "timeout": "timed-out"}
"""Verdicts about a network as answers to the query, which states the negation."""


@dataclass(frozen=True)
class Witness:
    """What satisfies a query: the exact point, and all outputs there, flattened, hidden values last."""

    point: tuple[Fraction, ...]
    outputs: Tensor


@dataclass(frozen=True)
class Answer:
    """A verdict about a question, in the forms that it can be told in."""

    question: Question
    verdict: Verdict

    @property
    def word(self) -> str:
        return WORDS[self.verdict.verdict]

    @cached_property
    def witness(self) -> Witness | None:
        """The counterexample, checked against the query once more, in exact arithmetic."""
        import torch

        found = self.verdict.counterexample
        if found is None:
            return None
        nodes = self.question.graph.inputs
        given = [torch.from_numpy(x).to(node.type.dtype) for x, node in zip(found.inputs, nodes, strict=True)]
        outputs = [torch.from_numpy(y) for y in found.outputs]
        point = self.question.plain.witness(given, outputs)
        if point is None:
            raise RuntimeError("the counterexample does not satisfy the query")
        return Witness(point, torch.cat([output.flatten() for output in outputs]))

    def text(self, *, assignment: bool = True) -> str:
        """The verdict on the first line, and behind `sat` the assignment in VNN-LIB 2.0's format."""
        if self.witness is None or not assignment:
            return self.word
        from irverify.frontends.vnnlib import assignment_text

        return f"{self.word}\n{assignment_text(self.question.query, self.witness.point, self.witness.outputs)}"

    def results(self) -> str:
        """VNN-COMP's results file: the verdict, and behind `sat` a witness (2.0: the assignment)."""
        if self.verdict.verdict == "timeout":
            return "timeout\n"
        if self.witness is None or self.question.query.version != "1.0":
            return self.text() + "\n"
        from irverify.frontends.vnnlib import witness_text

        return f"{self.word}\n{witness_text(self.question.query, self.witness.point, self.witness.outputs)}\n"

    def json(self) -> str:
        verdict = self.verdict
        stages = [{"name": stage.name, "seconds": stage.seconds, "outcome": stage.outcome} for stage in verdict.stages]
        return encode(
            "verify",
            {
                "verdict": verdict.verdict,
                "method": verdict.method,
                "bound": verdict.bound,
                "tolerance": verdict.tolerance,
                "counterexample": None if verdict.counterexample is None else _described(verdict.counterexample),
                "seconds": verdict.seconds,
                "stages": stages,
                "reason": verdict.reason,
            },
        )


def tell(answer: Answer, as_json: bool, results_file: Path | None, tensors: Path | None) -> None:
    """Says the answer on stdout first, whatever becomes of the files; then writes these.

    Where a file cannot be written, that is said on stderr only (stdout has its one answer already); the exit code is 1.
    """
    write(answer.json() if as_json else answer.text(assignment=tensors is None))
    sys.stdout.flush()
    try:
        if results_file is not None:
            write_file(results_file, answer.results())
        if tensors is not None and answer.witness is not None:
            from irverify.frontends.vnnlib import serialise_assignment

            serialise_assignment(answer.question.query, answer.witness.point, answer.witness.outputs, tensors)
    except IRVerifyError as error:
        note(f"error: {error}")
        raise typer.Exit(1) from error


def _described(found: Counterexample) -> dict[str, object]:
    return {
        "inputs": [x.tolist() for x in found.inputs],
        "outputs": [y.tolist() for y in found.outputs],
        "replayed_on": found.replayed_on,
    }
