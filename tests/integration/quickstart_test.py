"""The notebook of the documentation, cell by cell, in a process of its own as a reader has it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
LAST = "import json; print(json.dumps([features.shape, [row['features'] for row in rows]]))"


@pytest.mark.thorough
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = json.loads((ROOT / "docs/quickstart.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    command = [sys.executable, "-c", "\n".join((*code, LAST))]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [[20, 64], ["pixels", "encoder"]]
