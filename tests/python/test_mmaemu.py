"""Orders whose constants this project did not measure, against mmaemu, which was written from hardware recordings.

mmaemu's preset ``ada`` is validated on an RTX 4060. For the Blackwell Orders there is no preset: a custom one with the
published constants, which checks the arithmetic of wide steps and nothing about hardware.
"""

import pytest
import torch

import samebits

mmaemu = pytest.importorskip("mmaemu")
chain = pytest.importorskip("mmaemu.model.chain")
presets = pytest.importorskip("mmaemu.model.presets")

FP8 = torch.float8_e4m3fn
WIDE = presets.Preset("published-blackwell", nfma=32, frac=25, frac_out=23, min_exp=-133, late_c=False, slow_chunk=None)


def codes(kind: str, rows: int, cols: int, seed: int) -> torch.Tensor:
    """Finite e4m3 [rows, cols]: any code, or a kind that stresses one part of a step."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(0, 256, (rows, cols), dtype=torch.uint8, generator=generator)
    if kind == "subnormal":
        code = code & 0x8F
    if kind == "wide":
        code = torch.where(code % 2 == 0, code & 0x87, code | 0x78)
    code[(code & 0x7F) == 0x7F] = 0x38
    return code.view(FP8)


def ours(a: torch.Tensor, b: torch.Tensor, order: str) -> torch.Tensor:
    one = torch.ones(1)
    return samebits.scaled_mm(a, b.t(), one, one, out_dtype=torch.float32, order=order)


def same(x: torch.Tensor, y: torch.Tensor) -> int:
    """Outputs that differ in bits."""
    return int((x.view(torch.int32) != y.view(torch.int32)).sum())


@pytest.mark.parametrize("order", ["ada-fast", "ada-promoted"])
def test_ada_orders_are_mmaemus_ada_in_a_million_outputs(order):
    outputs = 0
    for seed, kind in enumerate(["any", "subnormal", "wide"]):
        for m, n, k in [(384, 768, 272), (256, 512, 80)]:
            a, b = codes(kind, m, k, seed), codes(kind, n, k, seed + 100)
            want = mmaemu.accumulate(a, b, use_fast_accum=order == "ada-fast", profile="ada", splitk=1)
            assert same(ours(a, b, order), want) == 0, f"{kind} {m} {n} {k}"
            outputs += m * n
    assert outputs > 1_000_000


@pytest.mark.parametrize("order", ["blackwell-fast", "sm120-fast"])
def test_the_wide_orders_are_the_published_model(order):
    for seed, kind in enumerate(["any", "subnormal", "wide"]):
        a, b = codes(kind, 96, 272, seed), codes(kind, 160, 272, seed + 100)
        want = chain.chain_gemm(
            a.view(torch.uint8), b.view(torch.uint8), fmt_a="e4m3", fmt_b="e4m3", preset=WIDE
        )
        assert same(ours(a, b, order), want) == 0, kind


def test_control_other_constants_have_other_bits():
    a, b = codes("any", 64, 256, 1), codes("any", 64, 256, 2)
    assert same(ours(a, b, "ada-fast"), ours(a, b, "hopper-fast")) > 0
    assert same(ours(a, b, "ada-fast"), ours(a, b, "ada-promoted")) > 0
    assert same(ours(a, b, "sm120-fast"), ours(a, b, "hopper-fast")) > 0
