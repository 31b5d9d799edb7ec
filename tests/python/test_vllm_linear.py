"""Unquantized linears and lm_head of vLLM on samebits: the three places of vLLM's function (fake_vllm.py)."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch

import samebits
import samebits.vllm as plugin
from helpers import check_invariant, reference_half, same_bits
from test_vllm import check, fake  # noqa: F401: a fixture

LAYERS = "vllm.model_executor.layers."
METHODS = [("linear", "UnquantizedLinearMethod"), ("vocab_parallel_embedding", "UnquantizedEmbeddingMethod")]


def module(name):
    return importlib.import_module(LAYERS + name)


def layer_of(n, k, dtype=torch.bfloat16):
    return SimpleNamespace(weight=torch.randn(n, k).to(dtype))


def log() -> list[str]:
    return sys.modules["vllm.logger"].LINES


def cache_key() -> str:
    return sys.modules["vllm.envs"].environment_variables["SAMEBITS_VLLM_KERNEL"]()


@pytest.mark.parametrize("imported_first", [True, False])
@pytest.mark.parametrize(("name", "method"), METHODS)
def test_both_layers_run_samebits_whenever_they_were_imported(fake, name, method, imported_first):  # noqa: F811
    if imported_first:
        module(name)
    plugin.register()
    plugin.register()
    apply, layer = getattr(module(name), method)().apply, layer_of(64, 96)
    x, bias = torch.randn(2, 5, 96).bfloat16(), torch.randn(64).bfloat16()
    for b in (None, bias):
        want = reference_half(x.view(10, 96), layer.weight, None, b).view(2, 5, 64)
        assert same_bits(apply(layer, x, b), want)
    check_invariant(lambda rows: apply(layer, rows, bias), torch.randn(33, 96).bfloat16(), [2, 17, 33])
    assert same_bits(apply(layer, x.transpose(0, 1)), apply(layer, x).transpose(0, 1))
    compiled = torch.compile(lambda y: apply(layer, y, bias), backend="aot_eager", fullgraph=True, dynamic=True)
    assert same_bits(compiled(x), apply(layer, x, bias))
    assert module("batch_invariant").CALLS == []
    assert sum("computes unquantized linears and lm_head, Order hopper-bf16" in line for line in log()) == 1


def test_as_aten_linear_where_vllm_overrides_that(fake):  # noqa: F811
    plugin.register()
    module("batch_invariant").enable_batch_invariant_mode()
    ours = importlib.import_module("samebits.vllm.linear").linear_batch_invariant
    assert module("batch_invariant").OVERRIDES == {"aten::linear": ours}


@pytest.mark.parametrize(
    ("n", "k", "dtype", "bias_dtype"),
    [
        (64, 96, torch.float32, None),
        (60, 96, torch.bfloat16, None),
        (64, 90, torch.float16, None),
        (64, 96, torch.bfloat16, torch.float32),
    ],
)
def test_what_samebits_does_not_compute_stays_vllms_for_every_batch(fake, n, k, dtype, bias_dtype):  # noqa: F811
    plugin.register()
    layer, bias = layer_of(n, k, dtype), None if bias_dtype is None else torch.randn(n, dtype=bias_dtype)
    apply = module("linear").UnquantizedLinearMethod().apply
    for m in (1, 9):
        apply(layer, torch.randn(m, k).to(dtype), bias)
    assert module("batch_invariant").CALLS == [(n, k)] * 2


def test_rows_and_weights_off_16_bytes(fake):  # noqa: F811
    """Rows that start off 16 bytes are copied; such a weight stays vLLM's, for every batch."""
    plugin.register()
    apply, storage = module("linear").UnquantizedLinearMethod().apply, torch.randn(9 * 96 + 4).bfloat16()
    layer, x = layer_of(64, 96), storage[4:].view(9, 96)
    assert same_bits(apply(layer, x, None), reference_half(x, layer.weight))
    assert module("batch_invariant").CALLS == []
    shifted = SimpleNamespace(weight=torch.randn(64 * 96 + 4).bfloat16()[4:].view(64, 96))
    for m in (1, 9):
        apply(shifted, x[:m], None)
    assert module("batch_invariant").CALLS == [(64, 96)] * 2


def without_kernels(monkeypatch):
    def refuse(device, order, *_):
        if order in samebits.HALF_ORDERS:
            raise RuntimeError("compute capability 8.9: no row of hopper-bf16")

    monkeypatch.setattr(samebits, "kernel", refuse)


@pytest.mark.parametrize(
    ("change", "reason", "keyed"),
    [
        (lambda patch: patch.setenv("SAMEBITS_VLLM_LINEAR", "vllm"), "SAMEBITS_VLLM_LINEAR=vllm", False),
        (without_kernels, "compute capability 8.9: no row of hopper-bf16", True),
    ],
)
def test_off_or_without_kernels_vllm_keeps_them_and_says_so(fake, monkeypatch, capsys, change, reason, keyed):  # noqa: F811
    change(monkeypatch)
    assert check() == 0
    out = capsys.readouterr().out
    assert f"unquantized linears and lm_head: vLLM ({reason})" in out
    assert "FP8 KV cache; unquantized linears and lm_head" in out
    module("linear").UnquantizedLinearMethod().apply(layer_of(64, 96), torch.randn(2, 96).bfloat16())
    assert module("batch_invariant").CALLS == [(64, 96)]
    assert (" linears " in cache_key()) == keyed
    assert any("leaves unquantized linears and lm_head to vLLM: compute" in line for line in log()) == keyed


def test_registering_leaves_the_gpu_alone(fake, monkeypatch):  # noqa: F811
    """vLLM also calls it where it forks its workers, and a process with CUDA initialized cannot be forked."""
    asked = []
    monkeypatch.setattr(samebits, "kernel", lambda *query: asked.append(query) or "a row of the table")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: pytest.fail("torch.cuda was initialized"))
    module("linear")
    plugin.register()
    assert asked == []
    for _ in range(2):  # the first layer that runs asks, once
        module("linear").UnquantizedLinearMethod().apply(layer_of(64, 96), torch.randn(2, 96).bfloat16())
    assert [query[:2] for query in asked] == [("cuda", "hopper-bf16")]


def test_check_names_them_and_the_cache_key_has_them(fake, capsys):  # noqa: F811
    assert check() == 0
    out = capsys.readouterr().out
    assert "unquantized linears and lm_head: samebits" in out and "FP8 KV cache\n" in out
    assert " linears " in cache_key()


def test_always_without_batch_invariance_leaves_them_alone(fake, monkeypatch):  # noqa: F811
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    monkeypatch.setenv("SAMEBITS_VLLM", "always")
    plugin.register()
    module("linear").UnquantizedLinearMethod().apply(layer_of(64, 96), torch.randn(2, 96).bfloat16())
    assert module("batch_invariant").CALLS == [(64, 96)]


def test_control_vllms_sum_has_other_bits(fake):  # noqa: F811
    """So the tests above would see vLLM's function: it rounds before it adds the bias."""
    theirs, layer = module("batch_invariant").linear_batch_invariant, layer_of(64, 96)
    x, bias = torch.randn(9, 96).bfloat16(), torch.randn(64).bfloat16()
    assert not same_bits(theirs(x, layer.weight, bias), reference_half(x, layer.weight, None, bias))
