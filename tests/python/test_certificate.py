"""Certificates at the Python edge: load_certificate and SAMEBITS_CERTIFICATE. tests/certificate_test.cpp has the format."""

import os
import subprocess
import sys

import pytest

import samebits

CLI = os.environ.get("SAMEBITS_CLI", "")


def in_a_process(code: str, certificate: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "SAMEBITS_CERTIFICATE": certificate}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_file_that_is_no_certificate_is_refused_by_name(tmp_path):
    path = tmp_path / "certificate.json"
    with pytest.raises(RuntimeError, match="certificate.json: open"):
        samebits.load_certificate(path)
    path.write_text('{"format": "samebits-rules"}')
    with pytest.raises(RuntimeError, match="not a certificate file of `samebits prove`"):
        samebits.load_certificate(path)
    assert samebits.load_certificate(None) == ""


def test_the_environment_is_read_at_import_and_damage_is_an_error(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text('{"format": "samebits-certificate", "version": 1, "digest": "0"}')
    ran = in_a_process("import samebits", str(path))
    assert ran.returncode != 0 and "certificate.json: damaged" in ran.stderr
    ran = in_a_process("import samebits; print(samebits.kernel('cpu', 'ada-fast', 1, 16, 16))", "")
    assert ran.stdout.strip() == "cpu", ran.stderr


@pytest.mark.skipif(not CLI, reason="SAMEBITS_CLI is not set")
def test_the_command_line_takes_the_same_variable(tmp_path):
    path = tmp_path / "none.json"
    ran = subprocess.run(
        [CLI, "info"], env={**os.environ, "SAMEBITS_CERTIFICATE": str(path)}, capture_output=True, text=True
    )
    assert ran.returncode == 2 and "none.json" in ran.stderr
