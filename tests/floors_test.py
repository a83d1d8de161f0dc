"""The house rules that a reviewer should not have to remember."""

import ast
import subprocess
import sys
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
