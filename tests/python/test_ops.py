"""torch.ops.samebits: schemas, fakes, the bits of the contract, strides, empty shapes and refusals."""

import itertools
import json
import os
import subprocess

import pytest
import torch

import samebits
from helpers import C3, C3_UNALIGNED, FP8, UNUSABLE_GPU, operands, random_fp8, reference_mm, same_bits

OPS = torch.ops.samebits
HALVES = [torch.bfloat16, torch.float16]


def test_a_gpu_that_torch_sees_has_kernels():
    assert UNUSABLE_GPU is None, "all tests ran on the CPU only"


def upcasting_assert_close(actual, expected, **_):
    """opcheck compares with tolerances, which float8 on the CPU cannot: widen it, and ask for equality."""
    for a, e in zip(torch.utils._pytree.tree_leaves(actual), torch.utils._pytree.tree_leaves(expected), strict=True):
        same = a is e is None or (a.dtype == e.dtype and torch.equal(a.float(), e.float()))
        assert same, f"{a} is not {e}"


def upcasting_allclose(a, b, **_):
    """The same for its check that inputs are not written. Sees views as well, hence float and not bits."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())


def check(op, *args, **kwargs):
    torch.library.opcheck(op, args, kwargs, rtol=0, atol=0)


def test_opcheck(device, monkeypatch):
    monkeypatch.setattr(torch.testing, "assert_close", upcasting_assert_close)
    monkeypatch.setattr(torch, "allclose", upcasting_allclose)
    a, b, scale_a, scale_b = operands(17, 32, 64, device)
    bias = torch.randn(32, device=device).bfloat16()
    check(OPS.scaled_mm.default, a, b, scale_a, scale_b)
    check(OPS.scaled_mm.default, a, b, scale_a, scale_b, bias, torch.bfloat16, "hopper-fast", "weight")
    out = torch.zeros(17, 32, dtype=torch.bfloat16, device=device)
    check(OPS.cutlass_scaled_mm.default, out, a, b, scale_a, scale_b, bias)
    x = torch.randn(17, 48, device=device).bfloat16()
    check(OPS.quantize_per_token.default, x)
    check(OPS.quantize_per_token.default, x, torch.tensor([1.5], device=device))
    check(OPS.quantize_per_token_padded.default, x, 64)
    check(OPS.quantize_static.default, x, torch.tensor([0.02], device=device))
    check(OPS.quantize_static_padded.default, x, torch.tensor([0.02], device=device), 64)
    check(OPS.quantize_weight.default, x)
    check(OPS.quantize_weight.default, x, False)
    check(OPS.dequantize.default, a, scale_a, torch.bfloat16)


def test_upcasting_comparison_can_fail():
    x = torch.ones(3).to(FP8)
    with pytest.raises(AssertionError):
        upcasting_assert_close([x], [torch.zeros(3).to(FP8)])


def test_schemas_are_the_published_ones():
    assert str(OPS.cutlass_scaled_mm.default._schema) == (
        "samebits::cutlass_scaled_mm(Tensor($0! -> ) out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, "
        "Tensor? bias) -> ()"
    )
    assert str(OPS.scaled_mm.default._schema) == (
        "samebits::scaled_mm(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, Tensor? bias=None, "
        'ScalarType out_dtype=15, str order="hopper-fast", str overlap=\"launch\") -> Tensor'
    )


@pytest.mark.parametrize(("m", "n", "k"), C3 + C3_UNALIGNED)
def test_shapes_of_vllm_equal_the_reference(device, m, n, k):
    """Sampled rows and channels against the definition; on CUDA all of the output against the CPU as well."""
    if device.type == "cuda" and (n % 16 or k % 16):
        a, b, scale_a, scale_b = operands(m, n, k, device)
        with pytest.raises(RuntimeError, match="must be multiples of 16"):
            samebits.scaled_mm(a, b, scale_a, scale_b)
        return
    a, b, scale_a, scale_b = operands(m, n, k)
    bias = torch.randn(n).bfloat16()
    out = samebits.scaled_mm(*(t.to(device) for t in (a, b, scale_a, scale_b, bias)))
    if device.type == "cuda":
        assert same_bits(out, samebits.scaled_mm(a, b, scale_a, scale_b, bias))
    rows, channels = torch.randperm(m)[:6], torch.randperm(n)[:24]
    expected = reference_mm(
        a[rows], b.t()[channels], scale_a[rows], scale_b[0, channels], bias[channels], torch.bfloat16
    )
    assert same_bits(out.cpu()[rows][:, channels], expected)


@pytest.mark.parametrize("out_dtype", HALVES + [torch.float32])
@pytest.mark.parametrize("order", samebits.ORDERS[:2])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_epilogue_equals_the_reference(device, out_dtype, order, with_bias, per_channel):
    a, b, scale_a, scale_b = operands(19, 64, 320, "cpu", per_channel)
    bias = torch.randn(64).to(out_dtype) if with_bias else None
    moved = [None if t is None else t.to(device) for t in (a, b, scale_a, scale_b, bias)]
    out = samebits.scaled_mm(*moved, out_dtype, order)
    expected = reference_mm(a, b.t(), scale_a, scale_b, bias, out_dtype, promoted=order == "hopper-promoted")
    assert same_bits(out, expected)


def test_control_flipped_scales_are_other_bits():
    a, b, scale_a, scale_b = operands(19, 64, 320)
    out = samebits.scaled_mm(a, b, scale_a, scale_b, None, torch.float32)
    assert not same_bits(out, reference_mm(b.t(), a, scale_b, scale_a, None, torch.float32).t())


def test_orders_differ():
    """All but those of the two Blackwells, whose published constants are the same."""
    a, b, scale_a, scale_b = operands(32, 64, 1024)
    orders = [order for order in samebits.ORDERS if order not in samebits.BLOCK_ORDERS]
    outs = {order: samebits.scaled_mm(a, b, scale_a, scale_b, None, torch.float32, order) for order in orders}
    assert same_bits(outs["sm120-fast"], outs.pop("blackwell-fast"))
    assert not any(same_bits(outs[one], outs[other]) for one, other in itertools.combinations(outs, 2))


@pytest.mark.parametrize("m", [1, 33, 200])
def test_overlap_never_changes_a_bit(device, m):
    a, b, scale_a, scale_b = operands(m, 256, 512, device)
    late = samebits.scaled_mm(a, b, scale_a, scale_b)
    assert same_bits(samebits.scaled_mm(a, b, scale_a, scale_b, overlap="weight"), late)
    assert same_bits(samebits.scaled_mm(a, b, scale_a, scale_b, overlap="chain"), late)
    assert same_bits(samebits.scaled_mm(a, b, scale_a, scale_b, overlap="none"), late)
    with pytest.raises(RuntimeError, match="unknown overlap 'early'; there are: none, launch, weight, chain"):
        samebits.scaled_mm(a, b, scale_a, scale_b, overlap="early")


def test_a_weight_just_written_is_seen(device):
    """Right before the call with overlap "launch", before the quantizer with "weight": no old weight is ever multiplied."""
    x = torch.randn(9, 1024, device=device).bfloat16()
    q, scale_x = samebits.quantize_per_token(x)
    new = [random_fp8(1024, 1024, device) for _ in range(2)]
    scale = torch.tensor([0.037], device=device)
    expected = [samebits.scaled_mm(q, w.t(), scale_x, scale) for w in new]
    assert not same_bits(*expected)
    weight = torch.zeros_like(new[0])
    outs = []
    for i in range(40):
        weight.copy_(new[i % 2])
        if i % 4 < 2:
            q, scale_x = samebits.quantize_per_token(x)
        outs.append(samebits.scaled_mm(q, weight.t(), scale_x, scale, overlap="weight" if i % 4 < 2 else "launch"))
    assert [i for i, out in enumerate(outs) if not same_bits(out, expected[i % 2])] == []


def test_no_bias_is_not_a_zero_bias(device):
    a, b = torch.zeros(1, 16).to(FP8).to(device), torch.zeros(16, 16).to(FP8).to(device).t()
    one, minus = torch.ones(1, device=device), -torch.ones(1, device=device)
    assert bits_of_first(samebits.scaled_mm(a, b, one, minus)) == 0x8000 - 0x10000
    assert bits_of_first(samebits.scaled_mm(a, b, one, minus, torch.zeros(16, device=device).bfloat16())) == 0


def bits_of_first(t):
    return t.cpu().view(torch.int16).flatten()[0].item()


def test_padded_rows_and_sub_views_are_read_where_they_are(device):
    big_a, big_b = random_fp8(40, 160, device), random_fp8(80, 160, device)
    scale_a, scale_b = torch.rand(20, 1, device=device), torch.rand(1, 48, device=device)
    a, b = big_a[3:23, 16:112], big_b[5:53, 32:128].t()
    expected = samebits.scaled_mm(a.contiguous(), b.t().contiguous().t(), scale_a, scale_b)
    assert same_bits(samebits.scaled_mm(a, b, scale_a, scale_b), expected)
    big_out = torch.full((30, 96), 7.0, dtype=torch.bfloat16, device=device)
    samebits.cutlass_scaled_mm(big_out[2:22, 16:64], a, b, scale_a, scale_b)
    assert same_bits(big_out[2:22, 16:64], expected)
    rest = big_out.clone()
    rest[2:22, 16:64] = 7.0
    assert bool((rest == 7.0).all()), "written outside of the slice"


def test_cpu_takes_every_stride():
    a, b, scale_a, scale_b = operands(9, 33, 70)
    expected = samebits.scaled_mm(a, b, scale_a, scale_b)
    assert same_bits(samebits.scaled_mm(a.t().contiguous().t(), b.contiguous(), scale_a, scale_b), expected)
    every_other = torch.zeros(9, 140, dtype=torch.uint8).view(FP8)
    every_other[:, ::2] = a
    assert same_bits(samebits.scaled_mm(every_other[:, ::2], b, scale_a, scale_b), expected)
    one_row = a[:1].expand(9, 70)
    assert same_bits(samebits.scaled_mm(one_row, b, scale_a[:1].expand(9, 1), scale_b), expected[:1].expand(9, 33))


def test_e5m2_on_the_cpu():
    a, b, scale_a, scale_b = operands(5, 16, 32)
    out = samebits.scaled_mm(a.float().to(torch.float8_e5m2), b, scale_a, scale_b, None, torch.float32)
    expected = (a.float().to(torch.float8_e5m2).float() @ b.float()) * scale_a * scale_b
    assert torch.allclose(out, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("m", "n"), [(0, 32), (5, 0), (0, 0)])
def test_empty(device, m, n):
    a, b, scale_a, scale_b = operands(m, n, 64, device)
    assert samebits.scaled_mm(a, b, scale_a, scale_b).shape == (m, n)
    out = torch.empty(m, n, dtype=torch.bfloat16, device=device)
    samebits.cutlass_scaled_mm(out, a, b, scale_a, scale_b)
    q, scale = samebits.quantize_per_token(torch.empty(m, 48, device=device))
    assert q.shape == (m, 48) and scale.shape == (m, 1)


REFUSALS = [
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b[:48], sa, sb), r"\[17,64\].*\[48,32\].*K differs"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a[0], b, sa, sb), r"a has shape \[64\]; it must have two dimensions"),
    (
        lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa[:5], sb),
        r"scale_a has shape \[5,1\] \(5 values\).*1 value or 17",
    ),
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa, sb.double()), r"scale_b is Double; it must be float32"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa, sb, order="fast"), r"unknown order 'fast'.*hopper-fast"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a.float(), b, sa, sb), r"a is fp32; it must be e4m3 or e5m2"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa, sb, out_dtype=FP8), r"out is e4m3; it must be bf16"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa, sb, out_dtype=torch.int8), r"out is Char"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a, b, sa, sb, sa[:, 0].bfloat16()), r"bias has shape \[17\].*\[32\]"),
    (lambda a, b, sa, sb: samebits.scaled_mm(a[:, :0], b[:0], sa, sb), r"K is 0"),
    (lambda a, b, sa, sb: samebits.quantize_per_token(a), r"x is e4m3; it must be bf16, fp16 or fp32"),
    (lambda a, b, sa, sb: samebits.quantize_per_token(sa, columns=0), r"q is \[17,0\] for an input of \[17,1\]"),
    (lambda a, b, sa, sb: samebits.quantize_static(sa, sa), r"scale has shape \[17,1\]; a static scale is one"),
    (lambda a, b, sa, sb: samebits.dequantize(a, sb), r"scale has shape \[1,32\] \(32 values\).*17"),
    (
        lambda a, b, sa, sb: samebits.kernel("cuda:77", "hopper-fast", 1, 16, 16),
        r"cuda:77: samebits sees \d+ CUDA devices",
    ),
]


@pytest.mark.parametrize("index", range(len(REFUSALS)))
def test_refusals_give_the_numbers(device, index):
    call, message = REFUSALS[index]
    with pytest.raises(RuntimeError, match=message):
        call(*operands(17, 32, 64, device))


@pytest.mark.skipif("SAMEBITS_CLI" not in os.environ, reason="SAMEBITS_CLI is not set")
def test_a_build_without_kernels_says_how_to_get_them():
    info = subprocess.run([os.environ["SAMEBITS_CLI"], "info", "--json"], capture_output=True, check=True)
    with pytest.raises(RuntimeError) as refusal:
        samebits.kernel("cuda:77", "hopper-fast", 1, 16, 16)
    _, _, advice = str(refusal.value).partition("\n")[0].partition(" CUDA devices")
    if json.loads(info.stdout)["kernels"]:
        assert advice == ""
    else:
        assert "this build has no CUDA kernels" in advice and "SAMEBITS_ARCHS=all" in advice


def test_cutlass_refusals(device):
    a, b, sa, sb = operands(17, 32, 64, device)
    out = torch.empty(17, 32, dtype=torch.bfloat16, device=device)
    bias = torch.zeros(32, device=device)
    for args, message in [
        ((out[:5], a, b, sa, sb), r"out is \[5,32\], it must be \[17,32\]"),
        ((out.float(), a, b, sa, sb), r"out is Float; it must be bfloat16 or float16"),
        ((out, a.float().to(torch.float8_e5m2), b, sa, sb), r"a is Float8_e5m2; cutlass_scaled_mm takes float8_e4m3fn"),
        ((out, a, b, torch.ones(17, 2, device=device), sb), r"a_scales is \[17,2\].*block scales"),
        ((out, a, b, torch.ones(34, 1, device=device)[::2], sb), r"must be contiguous"),
        ((out, a, b, sa, sb, bias), r"bias is Float; it must have the dtype of out, BFloat16"),
        ((out, a, b, sa, sb, bias[:5].bfloat16()), r"bias has shape \[5\]; it must be \[32\]"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            samebits.cutlass_scaled_mm(*args)


def test_layouts_and_devices_that_cuda_cannot_address(device):
    """Honoured on the CPU, refused with the numbers on CUDA; never read in another way."""
    a, b, sa, sb = operands(17, 32, 64, device)
    wide = random_fp8(17, 72, device)
    wide[:, :64] = a
    calls = [
        (lambda: samebits.scaled_mm(wide[:, :64], b, sa, sb), "row stride 72"),
        (lambda: samebits.scaled_mm(a, b.contiguous(), sa, sb), "column stride 32"),
    ]
    expected = samebits.scaled_mm(a, b, sa, sb)
    for call, message in calls:
        if device.type == "cpu":
            assert same_bits(call(), expected)
        else:
            with pytest.raises(RuntimeError, match=message):
                call()
    if device.type == "cuda":
        odd = torch.zeros(17 * 64 + 16, dtype=torch.uint8, device=device)[1 : 1 + 17 * 64].view(FP8).view(17, 64)
        for args, message in [
            ((a, b.cpu(), sa, sb), "b is not on the device of the first operand: cpu and cuda:0"),
            ((a.float().to(torch.float8_e5m2), b, sa, sb), "a is e5m2 and b is e4m3: the GPU kernels take e4m3"),
            ((odd, b, sa, sb), "a: address 0x[0-9a-f]+1 is not a multiple of 16 bytes"),
            ((a, b, sa, torch.ones(1, 64, device=device)[:, ::2]), "scale_b: stride 2 on a GPU"),
            ((a, b, sa, sb, torch.zeros(32, device=device)), "it must have the output's dtype bf16 and stride 1"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                samebits.scaled_mm(*args)


def test_quantize_per_token_formula(device):
    x = (torch.randn(33, 1026) * torch.logspace(-6, 3, 33)[:, None]).bfloat16()
    x[4] = 0
    bound = torch.tensor([0.5])
    for ub in (None, bound):
        q, scale = samebits.quantize_per_token(x.to(device), None if ub is None else ub.to(device))
        absmax = x.float().abs().amax(1, keepdim=True)
        absmax = absmax if ub is None else torch.minimum(absmax, ub)
        expected = torch.maximum(absmax / torch.tensor(448.0), torch.tensor(1.0) / torch.tensor(448.0 * 512.0))
        assert same_bits(scale, expected)
        assert same_bits(q, (x.float() / expected).clamp(-448, 448).to(FP8))


@pytest.mark.parametrize("dtype", HALVES + [torch.float32])
def test_quantize_static_and_dequantize_formula(device, dtype):
    x, scale = torch.randn(9, 100).to(dtype) * 3, torch.tensor([0.013])
    q = samebits.quantize_static(x.to(device), scale.to(device), columns=112)
    expected = (x.float() * (torch.ones(1) / scale)).clamp(-448, 448).to(FP8)
    assert same_bits(q[:, :100], expected) and not q[:, 100:].float().any()
    channel = torch.rand(9)
    back = samebits.dequantize(q, channel.to(device), dtype)
    assert same_bits(back[:, :100], (expected.float() * channel[:, None]).to(dtype))


def test_quantizers_read_strided_rows(device):
    big = torch.randn(20, 300, device=device).bfloat16()
    view = big[2:18, 8:264]
    for got, want in zip(
        samebits.quantize_per_token(view), samebits.quantize_per_token(view.contiguous()), strict=True
    ):
        assert same_bits(got, want)


def test_quantize_weight(device):
    w = torch.randn(40, 96)
    q, scale = samebits.quantize_weight(w.to(device))
    expected, token_scale = samebits.quantize_per_token(w)
    assert same_bits(q, expected) and same_bits(scale, token_scale[:, 0])
    q, scale = samebits.quantize_weight(w.to(device), False)
    whole = (w.abs().max() / torch.tensor(448.0)).reshape(1)
    assert same_bits(scale, whole) and same_bits(q, (w / whole).clamp(-448, 448).to(FP8))


def test_quantize_weight_names_a_nan():
    w = torch.randn(4, 8)
    w[2, 5] = float("nan")
    with pytest.raises(RuntimeError, match=r"w\[2,5\] is nan"):
        samebits.quantize_weight(w)
