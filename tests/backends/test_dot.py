"""The picture holds every value and every edge."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from irverify.backends.dot import to_dot
from irverify.ir.graph import Graph
from irverify.ir.text import parse_graph


@pytest.fixture
def graph() -> Graph:
    return parse_graph(r"""
        graph "a \"net\"" {
          %x: f32[2] = input() ; onnx input "x"
          %h = linear(%x) {weight=tensor([[1, 2], [3, 4]])}
          %r = relu(%h)
          %y = mul(%r, %x)
          return %y
        }""")


def test_every_value_and_every_edge(graph: Graph) -> None:
    lines = to_dot(graph, {"r": "1 unstable"}).splitlines()
    assert lines[0] == r'digraph "a \"net\"" {'
    assert r'  "x" [label="%x = input\nf32[2]\nonnx input \"x\"", fillcolor=lightgrey];' in lines
    assert r'  "h" [label="%h = linear\nf32[2]\nweight (2, 2)", fillcolor=lightblue];' in lines
    assert r'  "r" [label="%r = relu\nf32[2]\n1 unstable", fillcolor=orange];' in lines
    assert r'  "y" [label="%y = mul\nf32[2]", fillcolor=lightcoral, peripheries=2];' in lines
    edges = [line.strip() for line in lines if "->" in line]
    assert edges == ['"x" -> "h";', '"h" -> "r";', '"r" -> "y" [label=0];', '"x" -> "y" [label=1];']


def test_graphviz_reads_it(graph: Graph) -> None:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("needs Graphviz' dot")
    done = subprocess.run([program, "-Tsvg"], input=to_dot(graph), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unstable" not in done.stdout
