"""bench/vllm_latency.py, vllm_tokens.py and vllm_formats.py as they run, with a vLLM that answers at once (fake_vllm.BENCH)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config

from fake_vllm import BENCH

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a script of bench/ in a process of its own, writing to tmp_path / "out"."""
    for name, text in BENCH.items():
        path = tmp_path / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(script, *args):
        command = [sys.executable, ROOT / "bench" / script, "--out", tmp_path / "out", *args]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return call


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("parallel", [False, True])
def test_latency_measures_every_arm(run, tmp_path, parallel):
    options = ["--batch-sizes", "8", "64", "--iterations", "2", "--profile", *["--parallel"] * parallel]
    done = run("vllm_latency.py", *options, "--", "--enforce-eager")
    assert done.returncode == 0, done.stdout
    rows = lines(tmp_path / "out" / "latency.jsonl")
    arms = ("default", "fallback", "vllm", "samebits-fp8", "samebits")
    assert [(row["arm"], row["batch"]) for row in rows] == [(arm, batch) for arm in arms for batch in (8, 64)]
    assert [row["kernels"] for row in rows[4::2]] == [
        ["CutlassFP8ScaledMMLinearKernel"], *[["SamebitsFP8ScaledMMLinearKernel"]] * 2,
    ]  # fmt: skip
    assert all(0 < row["p50_s"] == sum(row["latencies_s"]) / 2 for row in rows)
    log = (tmp_path / "out" / "samebits.log").read_text()
    assert "--enforce-eager" in log and ("--kv-cache-memory-bytes" in log) == parallel
    assert lines(tmp_path / "out" / "kernels.jsonl") == [
        {"arm": arm, "batch": 8, "kernel": f"{arm.removesuffix('-fp8')}_attention", "ms": 0.5, "calls": 2}
        for arm in arms
    ]


def test_an_engine_that_does_not_start_is_an_error_with_the_end_of_its_log(run, monkeypatch):
    monkeypatch.setenv("FAKE_DISTURB", "vllm-start")
    done = run("vllm_latency.py", "--iterations", "1")
    assert done.returncode == 1 and "arm vllm: exit code 1, end of " in done.stdout and "out of memory" in done.stdout


def test_an_arm_without_what_sets_it_apart_is_an_error(run, monkeypatch):
    monkeypatch.setenv("FAKE_DISTURB", "samebits-linears")
    done = run("vllm_latency.py", "--iterations", "1", "--arms", "samebits-fp8", "samebits")
    assert done.returncode == 1
    assert "arm samebits: vLLM's log does not say ['samebits computes unquantized linears']" in done.stdout


@pytest.mark.parametrize("script", ["vllm_latency.py", "vllm_tokens.py"])
def test_an_arm_with_another_kernel_is_an_error(run, monkeypatch, script):
    monkeypatch.setenv("FAKE_KERNEL", "MarlinFP8ScaledMMLinearKernel")
    done = run(script, "--arms", "samebits")
    assert done.returncode == 1
    assert "arm samebits: vLLM's log names the kernels ['MarlinFP8ScaledMMLinearKernel']" in done.stdout


@pytest.mark.parametrize(
    ("disturb", "sentence"),
    [
        ("", "as it should be"),
        ("samebits-batch", "samebits: prompts differ from alone: {'alone': 0, 'batch': 8, 'crowded': 8}"),
        ("samebits-token", "samebits-fp8: other token ids or logprobs than vLLM's batch-invariant kernel"),
        ("default-invariant", "default: the control arm does not depend on the batch, so this test shows nothing"),
        ("vllm-constant", "vllm: only 1 of 8 prompts differ from each other"),
    ],
)
def test_tokens_verdict(run, tmp_path, monkeypatch, disturb, sentence):
    monkeypatch.setenv("FAKE_DISTURB", disturb)
    done = run("vllm_tokens.py")
    assert done.returncode == (1 if disturb else 0) and sentence in done.stdout.splitlines(), done.stdout
    assert [row["arm"] for row in lines(tmp_path / "out" / "tokens.jsonl")] == ["default", "vllm", "samebits-fp8", "samebits"]


def test_latency_asks_the_same_engines_for_tokens(run, tmp_path, monkeypatch):
    options = ["--iterations", "1", "--real-weights", "--tokens", "--arms", "default", "vllm", "samebits-fp8"]
    assert run("vllm_latency.py", *options).returncode == 0
    assert [row["arm"] for row in lines(tmp_path / "out" / "tokens.jsonl")] == ["default", "vllm", "samebits-fp8"]
    monkeypatch.setenv("FAKE_DISTURB", "samebits-token")
    done = run("vllm_latency.py", *options)
    assert done.returncode == 1 and "samebits-fp8: other token ids or logprobs" in done.stdout
    done = run("vllm_latency.py", "--tokens")
    assert done.returncode == 2 and "dummy weights" in done.stdout


def test_formats_writes_and_asks_for_every_form(run, tmp_path, monkeypatch):
    sizes = dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=128, vocab_size=1000)
    Qwen3Config(**sizes, tie_word_embeddings=True, architectures=["Qwen3ForCausalLM"]).save_pretrained(tmp_path / "qwen3")
    done = run("vllm_formats.py", "--config", tmp_path / "qwen3")
    assert done.returncode == 0 and done.stdout.endswith("7 forms: as it should be\n"), done.stdout
    rows = lines(tmp_path / "out" / "formats.jsonl")
    arms = [(row["model"], row["arm"]) for row in rows]
    assert len(arms) == 14 and ("vllm-fp8", "default") in arms and ("vllm-fp8-block", "vllm") not in arms
    monkeypatch.setenv("FAKE_DISTURB", "samebits-token")
    done = run("vllm_formats.py", "--config", tmp_path / "qwen3", "--formats", "modelopt")
    assert done.returncode == 1 and "modelopt: samebits-fp8: other token ids or logprobs" in done.stdout
