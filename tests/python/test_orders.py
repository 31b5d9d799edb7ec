"""The Order of a device: what fp8_order and half_order say of a GPU, and what a layer there computes in."""

import copy
import pickle

import pytest
import torch
from torch import nn

import samebits
from helpers import reference_half, same_bits
from samebits import Fp8Linear, InvariantLinear


@pytest.fixture
def gpu(monkeypatch):
    """Call it with Orders and a reason: every device is then a GPU as the library describes it, with rows of these alone."""
    real = samebits.ops.kernel
    monkeypatch.setattr(samebits.ops, "_first_with_kernel", samebits.ops._first_with_kernel.__wrapped__)  # not cached

    def describe(orders: list[str], reason: str) -> None:
        def kernel(device, order, *rest, **options):
            if order not in orders:
                raise RuntimeError(reason)
            return real("cpu", order, *rest, **options)

        monkeypatch.setattr(samebits.ops, "kernel", kernel)

    return describe


@pytest.mark.parametrize("order", ["hopper-fast", "ada-fast", "blackwell-fast", "sm120-fast"])
def test_the_order_of_a_gpu(gpu, monkeypatch, order):
    """Rows of one Order, the reason against every other."""
    gpu([order], f"there is no row of this Order for sm_89; it has rows of: {order}")
    assert samebits.fp8_order("cuda:0") == order
    assert samebits.fp8_order("meta") == "hopper-fast"
    monkeypatch.undo()
    assert samebits.fp8_order("cpu") == "hopper-fast"


@pytest.mark.parametrize("order", ["ada-fast", "blackwell-fast", "sm120-fast"])
def test_a_layer_computes_in_the_fp8_order_of_its_device(gpu, order):
    """FP8 rows of one Order. A layer that is asked for none has it."""
    source, x = nn.Linear(100, 200).bfloat16(), torch.randn(5, 100).bfloat16()
    assert "order hopper-fast" in Fp8Linear.from_linear(source).explain()
    gpu([order, *samebits.HALF_ORDERS], f"there is no row of this Order; there are rows of: {order}")
    layer = Fp8Linear.from_linear(source)
    assert layer.route == "direct FP8" and f"order {order}" in layer.explain()
    q, scale_x = samebits.quantize_per_token(x)
    operands = q, layer.weight.t(), scale_x, layer.weight_scale, source.bias.detach()
    want = samebits.scaled_mm(*operands, order=order)
    assert not same_bits(want, samebits.scaled_mm(*operands)), "control: the Orders differ in bits"
    # However the weight came: as FP8, a layer that was copied or saved, an empty one that is given its state.
    empty = Fp8Linear(100, 200, device="meta")
    assert "order hopper-fast" in empty.explain()
    empty.load_state_dict(layer.state_dict(), assign=True)
    stored = Fp8Linear.from_fp8(layer.weight, layer.weight_scale, bias=source.bias)
    model = samebits.convert(nn.Sequential(copy.deepcopy(source)))
    for made in (layer, empty, stored, model[0], copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same_bits(made(x), want) and f"order {order}" in made.explain()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    assert same_bits(compiled(x), want)
    pinned = Fp8Linear.from_linear(source, order="hopper-fast")
    assert pinned.route == "BF16 fallback" and "there is no row of this Order" in pinned.explain()


def test_a_layer_computes_in_the_16_bit_order_of_its_device(gpu):
    """An A100: no FP8 unit, and 16-bit rows of another Order than a Hopper's."""
    source = nn.Linear(96, 48, bias=False).bfloat16()
    x = torch.randn(5, 96).bfloat16()
    assert samebits.half_order("cpu") == "hopper-bf16"
    asked = Fp8Linear.from_linear(source, order="ampere-bf16")
    assert asked.route == "weight-only" and "order ampere-bf16" in asked.explain()
    gpu(["ampere-bf16"], "sm_80 has no FP8 matrix unit; sm_89 is the first with one")
    assert samebits.half_order("cpu") == "ampere-bf16"
    fallback, rest = Fp8Linear.from_linear(source), InvariantLinear.from_linear(source)
    assert fallback.route == "BF16 fallback" and "order ampere-bf16" in fallback.explain()
    assert "sm_80 has no FP8 matrix unit" in fallback.explain() and "order ampere-bf16" in rest.explain()
    want = reference_half(x, fallback.weight, fallback.weight_scale, order="ampere-bf16")
    assert same_bits(fallback(x), want) and same_bits(asked(x), want)
    assert same_bits(rest(x), reference_half(x, source.weight, order="ampere-bf16"))
    assert same_bits(copy.deepcopy(fallback)(x), want)
    # However the weight came: a plain constructor, a layer that was saved, a meta layer that is given its weight.
    empty = InvariantLinear(96, 48, bias=False, device="meta", dtype=torch.bfloat16)
    empty.load_state_dict(source.state_dict(), assign=True)
    for layer in (empty, copy.deepcopy(rest), pickle.loads(pickle.dumps(rest))):
        assert same_bits(layer(x), rest(x)) and "order ampere-bf16" in layer.explain()
    compiled = torch.compile(rest, backend="aot_eager", fullgraph=True, dynamic=True)
    assert same_bits(compiled(x), rest(x))
    pinned = InvariantLinear.from_linear(source, order="hopper-bf16")
    assert same_bits(pinned(x), reference_half(x, source.weight))
    with pytest.raises(ValueError, match="unknown order 'fast'; there are: hopper-bf16, ampere-bf16"):
        InvariantLinear.from_linear(source, order="fast")
