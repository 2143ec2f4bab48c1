"""The house has floors: a room imports only from its own floor and those below, by absolute names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A new room (a module or package directly under irverify) gets its place here.
FLOORS = (
    {"errors", "rounding", "cores", "allocator", "autocast", "kernels"},
    {"ir"},
    {"regions", "properties"},
    {"frontends", "pipeline"},
    {"passes"},
    {"backends"},
    {"data", "attacks"},
    {"verify"},
    {"certify", "train"},
    {"report"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in {"passes", "backends"}:
        parts.insert(0, "irverify")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def sources() -> dict[str, Path]:
    """Module name -> file, each file once: the two symlinks are not followed."""
    files = [file for top in ("passes", "backends") for file in (ROOT / top).rglob("*.py")]
    for entry in (ROOT / "irverify").iterdir():
        if entry.is_dir() and not entry.is_symlink():
            files += entry.rglob("*.py")
        elif entry.suffix == ".py":
            files.append(entry)
    return {module_name(file): file for file in sorted(files)}


SOURCES = sources()


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, anywhere in the file: `from a.b import c` gives `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def room(name: str) -> str:
    """The room of a full name: `irverify.ir.graph` lies in `ir`."""
    return name.split(".")[1]


def complaint(module: str, name: str) -> str | None:
    """Why `module` must not import `name`; None where it may."""
    if name.startswith("."):
        return "relative import"
    top = name.split(".")[0]
    if top in {"passes", "backends"}:
        return f"import irverify.{top} instead"
    if top != "irverify" or name == "irverify.__version__":
        return None
    if name.count(".") == 0 or room(name) not in FLOOR_OF:
        return "the facade is for users: import from the module that defines it"
    if FLOOR_OF[room(name)] > FLOOR_OF[room(module)]:
        return f"{room(name)} lies above {room(module)}"
    return None


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in SOURCES if module != "irverify"}
    assert rooms <= set(FLOOR_OF), "give new rooms their place in FLOORS"


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "irverify"])
def test_imports_go_down(module: str) -> None:
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    complaints = [
        f"{SOURCES[module].relative_to(ROOT)}:{line}: {name}: {reason}"
        for line, name in imported(tree)
        if (reason := complaint(module, name)) is not None
    ]
    assert not complaints, "\n".join(complaints)


def test_the_rule_itself() -> None:
    assert complaint("irverify.ir.graph", "irverify.passes.ibp.Ibp") == "passes lies above ir"
    assert complaint("irverify.passes.ibp", "irverify.ir.graph.Graph") is None
    assert complaint("irverify.passes.ibp", "irverify.passes") is None
    assert complaint("irverify.passes.ibp", "passes.crown.Crown") == "import irverify.passes instead"
    assert complaint("irverify.passes.ibp", ".crown.Crown") == "relative import"
    assert complaint("irverify.cli.main", "irverify.verify.verify") is None
    assert complaint("irverify.cli.main", "irverify.compile") is not None
    assert complaint("irverify.cli.main", "irverify") is not None
    assert complaint("irverify.cli.main", "irverify.__version__") is None
