"""Fp8Linear: bits, routes, formats, padding, gradients, and everything nn.Module promises."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import samebits
from helpers import (
    C3_UNALIGNED,
    FP8,
    check_invariant,
    overlaps_in,
    random_fp8,
    reference_block_mm,
    reference_half,
    reference_mm,
    same_bits,
)
from samebits import Fp8Linear
from samebits.ops import rows_of

HALVES = [torch.bfloat16, torch.float16]


def linear(k=100, n=200, dtype=torch.bfloat16, device="cpu", bias=True):
    return nn.Linear(k, n, bias=bias).to(dtype).to(device)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scales", ["tensor", "channel"])
@pytest.mark.parametrize("bias", [False, True])
def test_online_equals_quantizers_and_reference(device, dtype, scales, bias):
    source = linear(dtype=dtype, bias=bias)
    layer = Fp8Linear.from_linear(source, scales=scales).to(device)
    x = torch.randn(3, 7, 100).to(dtype)
    out = layer(x.to(device))
    q, scale_x = samebits.quantize_per_token(x.reshape(-1, 100))
    weight, scale_w = samebits.quantize_weight(source.weight.detach(), scales == "channel")
    expected = reference_mm(q, weight, scale_x, scale_w, source.bias.detach() if bias else None, dtype)
    assert out.dtype == dtype and out.shape == (3, 7, 200)
    assert same_bits(out.reshape(-1, 200), expected)


@pytest.mark.parametrize(("m", "n", "k"), C3_UNALIGNED)
def test_unaligned_shapes_run_padded_with_the_same_bits(device, m, n, k):
    weight, scale, bias = random_fp8(n, k), torch.rand(n), torch.randn(n).bfloat16()
    layer = Fp8Linear.from_fp8(weight, scale, bias=bias).to(device)
    assert "padded to" in layer.explain() and layer.weight.shape == (n, k)
    x = torch.randn(m, k).bfloat16()
    q, scale_x = samebits.quantize_per_token(x)
    assert same_bits(layer(x.to(device)), samebits.scaled_mm(q, weight.t(), scale_x, scale, bias))


FORMS = [(form, static) for form in ("tensor", "channel", "blocks", "weight-only") for static in (False, True)]


@pytest.mark.parametrize(("form", "static"), [form for form in FORMS if form != ("blocks", True)])
def test_every_route_is_invariant(device, form, static):
    n, k = 96, 300
    scale = {"tensor": torch.rand(1), "blocks": torch.rand(1, 3)}.get(form, torch.rand(n)) + 0.01
    layer = Fp8Linear.from_fp8(
        random_fp8(n, k), scale, 0.02 if static else None, torch.randn(n), weight_only=form == "weight-only"
    ).to(device)
    assert ("input_scale not used" in layer.explain()) == (static and form == "weight-only")
    wanted = {"blocks": "block-scaled", "weight-only": "weight-only"}.get(form, "direct FP8")
    assert layer.route == wanted and layer.explain().startswith(wanted)
    check_invariant(layer, torch.randn(33, k).bfloat16().to(device), [2, 17, 33])


@pytest.mark.parametrize("form", ["tensor", "blocks", "weight-only", "16 bits"])
def test_any_view_is_an_input(device, form):
    """A transposed batch of one is a view whose columns are apart, of two a copy; a shifted row starts off 16 bytes."""
    n, k = 96, 128
    if form == "16 bits":
        layer = samebits.InvariantLinear.from_linear(linear(k, n)).to(device)
    else:
        scale = torch.rand((1, 1) if form == "blocks" else 1) + 0.01
        layer = Fp8Linear.from_fp8(random_fp8(n, k), scale, weight_only=form == "weight-only", blocks=form == "blocks")
        layer = layer.to(device)
    x = torch.randn(2, k, 5).bfloat16().to(device).transpose(1, 2)
    expected = layer(x.contiguous())
    assert same_bits(layer(x), expected) and same_bits(layer(x[:1]), expected[:1])
    shifted = torch.empty(2 * 5 * k + 1).bfloat16().to(device)[1:].view(2, 5, k).copy_(x)
    assert same_bits(layer(shifted), expected)


def test_rows_are_copied_only_where_a_kernel_could_not_read_them():
    x = torch.zeros(9, 64).bfloat16()
    for view, copied in [
        (x, False),
        (x[:, 8:40], False),  # padded rows
        (x[:, :63].unsqueeze(0), False),  # 16-byte rows of an odd length
        (x.t(), True),
        (x[:, 4:36], True),  # 8 bytes off
        (torch.zeros(9, 65).bfloat16()[:, :64], True),
        (torch.zeros(9, 65).bfloat16(), False),  # a copy would be as odd
    ]:
        same = rows_of(view).data_ptr() == view.data_ptr()
        assert same == (not copied), (view.shape, view.stride())


def test_route_without_a_kernel_falls_back_and_says_so(device, monkeypatch):
    real = samebits.ops.kernel

    def none(device, order, *rest, **options):
        if order in samebits.HALF_ORDERS:
            return real(device, order, *rest, **options)
        raise RuntimeError("no kernel on sm_80")

    source = linear(bias=False).to(device)
    x = torch.randn(9, 100).bfloat16().to(device)
    monkeypatch.setattr(samebits.ops, "kernel", none)
    layer = Fp8Linear.from_linear(source)
    assert layer.route == "BF16 fallback" and "no kernel on sm_80" in layer.explain()
    check_invariant(layer, x, [2, 9])
    assert same_bits(layer(x), reference_half(x, layer.weight, layer.weight_scale))
    assert same_bits(layer(x), Fp8Linear.from_linear(source, weight_only=True)(x)), "weight-only is the same definition"


@pytest.mark.parametrize(("n", "k"), [(200, 300), (256, 256), (24, 3884)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_block_route_is_the_definition(device, n, k, with_bias):
    """K such as 3884 is padded by the layer; its bits are those of the op without padding, on the CPU."""
    weight, blocks = random_fp8(n, k), torch.rand(-(-n // 128), -(-k // 128)) + 0.1
    bias = torch.randn(n).bfloat16() if with_bias else None
    layer = Fp8Linear.from_fp8(weight, blocks, bias=bias).to(device)
    assert layer.route == "block-scaled" and "order hopper-block128" in layer.explain()
    x = torch.randn(5, k).bfloat16()
    q, scale = samebits.quantize_per_group(x)
    out = layer(x.to(device))
    assert same_bits(out, samebits.block_scaled_mm(q, weight.t(), scale, blocks, bias))
    assert same_bits(out, reference_block_mm(q, weight, scale, blocks, bias, torch.bfloat16))


@pytest.mark.parametrize(("n", "k"), [(128, 128), (64, 96), (1, 100)])
def test_a_weight_of_one_block_stays_block_scaled(n, k):
    """Its scale [1, 1] has the shape of a scale for the tensor, whose bits are others."""
    weight, scale, x = random_fp8(n, k), torch.tensor([[0.037]]), torch.randn(5, k).bfloat16()
    q, scale_x = samebits.quantize_per_group(x)
    expected = samebits.block_scaled_mm(q, weight.t(), scale_x, scale)
    blocks = Fp8Linear.from_fp8(weight, scale, blocks=True)
    named = Fp8Linear(k, n, bias=False)
    named.load_state_dict({"weight": weight, "weight_scale_inv": scale})
    again = Fp8Linear(k, n, bias=False, scales="block")
    again.load_state_dict(blocks.state_dict())
    for layer in (blocks, named, again, pickle.loads(pickle.dumps(blocks))):
        assert layer.route == "block-scaled" and layer.weight_scale.shape == (1, 1)
        assert same_bits(layer(x), expected)
    assert Fp8Linear.from_fp8(weight, scale).route == "direct FP8", "unsaid, it is a scale for the tensor"


def test_block_scales_online(device):
    source = linear(300, 200).to(device)
    layer = Fp8Linear.from_linear(source, scales="block")
    weight, scale = samebits.quantize_weight_blocks(source.weight.detach())
    x = torch.randn(5, 300, device=device).bfloat16()
    assert layer.weight_scale.shape == (2, 3)
    assert same_bits(layer(x), Fp8Linear.from_fp8(weight, scale, bias=source.bias.detach())(x))
    trainable = Fp8Linear.from_linear(source, scales="block", trainable=True)
    assert same_bits(trainable(x), layer(x)) and trainable.weight_scale.shape == (2, 3)


def test_fused_scales_stay_exact_per_channel(device):
    widths, scales = [64, 32, 32], torch.tensor([0.5, 0.011, 0.3])
    weight, x = random_fp8(128, 96, device), torch.randn(5, 96).bfloat16().to(device)
    fused = Fp8Linear.from_fp8(weight, scales, widths=widths).to(device)
    start = 0
    for width, scale in zip(widths, scales, strict=True):
        part = Fp8Linear.from_fp8(weight[start : start + width], scale).to(device)
        assert same_bits(fused(x)[:, start : start + width], part(x))
        start += width


def test_requantize_is_vllms_formula(device):
    widths, scales = [64, 32], torch.tensor([0.011, 0.3])
    weight = random_fp8(96, 48)
    layer = Fp8Linear.from_fp8(weight.to(device), scales, widths=widths, requantize=True)
    parts = [(w.half().float() * s.half().float()).half() for w, s in zip(weight.split(widths), scales, strict=True)]
    expected = (torch.cat(parts).float() * (1 / scales.max())).clamp(-448, 448).to(FP8)
    assert same_bits(layer.weight, expected) and layer.weight_scale.tolist() == [scales.max().item()]


def test_static_activations(device):
    source = linear()
    layer = Fp8Linear.from_linear(source, input_scale=0.03).to(device)
    x = torch.randn(8, 100).bfloat16()
    scale = torch.tensor([0.03])
    weight, scale_w = samebits.quantize_weight(source.weight.detach())
    expected = reference_mm(
        samebits.quantize_static(x, scale), weight, scale, scale_w, source.bias.detach(), torch.bfloat16
    )
    assert same_bits(layer(x.to(device)), expected)
    assert "static activations" in layer.explain()


@pytest.mark.parametrize("trainable", [False, True])
def test_gradients_against_a_float_layer(device, trainable):
    source = linear(96, 64).to(device)
    layer = Fp8Linear.from_linear(source, trainable=trainable)
    x = torch.randn(4, 5, 96, device=device).bfloat16().requires_grad_()
    with torch.no_grad():
        inference = layer(x)
    out = layer(x)
    assert same_bits(out, inference), "training and inference are the same bits"
    grad = torch.randn_like(out)
    out.backward(grad)
    weight = samebits.dequantize(layer.weight, layer.weight_scale).float()
    assert torch.allclose(x.grad.float(), grad.float() @ weight, rtol=2e-2, atol=2e-2)
    if not trainable:
        assert [name for name, p in layer.named_parameters() if p.requires_grad] == []
        return
    rows, grads = x.detach().reshape(-1, 96).float(), grad.reshape(-1, 64).float()
    assert torch.allclose(layer.master.grad.float(), grads.t() @ rows, rtol=2e-2, atol=5e-2)
    assert torch.allclose(layer.bias.grad.float(), grads.sum(0), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("form", ["blocks", "weight-only"])
def test_gradients_of_the_other_routes(device, form):
    n, k = 200, 300
    weight, scale = random_fp8(n, k), torch.rand(2, 3) + 0.1 if form == "blocks" else torch.rand(n)
    layer = Fp8Linear.from_fp8(weight, scale, weight_only=form == "weight-only").to(device)
    x = torch.randn(6, k, device=device).bfloat16().requires_grad_()
    grad = torch.randn(6, n, device=device).bfloat16()
    layer(x).backward(grad)
    full = scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k] if form == "blocks" else scale[:, None]
    expected = grad.float().cpu() @ (weight.float() * full)
    assert torch.allclose(x.grad.float().cpu(), expected, rtol=2e-2, atol=0.2)


def test_an_optimizer_step_moves_the_forward(device):
    layer = Fp8Linear.from_linear(linear(64, 32).to(device), trainable=True)
    x = torch.randn(6, 64, device=device).bfloat16()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before = layer(x)
    before.float().square().sum().backward()
    optimizer.step()
    after = layer(x).detach()
    assert not same_bits(after, before)
    fresh = Fp8Linear.from_fp8(*samebits.quantize_weight(layer.master.detach()), bias=layer.bias.detach())
    assert same_bits(fresh(x), after)
    loaded = Fp8Linear(64, 32, device=device)
    loaded.load_state_dict(layer.state_dict())
    assert same_bits(loaded(x), after), "state_dict holds the weight as it is now"


def test_only_a_frozen_weight_is_called_ready(device):
    """A trainable layer quantizes its weight right before the product; with gradients nothing is claimed either."""
    source = linear(64, 32).to(device)
    x = torch.randn(6, 64, device=device).bfloat16()
    blocks = Fp8Linear.from_fp8(random_fp8(32, 200, device), torch.ones(1, 2, device=device))
    frozen, trainable = Fp8Linear.from_linear(source), Fp8Linear.from_linear(source, trainable=True)
    with torch.no_grad():
        assert overlaps_in(lambda: frozen(x)) == ["weight"]
        assert overlaps_in(lambda: blocks(x.repeat(1, 4)[:, :200])) == ["weight"]
        assert overlaps_in(lambda: trainable(x)) == ["launch"]
    assert overlaps_in(lambda: frozen(x)) == ["weight"]
    assert overlaps_in(lambda: frozen(x.requires_grad_())) == ["launch"]


def test_a_layer_without_a_kernel_gets_a_route_where_there_is_one(monkeypatch):
    def none(*_, **__):
        raise RuntimeError("no kernel on sm_75")

    source, x = linear(), torch.randn(3, 100).bfloat16()
    expected = Fp8Linear.from_linear(source)(x)
    with monkeypatch.context() as there:
        there.setattr(samebits.ops, "kernel", none)
        layers = [Fp8Linear.from_linear(source) for _ in range(4)]
        with pytest.raises(RuntimeError, match="cannot run: no kernel on sm_75"):
            layers[0](x)
        pickled = pickle.dumps(layers[3])
    for layer in (layers[0].cpu(), layers[1].to("cpu"), copy.deepcopy(layers[2]), pickle.loads(pickled)):
        assert layer.route == "direct FP8" and same_bits(layer(x), expected)


def test_a_layer_that_was_never_prepared_stays_so():
    assert Fp8Linear(100, 200).to("cpu").route is None
    assert Fp8Linear.from_linear(linear()).to("meta").to_empty(device="cpu").route is None


def test_copies_keep_the_bits(device):
    layer = Fp8Linear.from_linear(linear(), input_scale=0.02).to(device)
    x = torch.randn(5, 100).bfloat16().to(device)
    expected = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    empty = Fp8Linear(100, 200, static_input=True, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    materialized = Fp8Linear(100, 200, scales="tensor", device="meta").to_empty(device=device)
    materialized.load_state_dict(layer.state_dict())
    for other in (
        copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False), empty,
        materialized, layer.to("cpu").to(device),
    ):  # fmt: skip
        assert same_bits(other(x), expected)
        assert set(other.state_dict()) == {"weight", "weight_scale", "input_scale", "bias"}


def test_dtype_changes_leave_fp8_and_scales_alone(device):
    layer = Fp8Linear.from_linear(linear()).to(device)
    weight, scale = layer.weight.clone(), layer.weight_scale.clone()
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        layer = layer.to(dtype)
        assert layer.out_dtype == layer.bias.dtype == dtype
        assert same_bits(layer.weight, weight) and same_bits(layer.weight_scale, scale)
        assert layer(torch.randn(2, 100, device=device)).dtype == dtype


def test_meta_and_unprepared_layers_say_why_they_cannot_run():
    layer = Fp8Linear(100, 200)
    with pytest.raises(RuntimeError, match=r"Fp8Linear \[200, 100\] cannot run: not prepared"):
        layer(torch.randn(1, 100))
    moved = Fp8Linear.from_linear(linear()).to("meta")
    with pytest.raises(RuntimeError, match="meta device"):
        moved(torch.randn(1, 100, device="meta"))


def test_checkpoint_scale_shapes_load():
    weight, scale = random_fp8(200, 256), torch.rand(200, 1)
    for shape, stored in [((200,), scale), ((1,), scale[0, 0]), ((2, 2), torch.rand(2, 2))]:
        layer = Fp8Linear(256, 200, bias=False)
        name = "weight_scale_inv" if shape == (2, 2) else "weight_scale"
        layer.load_state_dict({"weight": weight, name: stored})
        assert layer.weight_scale.shape == shape and layer.route is not None


BAD = [
    (lambda w: Fp8Linear.from_fp8(w, torch.rand(3)), r"weight_scale has shape \[3\] for a weight \[32, 64\]"),
    (lambda w: Fp8Linear.from_fp8(w, torch.rand(2), widths=[3, 4]), r"parts \[3, 4\] have 7 rows.*32"),
    (lambda w: Fp8Linear.from_fp8(w, torch.tensor([float("nan")])), r"weight_scale holds a value that is NaN"),
    (lambda w: Fp8Linear.from_fp8(w, torch.tensor([-3.4e38])), r"negative"),
    (lambda w: Fp8Linear.from_fp8(w, torch.ones(1), 0.0), r"input_scale is 0.0; it must be finite and positive"),
    (lambda w: Fp8Linear.from_fp8(w.float(), torch.ones(1)), r"weight is torch.float32 \[32, 64\]; it must be float8"),
    (lambda w: Fp8Linear.from_fp8(w, torch.ones(1), requantize=True), r"needs a width for each of 1 scales"),
    (lambda w: Fp8Linear(64, 32, order="fast"), r"unknown order 'fast'"),
    (lambda w: Fp8Linear(64, 32, scales="row"), r"scales='row'"),
    (lambda w: Fp8Linear.from_fp8(w, torch.ones(1), order="hopper-block128"), r"'hopper-block128' is for block scales"),
    (lambda w: Fp8Linear.from_linear(linear(), scales="block", input_scale=0.1), r"block scales have dynamic"),
    (lambda w: Fp8Linear(300, 200, scales="block", static_input=True), r"\[2, 3\]: block scales have dynamic"),
    (lambda w: Fp8Linear.from_fp8(w, torch.ones(1, 1), 0.1, blocks=True), r"\[1, 1\]: block scales have dynamic"),
    (lambda w: Fp8Linear.from_linear(linear(), scales="block").set_input_scale(0.1), r"block scales have dynamic"),
    (lambda w: Fp8Linear.from_linear(linear().double(), name="up"), r"up is torch.float64; it must be bfloat16"),
]


@pytest.mark.parametrize("index", range(len(BAD)))
def test_bad_input(index):
    call, message = BAD[index]
    with pytest.raises(ValueError, match=message):
        call(random_fp8(32, 64))


def test_bad_state_is_named_and_not_taken():
    model = nn.Sequential(Fp8Linear.from_linear(linear(300, 200)), Fp8Linear.from_linear(linear(200, 100)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = before | {"1.weight": torch.randn(100, 200).bfloat16()}
    with pytest.raises(RuntimeError, match=r"1.weight is torch.bfloat16 \[100, 200\]; it must be torch.float8_e4m3fn"):
        model.load_state_dict(state)
    assert same_bits(model[1].weight, before["1.weight"])
    state = before | {"0.weight_scale": torch.rand(2, 3), "0.input_scale": torch.tensor(0.1)}
    with pytest.raises(RuntimeError, match=r"0.input_scale: weight_scale \[2, 3\]: block scales have dynamic"):
        model.load_state_dict(state)
    static = Fp8Linear(300, 200, bias=False, static_input=True)
    with pytest.raises(RuntimeError, match=r"input_scale: weight_scale \[2, 3\]: block scales have dynamic"):
        static.load_state_dict({"weight": random_fp8(200, 300), "weight_scale_inv": torch.rand(2, 3)}, strict=False)


def test_bad_weight_and_bad_shape(device):
    source = linear().to(device)
    layer = Fp8Linear.from_linear(source)
    with pytest.raises(RuntimeError, match=r"input is \[3, 99\]; the layer takes \[..., 100\]"):
        layer(torch.randn(3, 99, device=device))
    with torch.no_grad():
        source.weight[7, 5] = float("inf")
    with pytest.raises(ValueError, match=r"mlp.weight\[7,5\] is inf"):
        Fp8Linear.from_linear(source, name="mlp.weight")


def test_no_rows(device):
    layer = Fp8Linear.from_linear(linear()).to(device)
    assert layer(torch.empty(0, 100, device=device)).shape == (0, 200)
    assert layer(torch.empty(2, 0, 100, device=device)).shape == (2, 0, 200)
