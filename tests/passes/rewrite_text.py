"""Rewrites tested in text: IR in, pipeline, IR out."""

from __future__ import annotations

from textwrap import dedent

from irverify.ir.text import parse_graph, print_graph
from irverify.pipeline import optimize


def rewrite(pipeline: str, body: str) -> str:
    """The body (without the frame around it) of the graph that a pipeline makes, with small tensors in place."""
    graph = parse_graph(f'graph "test" {{\n{dedent(body)}\n}}')
    lines = print_graph(optimize(graph, pipeline, check=True), inline=64).splitlines()
    return "\n".join(line.strip() for line in lines[1:-1])


def assert_rewrites(pipeline: str, body: str, expected: str) -> None:
    assert rewrite(pipeline, body) == dedent(expected).strip()


def assert_stays(pipeline: str, body: str) -> None:
    assert_rewrites(pipeline, body, body)
