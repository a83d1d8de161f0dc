"""The house rules that a reviewer should not have to remember."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "simclr_jax"
FLOORS = (
    {"core"},
    {"losses", "augment", "optim", "data", "parallel"},
    {"models"},
    {"methods"},
    {"train"},
    {"evals", "interop"},
    {"report"},
    {"build"},
    {"run", "trained", "verify", "plan"},
    {"bench", "sweeps"},
    {"cli", "api"},
    {"__main__"},
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
MODULES = [path for path in SRC.rglob("*.py") if path != SRC / "__init__.py"]
CODE = [*MODULES, *(ROOT / "configs").glob("*.py")]
TESTS = [*(ROOT / "tests").rglob("*_test.py")]
name_of = lambda path: str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_from_lower_floors_or_its_own_room(path):
    here = path.relative_to(SRC).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("simclr_jax"):
            continue
        deep = "." in (node.module or "")
        modules = [node.module] if deep else [f"{node.module}.{a.name}" for a in node.names]
        for there in (str(module).split(".")[1] for module in modules):
            assert there == here or FLOOR[there] < FLOOR[here], f"{here} must not import {there}"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_module_outgrows_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_function_outgrows_80_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 80, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_config_is_read_with_a_default(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called_on = ast.unparse(node.func.value)
            assert not (node.func.attr == "get" and called_on.split("[")[0].endswith("config")), (
                f"line {node.lineno}: {ast.unparse(node)}"
            )


def test_training_imports_neither_tensorflow_nor_torch_nor_matplotlib():
    program = (
        "import sys, simclr_jax.cli.train; "
        "print([m for m in ('tensorflow', 'torch', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_what_needs_a_package_of_a_tier_has_its_mark(path):
    """Without the mark it would be skipped in the check, and left out of the tier."""
    tree, extras = ast.parse(path.read_text()), tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = extras["project"]["optional-dependencies"]
    tier_of = {re.split(r"\W", package)[0]: "interop" for package in extras["interop"]}
    tier_of["libtpu"] = "plan"
    of_the_module = [s.value for s in tree.body if isinstance(s, ast.Expr | ast.Assign)]
    marks = [ast.unparse(s) for s in tree.body if ast.unparse(s).startswith("pytestmark = ")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip"):
            package = str(getattr(node.args[0], "value", "")).split(".")[0]
            if tier := tier_of.get(package):
                assert node in of_the_module, f"line {node.lineno}: write @pytest.mark.{tier}(...)"
                assert any(f"pytest.mark.{tier}" in mark for mark in marks), f"{package}: no mark"
