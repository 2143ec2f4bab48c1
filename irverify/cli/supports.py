"""`irverify supports`: what can be asked for, in the words of VNN-LIB 2.0's solver interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from irverify import __version__
from irverify.cli.streams import write
from irverify.errors import UsageError

VNNLIB_VERSIONS = ("1.0", "2.0")
ELEMENT_TYPES = ("real",)
"""Bounds and programs speak about real arithmetic: of a network that rounds, only its counterexamples are exact."""


def _operators() -> tuple[str, ...]:
    from irverify.frontends.onnx import supported_operators

    return supported_operators()


def _opsets() -> tuple[str, ...]:
    from irverify.frontends.onnx.files import OPSETS

    return tuple(map(str, OPSETS))


def _analyses() -> tuple[str, ...]:
    from irverify.report.support import support_table

    return (support_table(),)


ANSWERS: dict[str, Callable[[], tuple[str, ...]]] = {
    "name": lambda: ("irverify",),
    "version": lambda: (__version__,),
    "analyses": _analyses,
    "onnx-operators": _operators,
    "onnx-opset-versions": _opsets,
    "onnx-element-types": lambda: ELEMENT_TYPES,
    "vnnlib-versions": lambda: VNNLIB_VERSIONS,
    "multiple-network-theories": lambda: ("SNET",),
    "hidden-node-theories": lambda: ("NH", "H"),
    "multiple-input-output-theories": lambda: ("SIO", "MIO"),
    "arithmetic-complexity-theories": lambda: ("BND", "OUTC", "LIN"),
    "multiple-node-comparison-theories": lambda: ("SNC", "MNC"),
    "optimised-disjunctive-reasoning": lambda: ("false",),
    "serialise-assignments": lambda: ("true",),
}
"""What each flag is answered with, one line for each word."""


def supports(
    name: Annotated[bool, typer.Option("--name", help="The name of the solver.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Its version.")] = False,
    analyses: Annotated[
        bool, typer.Option("--analyses", help="The table operator x analysis, and why the rest is refused.")
    ] = False,
    onnx_operators: Annotated[bool, typer.Option("--onnx-operators", help="ONNX operators that are imported.")] = False,
    onnx_opset_versions: Annotated[
        bool, typer.Option("--onnx-opset-versions", help="The oldest and the newest opset.")
    ] = False,
    onnx_element_types: Annotated[
        bool, typer.Option("--onnx-element-types", help="Element types whose arithmetic the verdicts are about.")
    ] = False,
    vnnlib_versions: Annotated[
        bool, typer.Option("--vnnlib-versions", help="The oldest and the newest version of VNN-LIB.")
    ] = False,
    multiple_network_theories: Annotated[
        bool, typer.Option("--multiple-network-theories", help="SNET: one network.")
    ] = False,
    hidden_node_theories: Annotated[
        bool, typer.Option("--hidden-node-theories", help="H: constraints on values inside the network.")
    ] = False,
    multiple_input_output_theories: Annotated[
        bool, typer.Option("--multiple-input-output-theories", help="MIO: several inputs and outputs.")
    ] = False,
    arithmetic_complexity_theories: Annotated[
        bool, typer.Option("--arithmetic-complexity-theories", help="BND, OUTC, LIN: linear constraints.")
    ] = False,
    multiple_node_comparison_theories: Annotated[
        bool, typer.Option("--multiple-node-comparison-theories", help="MNC: inputs and outputs in one constraint.")
    ] = False,
    optimised_disjunctive_reasoning: Annotated[
        bool, typer.Option("--optimised-disjunctive-reasoning", help="Whether ORs are more than enumerated.")
    ] = False,
    serialise_assignments: Annotated[
        bool, typer.Option("--serialise-assignments", help="Whether verify has that option.")
    ] = False,
) -> None:
    """Say what is supported, one word a line (a table for --analyses). Takes one of the options."""
    asked = [flag for flag, wanted in locals().items() if wanted]
    if len(asked) != 1:
        raise UsageError(f"expected one of the options, got {len(asked) or 'none'}", hint="irverify supports --help")
    write("\n".join(ANSWERS[asked[0].replace("_", "-")]()))
