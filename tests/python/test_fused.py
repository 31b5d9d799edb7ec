"""RMSNorm, SiLU * mul and their quantizers: schemas, formulas in torch's words, one graph for every M."""

import pytest
import torch
from torch.nn import functional

import samebits
from helpers import same_bits
from test_compile import CountingBackend
from test_ops import HALVES, OPS, check, upcasting_allclose, upcasting_assert_close

DTYPES = [*HALVES, torch.float32]


def test_opcheck(device, monkeypatch):
    monkeypatch.setattr(torch.testing, "assert_close", upcasting_assert_close)
    monkeypatch.setattr(torch, "allclose", upcasting_allclose)
    x, residual = torch.randn(2, 17, 48, device=device).bfloat16()
    weight, bound = torch.rand(48, device=device).bfloat16(), torch.tensor([1.5], device=device)
    check(OPS.rms_norm.default, x, weight, 1e-6)
    check(OPS.add_rms_norm.default, x, residual, weight, 1e-6)
    check(OPS.rms_norm_quantize.default, x, weight, 1e-6, bound)
    check(OPS.add_rms_norm_quantize.default, x, residual, weight, 1e-6)
    check(OPS.silu_mul.default, x)
    check(OPS.silu_mul_quantize.default, x, bound)


def modules_rms_norm(x, weight, eps):
    """What transformers' LlamaRMSNorm computes, in double where it is FP32."""
    normalized = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps)
    return weight * normalized.to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formulas(device, dtype):
    x, residual = torch.randn(2, 33, 1040).to(dtype) * 2
    weight = torch.rand(1040).to(dtype)
    y, h = (t.cpu() for t in samebits.add_rms_norm(x.to(device), residual.to(device), weight.to(device), 1e-5))
    assert same_bits(h, x + residual)
    assert same_bits(y, samebits.rms_norm(h.to(device), weight.to(device), 1e-5).cpu())
    gated = samebits.silu_mul(x.to(device)).cpu()
    want = functional.silu(x[:, :520].double()).to(dtype) * x[:, 520:]
    for got, exact in ((y, modules_rms_norm(h, weight, 1e-5)), (gated, want)):
        # FP32 shows the roundings of the sum and the exponential; 16 bits one last place, now and then.
        wide = dtype == torch.float32
        assert torch.allclose(got.double(), exact.double(), rtol=(8 if wide else 2) * torch.finfo(dtype).eps, atol=0)
        assert wide or (got != exact).double().mean() < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounded", [False, True])
def test_fused_is_unfused_then_quantized(device, dtype, bounded):
    x, residual = (torch.randn(2, 19, 272, device=device) * 2).to(dtype)
    weight, bound = torch.rand(272, device=device).to(dtype), torch.tensor([0.8], device=device) if bounded else None
    sums = samebits.add_rms_norm(x, residual, weight)
    for fused, unfused in [
        (samebits.rms_norm_quantize(x, weight, scale_ub=bound), samebits.rms_norm(x, weight)),
        (samebits.add_rms_norm_quantize(x, residual, weight, scale_ub=bound), sums[0]),
        (samebits.silu_mul_quantize(x, bound), samebits.silu_mul(x)),
    ]:
        for got, want in zip(fused[:2], samebits.quantize_per_token(unfused, bound), strict=True):
            assert same_bits(got, want)
    assert same_bits(samebits.add_rms_norm_quantize(x, residual, weight)[2], sums[1])


def test_strided_and_empty(device):
    big = torch.randn(20, 600, device=device).bfloat16()
    view, weight = big[2:18, 8:264], torch.rand(512, device=device).bfloat16()
    assert same_bits(samebits.silu_mul(view), samebits.silu_mul(view.contiguous()))
    assert same_bits(samebits.rms_norm(view, weight[:256]), samebits.rms_norm(view.contiguous(), weight[:256]))
    for part in (*samebits.rms_norm_quantize(view[:0], weight[:256]), samebits.silu_mul(view[:0])):
        assert part.shape[0] == 0


def test_compile_once_for_every_m(device):
    def f(x, residual, weight):
        q, scale, h = samebits.add_rms_norm_quantize(x, residual, weight)
        return q, scale, *samebits.silu_mul_quantize(h), samebits.rms_norm(samebits.silu_mul(x), weight[:48])

    weight = torch.rand(96, device=device).bfloat16()
    backend = CountingBackend()
    compiled = torch.compile(f, backend=backend, fullgraph=True, dynamic=True)
    for m in (5, 17, 64):
        x, residual = torch.randn(2, m, 96, device=device).bfloat16()
        for got, want in zip(compiled(x, residual, weight), f(x, residual, weight), strict=True):
            assert same_bits(got, want)
    assert backend.graphs == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: samebits.rms_norm(x, w[:5]), r"weight is \[1,5\] bf16; it must be \[1,64\] bf16"),
        (lambda x, w: samebits.rms_norm(x, w[None]), r"weight has shape \[1,64\]; it must be \[64\]"),
        (lambda x, w: samebits.rms_norm(x[0], w), r"x has shape \[64\]; it must have two dimensions"),
        (lambda x, w: samebits.rms_norm(x, w.float()), r"weight is \[1,64\] fp32; it must be \[1,64\] bf16"),
        (lambda x, w: samebits.add_rms_norm(x, x[:3], w), r"residual is \[3,64\] bf16; it must be \[9,64\] bf16"),
        (lambda x, w: samebits.silu_mul(x[:, :7]), r"x is \[9,7\]; it must have an even number of columns"),
        (lambda x, w: samebits.silu_mul_quantize(x, w), r"scale_ub has shape \[64\]; it must be one float32 value"),
    ],
)
def test_refusals_give_the_numbers(device, call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.randn(9, 64, device=device).bfloat16(), torch.rand(64, device=device).bfloat16())
