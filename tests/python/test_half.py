"""invariant_linear, weight-only, the BF16 fallback and InvariantLinear: bits, refusals, gradients, graphs of torch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import samebits
from helpers import FP8, bits, check_invariant, half_rows, overlaps_in, random_fp8, reference_half, same_bits
from samebits import Fp8Linear, InvariantLinear, invariant_linear
from test_ops import check, upcasting_allclose, upcasting_assert_close

OPS = torch.ops.samebits
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def half_device(device):
    if not half_rows(device):
        pytest.skip("no 16-bit kernel for this GPU in this build")
    return device


@pytest.fixture
def mixed_device(device):
    if not half_rows(device, weight_only=True):
        pytest.skip("no kernel for an FP8 weight beside 16-bit activations for this GPU in this build")
    return device


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("out_dtype", [None, *HALVES])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_scale", [False, True])
def test_every_epilogue_equals_the_reference(half_device, dtype, out_dtype, with_bias, with_scale):
    x, weight = torch.randn(3, 7, 200).to(dtype), torch.randn(64, 200).to(dtype)
    out = out_dtype or dtype
    bias = torch.randn(64).to(out) if with_bias else None
    scale = torch.rand(64) + 0.1 if with_scale else None
    moved = [None if t is None else t.to(half_device) for t in (x, weight, bias, scale)]
    got = invariant_linear(*moved[:3], scale=moved[3], out_dtype=out_dtype)
    assert got.shape == (3, 7, 64)
    assert same_bits(got.reshape(21, 64), reference_half(x.reshape(21, 200), weight, scale, bias, out))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_order_is_its_definition(dtype):
    """On the CPU, which computes them all; data whose terms lie far apart, and a control: the Orders differ in bits."""
    x, weight = (torch.randn(*shape).mul(torch.randn(*shape).mul(3).exp2()).to(dtype) for shape in ((9, 300), (24, 300)))
    got = {order: invariant_linear(x, weight, out_dtype=torch.float32, order=order) for order in samebits.HALF_ORDERS}
    for order, out in got.items():
        assert same_bits(out, reference_half(x, weight, out_dtype=torch.float32, order=order)), order
    assert not same_bits(*got.values())


def test_on_the_meta_device():
    layer = InvariantLinear(64, 32, bias=False, device="meta", dtype=torch.bfloat16)
    assert layer(torch.empty(3, 64, device="meta", dtype=torch.bfloat16)).shape == (3, 32)
    assert layer.explain().endswith("order hopper-bf16: the weight is on the meta device")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_an_fp8_weight_is_the_widened_one(mixed_device, dtype, per_channel):
    x, weight = torch.randn(19, 144).to(dtype), random_fp8(48, 144, spread=30.0)
    scale = torch.rand(48 if per_channel else 1) * 0.1
    got = invariant_linear(x.to(mixed_device), weight.to(mixed_device), scale=scale.to(mixed_device))
    assert same_bits(got, reference_half(x, weight, scale, None, dtype))
    assert same_bits(got, invariant_linear(x, weight.to(dtype), scale=scale))


def test_control_a_scaled_and_rounded_weight_has_other_bits():
    """What vLLM's fallback computes: the scale rounded to BF16, multiplied into the weight, rounded again."""
    x, weight, scale = torch.randn(19, 144).bfloat16(), random_fp8(48, 144), torch.rand(1) * 0.1
    rounded = weight.bfloat16() * scale.bfloat16()
    assert not same_bits(invariant_linear(x, weight, scale=scale), invariant_linear(x, rounded))


def test_a_row_has_its_bits_in_every_batch(half_device):
    weight, bias = torch.randn(96, 320).bfloat16().to(half_device), torch.randn(96).bfloat16().to(half_device)
    x = torch.randn(129, 320).bfloat16().to(half_device)
    check_invariant(lambda rows: invariant_linear(rows, weight, bias), x, [2, 17, 64, 129])


def test_control_two_halves_of_k_have_other_bits():
    x, weight = torch.randn(9, 512).bfloat16(), torch.randn(32, 512).bfloat16()
    whole = invariant_linear(x, weight, out_dtype=torch.float32)
    parts = [invariant_linear(x[:, p], weight[:, p], out_dtype=torch.float32) for p in (slice(256), slice(256, 512))]
    assert not same_bits(whole, parts[0] + parts[1])


def test_strides(half_device):
    big, wide = torch.randn(40, 320).bfloat16().to(half_device), torch.randn(80, 320).bfloat16().to(half_device)
    x, weight = big[3:23, 16:160], wide[8:56, 32:176]
    expected = invariant_linear(x.contiguous(), weight.contiguous())
    assert same_bits(invariant_linear(x, weight), expected)
    assert same_bits(invariant_linear(x.reshape(4, 5, 144), weight).reshape(20, 48), expected)
    for call, message in [
        (lambda: invariant_linear(x.t().contiguous().t(), weight), "x: column stride 20|a: column stride 20"),
        (lambda: invariant_linear(x, weight.t().contiguous().t()), "b: column stride 48"),
    ]:
        if half_device.type == "cpu":
            assert same_bits(call(), expected)
        else:
            with pytest.raises(RuntimeError, match=message):
                call()


@pytest.mark.parametrize(("m", "n"), [(0, 32), (5, 0), (0, 0)])
def test_empty(half_device, m, n):
    x, weight = torch.empty(m, 64).bfloat16().to(half_device), torch.empty(n, 64).bfloat16().to(half_device)
    assert invariant_linear(x, weight).shape == (m, n)
    assert invariant_linear(x.reshape(m, 1, 64), weight).shape == (m, 1, n)


REFUSALS = [
    (lambda x, w: invariant_linear(x[:, :48], w), r"\[17,48\].*\[32,64\].*K differs"),
    (lambda x, w: invariant_linear(x, w.half()), r"b is fp16 and a is bf16; for hopper-bf16 b has the dtype of a"),
    (lambda x, w: invariant_linear(x.float(), w.float()), r"a is fp32; hopper-bf16 takes bf16 or fp16"),
    (lambda x, w: invariant_linear(x.to(FP8), w.to(FP8)), r"a is e4m3; hopper-bf16 takes bf16 or fp16"),
    (lambda x, w: invariant_linear(x, w, order="hopper-fast"), r"a is bf16; it must be e4m3 or e5m2"),
    (lambda x, w: invariant_linear(x, w, order="fast"), r"unknown order 'fast'.*hopper-bf16"),
    (lambda x, w: invariant_linear(x, w, scale=x[0, :5].float()), r"scale has shape \[5\] \(5 values\).*1 value or 32"),
    (lambda x, w: invariant_linear(x, w, scale=x[0, :32]), r"scale is BFloat16; it must be float32"),
    (lambda x, w: invariant_linear(x, w, x[0, :5]), r"bias has shape \[5\]; it must be \[32\]"),
    (lambda x, w: invariant_linear(x, w, out_dtype=FP8), r"out is e4m3; it must be bf16"),
    (lambda x, w: OPS.linear(x[0], w), r"x has shape \[64\]; it must have two dimensions"),
    (lambda x, w: samebits.scaled_mm(x, w.t(), x[0, :1].float(), x[0, :1].float()), r"a is bf16; it must be e4m3"),
]


@pytest.mark.parametrize("index", range(len(REFUSALS)))
def test_refusals_give_the_numbers(half_device, index):
    call, message = REFUSALS[index]
    x, weight = (torch.randn(rows, 64).bfloat16().to(half_device) for rows in (17, 32))
    with pytest.raises(RuntimeError, match=message):
        call(x, weight)


def test_opcheck(half_device, monkeypatch):
    monkeypatch.setattr(torch.testing, "assert_close", upcasting_assert_close)
    monkeypatch.setattr(torch, "allclose", upcasting_allclose)
    x, weight = (torch.randn(rows, 48, device=half_device).bfloat16() for rows in (17, 24))
    bias, scale = torch.randn(24, device=half_device).half(), torch.rand(24, device=half_device)
    check(OPS.linear.default, x, weight)
    if half_rows(half_device, weight_only=True):
        check(OPS.linear.default, x, weight.to(FP8), None, scale)
    learns = [t.detach().requires_grad_() for t in (x, weight, bias)]
    check(OPS.linear.default, *learns, scale, torch.float16, "hopper-bf16", "weight")


@pytest.mark.parametrize("with_scale", [False, True])
def test_gradients_against_a_float_linear(half_device, with_scale):
    x, weight, bias = torch.randn(20, 96), torch.randn(64, 96), torch.randn(64)
    scale = torch.rand(64) + 0.5 if with_scale else None
    leaves = [t.bfloat16().to(half_device).requires_grad_() for t in (x, weight, bias)]
    out = invariant_linear(*leaves, scale=None if scale is None else scale.to(half_device))
    grad = torch.randn(20, 64).bfloat16()
    out.backward(grad.to(half_device))
    plain = [t.detach().float().cpu().requires_grad_() for t in leaves]
    full = plain[1] if scale is None else plain[1] * scale[:, None]
    functional.linear(plain[0], full, plain[2]).backward(grad.float())
    for got, want in zip(leaves, plain, strict=True):
        assert torch.allclose(got.grad.float().cpu(), want.grad, rtol=2e-2, atol=5e-2)


def test_compiled_without_a_break_and_with_any_batch(half_device):
    weight, bias = (torch.randn(*s, device=half_device).bfloat16() for s in ((64, 96), (64,)))

    def forward(x):
        return functional.relu(invariant_linear(x, weight, bias)) * 2

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True, dynamic=True)
    for m in (1, 5, 33):
        x = torch.randn(m, 3, 96, device=half_device).bfloat16()
        assert same_bits(compiled(x), forward(x))


@pytest.mark.parametrize("scales", ["tensor", "channel", "blocks"])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_weight_only_with_and_without_a_cache_is_one_definition(scales, dtype):
    n, k = 200, 300
    scale = {"tensor": torch.rand(1), "channel": torch.rand(n), "blocks": torch.rand(2, 3)}[scales] + 0.01
    weight, bias, x = random_fp8(n, k), torch.randn(n).to(dtype), torch.randn(5, k).to(dtype)
    loop, cached = (
        Fp8Linear.from_fp8(weight, scale, bias=bias, out_dtype=dtype, weight_only=True, cache=cache)
        for cache in (False, True)
    )
    assert "widened in the main loop" in loop.explain() and "hopper-bf16" in loop.explain()
    assert "kept in" in cached.explain() and cached._first.element_size() == 2
    assert same_bits(loop(x), cached(x))
    rows = x.to(torch.float16 if dtype == torch.float16 else torch.bfloat16)
    if scales != "blocks":
        assert same_bits(loop(x), reference_half(rows, weight, scale, bias, dtype))
        return
    total = None
    for j in range(3):
        p = slice(128 * j, min(128 * j + 128, k))
        per_row = scale[:, j].repeat_interleave(128)[:n]
        part = reference_half(rows[:, p], weight[:, p], per_row, None, torch.float32)
        total = part if total is None else total + part
    assert same_bits(loop(x), (total + bias.float()).to(dtype))


def test_fused_scales_of_weight_only_are_those_of_the_parts():
    widths, scales = [64, 32, 32], torch.tensor([0.5, 0.011, 0.3])
    weight, x = random_fp8(128, 96), torch.randn(5, 96).bfloat16()
    fused = Fp8Linear.from_fp8(weight, scales, widths=widths, weight_only=True)
    parts = [Fp8Linear.from_fp8(w, s, weight_only=True)(x) for w, s in zip(weight.split(widths), scales, strict=True)]
    assert same_bits(fused(x), torch.cat(parts, 1))


def test_no_weight_is_called_ready():
    """No quantizer runs before these products, so what wrote the weight may be the kernel right before."""
    x, source = torch.randn(6, 64).bfloat16(), nn.Linear(64, 32).bfloat16()
    frozen = Fp8Linear.from_linear(source, weight_only=True)
    trainable = Fp8Linear.from_linear(source, weight_only=True, trainable=True)
    invariant = InvariantLinear.from_linear(source)
    with torch.no_grad():
        for layer in (frozen, trainable, invariant, invariant.eval().requires_grad_(False)):
            assert overlaps_in(lambda layer=layer: layer(x)) == ["launch"]


@pytest.mark.parametrize(("n", "k"), [(64, 96), (3, 50)])
def test_invariant_linear_module(half_device, n, k):
    source = nn.Linear(k, n).bfloat16().to(half_device)
    layer = InvariantLinear.from_linear(source)
    x = torch.randn(9, k).bfloat16()
    got = layer(x.to(half_device))
    assert layer.weight is source.weight and layer.state_dict().keys() == source.state_dict().keys()
    assert same_bits(got, reference_half(x, source.weight, None, source.bias))
    check_invariant(lambda rows: layer(rows.to(half_device)), x, [2, 9])
    got.float().square().sum().backward()
    assert source.weight.grad.shape == (n, k) and bool(source.bias.grad.any())
    assert same_bits(copy.deepcopy(layer)(x.to(half_device)), got)
    with pytest.raises(RuntimeError, match=rf"input is \[9, {k - 1}\]; the layer takes \[..., {k}\]"):
        layer(x[:, 1:].to(half_device))
    with pytest.raises(ValueError, match="float32; it must be bfloat16 or float16"):
        InvariantLinear.from_linear(nn.Linear(4, 4))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.proj, self.gate = nn.Linear(64, 64), nn.Linear(64, 8)
        self.lm_head = nn.Linear(64, 40, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        x = self.proj(self.embed(ids))
        return self.lm_head(x) + self.gate(x).sum(-1, keepdim=True)


def test_convert_makes_the_rest_invariant(half_device):
    model = Model().bfloat16().to(half_device)
    left = samebits.convert(copy.deepcopy(model))
    assert type(left.lm_head) is nn.Linear and "lm_head: not FP8" in samebits.explain(left)
    whole = samebits.convert(copy.deepcopy(model), invariant_rest=True)
    assert type(whole.proj) is Fp8Linear
    assert type(whole.lm_head) is InvariantLinear and type(whole.gate) is InvariantLinear
    assert whole.lm_head.weight is whole.embed.weight
    assert "lm_head: invariant torch.bfloat16 [40, 64], order hopper-bf16, by kernel" in samebits.explain(whole)
    ids = torch.arange(20, device=half_device)
    alone = [bits(whole(ids[i : i + 1])) for i in range(20)]
    assert torch.equal(bits(whole(ids)), torch.cat(alone))
    everything = samebits.convert(copy.deepcopy(model), ignore=["*"], invariant_rest=True)
    assert type(everything.proj) is InvariantLinear


def test_a_gpu_without_a_kernel_says_so(monkeypatch):
    def none(*_, **__):
        raise RuntimeError("no kernel on sm_70")

    source = nn.Linear(100, 200).bfloat16()
    monkeypatch.setattr(samebits.ops, "kernel", none)
    layer = Fp8Linear.from_linear(source)
    with pytest.raises(RuntimeError, match=r"Fp8Linear \[200, 100\] cannot run: no kernel on sm_70"):
        layer(torch.randn(1, 100).bfloat16())
    assert "cannot run: no kernel on sm_70" in InvariantLinear.from_linear(source).explain()
