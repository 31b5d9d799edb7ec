"""Rules files at the Python edge: load_rules and SAMEBITS_RULES. tests/rules_test.cpp has the format."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import samebits
from helpers import DEVICES

RULES = {
    "format": "samebits-rules",
    "version": 1,
    "library": samebits.__version__,
    "device": "NVIDIA H20",
    "arch": 90,
    "sms": 78,
    "driver": 13000,
    "date": "2026-11-24",
    "orders": [],
    "rules": [],
}


def in_a_process(code: str, rules: Path | str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "SAMEBITS_RULES": str(rules)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.fixture
def rules(tmp_path) -> Path:
    """A file that holds for a GPU that no test machine has; its digest is taken from the refusal of a wrong one."""
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({**RULES, "digest": ""}))
    with pytest.raises(RuntimeError, match="damaged") as refused:
        samebits.load_rules(path)
    digest = re.search(r"has the digest ([0-9a-f]{16})", str(refused.value)).group(1)
    path.write_text(json.dumps({**RULES, "digest": digest}))
    return path


def digest_of(path: Path) -> str:
    return json.loads(path.read_text())["digest"]


def test_a_file_for_another_gpu_is_refused_and_nothing_is_loaded(rules):
    with pytest.raises(RuntimeError, match=r"measured on NVIDIA H20 \(sm_90, 78 SMs\), this is "):
        samebits.load_rules(rules)
    assert samebits.rules_digest() == ""
    assert samebits.load_rules(None) == ""


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(RuntimeError, match="none.json"):
        samebits.load_rules(tmp_path / "none.json")


def test_the_environment_is_read_once_at_import_without_a_gpu(rules):
    code = "import os, samebits; os.environ['SAMEBITS_RULES'] = 'x'; import samebits; print(samebits.rules_digest())"
    ran = in_a_process(code, rules)
    assert ran.stdout.strip() == digest_of(rules), ran.stderr
    assert in_a_process(code, "").stdout.strip() == ""


def test_damage_found_at_import_is_an_error(rules):
    rules.write_text(rules.read_text().replace("78", "79"))
    ran = in_a_process("import samebits", rules)
    assert ran.returncode != 0 and "rules.json: damaged" in ran.stderr
    assert "ImportError: samebits cannot be used with SAMEBITS_RULES: " in ran.stderr


@pytest.mark.parametrize("variable", ["SAMEBITS_RULES", "SAMEBITS_CERTIFICATE"])
def test_the_check_of_vllm_gives_damage_as_its_reason(tmp_path, variable):
    """`python -m` imports samebits before the check runs: one line all the same, and no traceback."""
    (tmp_path / "file.json").write_text("{")
    environment = {**os.environ, variable: str(tmp_path / "file.json")}
    command = [sys.executable, "-m", "samebits.vllm", "check"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and ran.stderr.count("\n") == 1
    assert f"samebits cannot be used with {variable}: " in ran.stderr and "file.json" in ran.stderr


def test_the_cpu_computes_whatever_was_loaded(rules):
    code = "import samebits; print(samebits.kernel('cpu', 'hopper-fast', 1, 16, 16), samebits.rules_digest())"
    assert in_a_process(code, rules).stdout.split() == ["cpu", digest_of(rules)]


@pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU")
def test_the_first_call_on_a_gpu_refuses_rules_for_another(rules):
    ran = in_a_process("import samebits; samebits.kernel('cuda', 'hopper-fast', 1, 16, 16)", rules)
    assert ran.returncode != 0 and "measured on NVIDIA H20" in ran.stderr
