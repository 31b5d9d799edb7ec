"""The documentation is that of this code, and the examples run."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import samebits

ROOT = Path(__file__).resolve().parents[2]


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert samebits.__version__ == project
    assert f"project(samebits VERSION {project} " in (ROOT / "CMakeLists.txt").read_text()


def test_api_page_is_current():
    subprocess.run([sys.executable, ROOT / "scripts" / "python_docs.py", "--check"], check=True)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(example, request):
    model = [request.getfixturevalue("minilm")] if "FOLDER" in example.read_text() else []
    subprocess.run([sys.executable, example, *model], check=True, timeout=600)
