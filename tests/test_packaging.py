"""Whatever is built from the repository is one package `irverify`, whole, and works away from the repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("passes", "backends")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def package_folders() -> dict[str, str]:
    """Package name -> folder, for every folder of Python files in the tree."""
    folders: dict[str, str] = {}
    for top in ("irverify", *LINKED):
        for where, _, files in os.walk(ROOT / top):  # does not follow the symlinks
            if any(name.endswith(".py") for name in files):
                folder = Path(where).relative_to(ROOT).as_posix()
                prefix = "irverify." if top in LINKED else ""
                folders[prefix + folder.replace("/", ".")] = folder
    return folders


def test_every_package_is_listed() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())
    elsewhere = {name: folder for name, folder in package_folders().items() if folder.split("/")[0] in LINKED}
    assert SETUPTOOLS["package-dir"] == elsewhere


def test_every_package_has_an_init_file() -> None:
    assert [folder for folder in package_folders().values() if not (ROOT / folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name: str) -> None:
    link = ROOT / "irverify" / name
    if link.is_file():
        pytest.skip("a checkout on a system without symbolic links")
    assert os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("name", LINKED)
def test_no_package_loads_under_a_second_name(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=f"import it as 'irverify.{name}'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with an sdist and the wheel built from it, made from a checkout that has no symbolic links."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("irverify", *LINKED):
        ignore = shutil.ignore_patterns("__pycache__", "*.so", *(LINKED if name == "irverify" else ()))
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in LINKED:
        (checkout / "irverify" / name).write_text(f"../{name}", encoding="utf-8")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build(checkout, "dist")
    return checkout / "dist"


def build(checkout: Path, out: str, *kind: str, **environment: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *kind, "--outdir", out, "."]
    given = {**os.environ, **environment}
    done = subprocess.run(command, cwd=checkout, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expected_files() -> set[str]:
    """Names in the wheel of everything that the packages hold."""
    names = {"irverify/py.typed"}
    names |= {f"irverify/assets/{file.name}" for file in (ROOT / "irverify" / "assets").iterdir()}
    recipes = (ROOT / "irverify" / "train" / "recipes").glob("*.toml")
    names |= {f"irverify/train/recipes/{file.name}" for file in recipes}
    for package, folder in package_folders().items():
        names |= {f"{package.replace('.', '/')}/{file.name}" for file in (ROOT / folder).glob("*.py*")}
    return names


def compiled_files() -> set[str]:
    """The name of what is compiled, where there is a C compiler."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return {f"irverify/kernels/_kernels{suffix}"} if shutil.which(compiler) else set()


def test_wheel_holds_irverify_and_nothing_else(distributions: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected_files() | compiled_files()


@pytest.mark.skipif(sys.platform == "win32", reason="no environment variable names the compiler there")
def test_wheel_without_a_compiler(distributions: Path) -> None:
    checkout = distributions.parent
    shutil.rmtree(checkout / "build", ignore_errors=True)
    build(checkout, "plain", "--wheel", CC="false")
    with zipfile.ZipFile(next((checkout / "plain").glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected_files()


def test_sdist_holds_what_a_build_needs(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "passes/__init__.py", "backends/__init__.py"} <= names
    assert {"setup.py", "irverify/kernels/kernels.c", "irverify/kernels/rows.h", "irverify/kernels/lines.h"} <= names


def test_wheel_works_away_from_the_repository(distributions: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    program = f"""
import importlib, irverify
from irverify.data import digits
assert len(digits().labels) == 1797
for name in {SETUPTOOLS["packages"]}:
    assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r}), name
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
