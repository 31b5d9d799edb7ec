"""Block scales in torch: block_scaled_mm, the group quantizers and their fused forms, on CPU and CUDA."""

import pytest
import torch

import samebits
from helpers import block_operands, reference_block_mm, same_bits
from test_ops import check, upcasting_allclose, upcasting_assert_close

OPS = torch.ops.samebits
# vLLM's test_block_fp8.py, and its CUTLASS case; as far as a CPU takes them in a test.
VLLM = [(m, n, k) for m in (1, 7, 83) for n in (128, 576) for k in (256, 3884, 4096)] + [(32, 576, 7168)]


def test_opcheck(device, monkeypatch):
    monkeypatch.setattr(torch.testing, "assert_close", upcasting_assert_close)
    monkeypatch.setattr(torch, "allclose", upcasting_allclose)
    a, b, scale_a, scale_b = block_operands(17, 160, 272, device)
    bias = torch.randn(160, device=device).bfloat16()
    check(OPS.block_scaled_mm.default, a, b, scale_a, scale_b)
    check(OPS.block_scaled_mm.default, a, b, scale_a, scale_b, bias, torch.bfloat16, "hopper-block128", "weight")
    x, weight = torch.randn(17, 272, device=device).bfloat16(), torch.randn(272, device=device).bfloat16()
    check(OPS.quantize_per_group.default, x)
    check(OPS.quantize_per_group.default, x, 288, True)
    check(OPS.quantize_weight_blocks.default, x)
    check(OPS.dequantize.default, *samebits.quantize_weight_blocks(x), torch.bfloat16)
    check(OPS.rms_norm_quantize_per_group.default, x, weight, 1e-6)
    check(OPS.add_rms_norm_quantize_per_group.default, x, x, weight, 1e-6, True)
    check(OPS.silu_mul_quantize_per_group.default, x)


def test_schema_is_the_published_one():
    assert str(OPS.block_scaled_mm.default._schema) == (
        "samebits::block_scaled_mm(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, Tensor? bias=None, "
        'ScalarType out_dtype=15, str order="hopper-block128", str overlap="launch") -> Tensor'
    )


@pytest.mark.parametrize(("m", "n", "k"), VLLM)
def test_shapes_of_vllm_equal_the_reference(device, m, n, k):
    a, b, scale_a, scale_b = block_operands(m, n, k)
    bias = torch.randn(n).bfloat16()
    moved = [t.to(device) for t in (a, b, scale_a, scale_b, bias)]
    if device.type == "cuda" and k % 16:
        with pytest.raises(RuntimeError, match="must be multiples of 16"):
            samebits.block_scaled_mm(*moved)
        return
    out = samebits.block_scaled_mm(*moved)
    rows, channels = torch.randperm(m)[:4], torch.randperm(n)[:24].sort().values
    per_channel = scale_b.repeat_interleave(128, 0)[channels]  # one row of scales for each sampled channel
    columns = []
    for i, c in enumerate(channels.tolist()):
        one = slice(c, c + 1)
        scales = scale_a[rows], per_channel[i : i + 1]
        columns.append(reference_block_mm(a[rows], b.t()[one], *scales, bias[one], out.dtype))
    expected = torch.cat(columns, 1)
    assert same_bits(out.cpu()[rows][:, channels], expected)


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("with_bias", [False, True])
def test_every_output_and_layout_equals_the_reference(device, out_dtype, with_bias):
    if device.type == "cuda" and out_dtype == torch.float32:
        pytest.skip("no row writes fp32 with block scales")
    a, b, scale_a, scale_b = block_operands(19, 208, 400)
    bias = torch.randn(208).to(out_dtype) if with_bias else None
    expected = reference_block_mm(a, b.t(), scale_a, scale_b, bias, out_dtype)
    assert scale_a.stride() == (1, 19)
    wide = torch.full((2, 9), float("nan"))
    wide[:, ::2][:, :4] = scale_b
    for tokens, weights in ((scale_a, scale_b), (scale_a.contiguous(), scale_b), (scale_a, wide[:, ::2][:, :4])):
        moved = [None if t is None else t.to(device) for t in (a, b, tokens, weights, bias)]
        moved[2] = moved[2] if tokens.is_contiguous() else tokens.t().to(device).t()
        assert same_bits(samebits.block_scaled_mm(*moved, out_dtype), expected)


def test_controls_have_other_bits(device):
    a, b, scale_a, scale_b = block_operands(8, 128, 512, device)
    out = samebits.block_scaled_mm(a, b, scale_a, scale_b)
    halves = [
        samebits.block_scaled_mm(a[:, part], b[part], scale_a[:, blocks], scale_b[:, blocks], None, torch.bfloat16)
        for part, blocks in ((slice(0, 256), slice(0, 2)), (slice(256, 512), slice(2, 4)))
    ]
    assert not same_bits(halves[0] + halves[1], out)
    assert not same_bits(samebits.block_scaled_mm(a, b, scale_a.roll(1, 1), scale_b), out)


def test_a_row_has_its_bits_in_every_batch(device):
    a, b, scale_a, scale_b = block_operands(257, 256, 512, device)
    whole = samebits.block_scaled_mm(a, b, scale_a, scale_b)
    for m in (1, 2, 16, 17, 64, 65, 128, 257):
        for first in {0, 257 - m}:
            part = samebits.block_scaled_mm(a[first : first + m], b, scale_a[first : first + m], scale_b)
            assert same_bits(part, whole[first : first + m]), (m, first)


def test_refusals(device):
    a, b, scale_a, scale_b = block_operands(4, 144, 272, device)
    for args, message in [
        ((a, b, scale_a[:, :2], scale_b), r"scale_a: shape \[4,2\], hopper-block128 needs \[4,3\]"),
        ((a, b, scale_a, scale_b[:1]), r"scale_b: shape \[1,3\], hopper-block128 needs \[2,3\]"),
        ((a, b, scale_a.half(), scale_b), r"scale_a is Half"),
        ((a, b, scale_a, scale_b, None, torch.bfloat16, "hopper-fast"), r"hopper-fast has no block scales: scaled_mm"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            samebits.block_scaled_mm(*args)
    with pytest.raises(RuntimeError, match="hopper-block128 has block scales: block_scaled_mm"):
        samebits.scaled_mm(a, b, scale_a, scale_b, order="hopper-block128")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_groups_equal_the_formula_and_the_fused_forms_their_steps(device, dtype, power_of_two):
    x = (torch.randn(9, 656) * torch.logspace(-12, 3, 9)[:, None]).to(dtype)
    x[3] = 0
    q, scale = samebits.quantize_per_group(x.to(device), None, power_of_two)
    groups = torch.nn.functional.pad(x.float(), (0, 112)).view(9, 6, 128)
    wanted = groups.abs().amax(-1).clamp(min=1e-10) / torch.tensor(448.0)
    if power_of_two:
        wanted = torch.exp2(torch.ceil(torch.log2(wanted.clamp(min=1e-10).double()))).float()
    assert scale.shape == (9, 6) and scale.stride() == (1, 9) and same_bits(scale, wanted)
    codes = (groups / wanted[..., None]).view(9, 768)[:, :656].clamp(-448, 448).to(torch.float8_e4m3fn)
    assert same_bits(q, codes)

    weight = torch.randn(328).to(dtype).to(device)
    half = x[:, :328].to(device)
    for fused, step in [
        (samebits.rms_norm_quantize_per_group(half, weight, 1e-6, power_of_two), samebits.rms_norm(half, weight)),
        (samebits.silu_mul_quantize_per_group(x.to(device), power_of_two), samebits.silu_mul(x.to(device))),
    ]:
        for got, want in zip(fused, samebits.quantize_per_group(step, None, power_of_two), strict=True):
            assert same_bits(got, want)
    q, scale, h = samebits.add_rms_norm_quantize_per_group(half, half, weight, 1e-6, power_of_two)
    y, sum_ = samebits.add_rms_norm(half, half, weight)
    assert same_bits(h, sum_) and same_bits(q, samebits.quantize_per_group(y, None, power_of_two)[0])


def test_weights_in_blocks(device):
    w = torch.randn(200, 300).bfloat16()
    q, scale = samebits.quantize_weight_blocks(w.to(device))
    blocks = torch.nn.functional.pad(w.float(), (0, 84, 0, 56)).view(2, 128, 3, 128)
    wanted = (blocks.abs().amax((1, 3)) / torch.tensor(448.0)).clamp(min=1 / (448 * 512))
    full = wanted.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    assert same_bits(scale, wanted) and same_bits(q, (w.float() / full).to(torch.float8_e4m3fn))
    assert same_bits(samebits.dequantize(q, scale), (q.cpu().float() * full).bfloat16())


def test_compiled(device):
    a, b, scale_a, scale_b = block_operands(9, 160, 272, device)
    x = torch.randn(9, 272, device=device).bfloat16()

    def both(x):
        q, scale = samebits.quantize_per_group(x)
        return samebits.block_scaled_mm(q, b, scale, scale_b)

    assert same_bits(torch.compile(both, fullgraph=True)(x), both(x))
