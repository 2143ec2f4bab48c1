"""What `import irverify as iv` gives, and that it gives it without waiting for torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import irverify

ROOT = Path(__file__).resolve().parents[1]
HOME: dict[str, str] = irverify._HOME


@pytest.mark.parametrize("name", sorted(HOME))
def test_public_name_imports_from_where_the_table_says(name: str) -> None:
    assert getattr(irverify, name) is getattr(importlib.import_module(HOME[name]), name)
    assert name in irverify.__all__
    assert name in dir(irverify)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(irverify.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == HOME


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'complie'"):
        irverify.complie  # type: ignore[attr-defined]  # noqa: B018


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    heavy = run_python(
        "import irverify, sys; print({'torch', 'numpy', 'onnx', 'onnxruntime', 'ortools', 'scipy'} & set(sys.modules))"
    )
    assert heavy.strip() == "set()"


def test_a_module_does_not_hide_the_public_name() -> None:
    """`irverify.verify` is a module and a function: after importing the module the name is still the function."""
    run_python("import irverify; from irverify.verify import verify; assert irverify.verify is verify")
