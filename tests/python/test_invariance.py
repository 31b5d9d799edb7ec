"""A row's bits do not depend on the batch: vLLM's test of its batch-invariant FP8 GEMM at tolerance 0, and wider."""

import pytest
import torch

import samebits
from helpers import bits, check_invariant, random_fp8, same_bits

SHAPES = [(1024, 2048), (4608, 4096)]  # (N, K) of vLLM's tests/v1/determinism/test_cutlass_batch_invariance.py
BATCHES = [1, 16, 17, 32, 64, 65, 256, 257]


def weight_of(n, k, per_channel, device):
    scale = torch.rand(1, n) * 0.1 + 0.01 if per_channel else torch.tensor([0.037])
    return random_fp8(n, k, device).t(), scale.to(device)


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_needle_first_and_last(device, n, k, per_channel, static):
    """Every batch in bf16 without bias, as vLLM has it; with a bias and in fp16 the batches at the edges of tiles."""
    b, scale_b = weight_of(n, k, per_channel, device)
    scale = torch.tensor([0.0125], device=device)
    x = torch.randn(257, k).bfloat16().to(device)
    for dtype in (torch.bfloat16, torch.float16):
        for bias in (None, torch.randn(n).to(device, dtype)):

            def layer(batch, dtype=dtype, bias=bias):
                if static:
                    return samebits.scaled_mm(samebits.quantize_static(batch, scale), b, scale, scale_b, bias, dtype)
                q, scales = samebits.quantize_per_token(batch)
                return samebits.scaled_mm(q, b, scales, scale_b, bias, dtype)

            plain = bias is None and dtype == torch.bfloat16
            check_invariant(layer, x, BATCHES if plain else [17, 64, 257])


@pytest.mark.parametrize("order", samebits.ORDERS[:2])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_every_m_from_1_to_127(device, size, order):
    b, scale_b = weight_of(size, size, True, device)
    a, scale_a = random_fp8(127, size, device), torch.rand(127, 1, device=device)
    whole = bits(samebits.scaled_mm(a, b, scale_a, scale_b, None, torch.bfloat16, order))
    for m in range(1, 128):
        part = bits(samebits.scaled_mm(a[:m], b, scale_a[:m], scale_b, None, torch.bfloat16, order))
        assert torch.equal(part, whole[:m]), f"M = {m}"


def test_vllm_op_has_the_same_bits(device):
    b, scale_b = weight_of(256, 512, True, device)
    a, scale_a = random_fp8(100, 512, device), torch.rand(100, 1, device=device)
    out = torch.empty(100, 256, dtype=torch.bfloat16, device=device)
    samebits.cutlass_scaled_mm(out, a, b, scale_a, scale_b)
    assert same_bits(out, samebits.scaled_mm(a, b, scale_a, scale_b))


def test_thread_count_changes_no_bit():
    b, scale_b = weight_of(200, 300, True, "cpu")
    a, scale_a = random_fp8(33, 300), torch.rand(33, 1)
    before = torch.get_num_threads()
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outs.append(samebits.scaled_mm(a, b, scale_a, scale_b))
    torch.set_num_threads(before)
    assert all(same_bits(out, outs[0]) for out in outs)


def test_control_split_k_is_caught(device):
    """A GEMM that splits K at small M, as cuBLASLt does: check_invariant must see it."""
    b, scale_b = weight_of(1024, 2048, False, device)
    x = torch.randn(65, 2048).bfloat16().to(device)

    def split(batch):
        q, scale = samebits.quantize_per_token(batch)
        if batch.shape[0] > 16:
            return samebits.scaled_mm(q, b, scale, scale_b)
        half = [
            samebits.scaled_mm(q[:, s], b[s], scale, scale_b, None, torch.float32)
            for s in (slice(0, 1024), slice(1024, 2048))
        ]
        return (half[0] + half[1]).bfloat16()

    with pytest.raises(AssertionError, match="row 0 of a batch of 65 differs in"):
        check_invariant(split, x, [65])


def test_control_one_scale_for_the_batch_is_caught(device):
    b, scale_b = weight_of(1024, 2048, False, device)
    x = torch.randn(17, 2048).bfloat16().to(device)

    def per_batch(batch):
        q, scale = samebits.quantize_weight(batch, False)
        return samebits.scaled_mm(q, b, scale, scale_b)

    with pytest.raises(AssertionError, match="row 0 of a batch of 17 differs in"):
        check_invariant(per_batch, x, [17])
