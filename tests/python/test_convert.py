"""convert and calibrate on small models."""

import copy

import pytest
import torch
from torch import nn

import samebits
from helpers import fp8_layers
from samebits import Fp8Linear


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.lm_head = nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 10)
        self.unused = nn.Linear(16, 16)

    def forward(self, x):
        return self.lm_head(self.down(torch.relu(self.up(x))))


def test_convert_honours_names(device):
    model = Small().bfloat16().to(device)
    converted = samebits.convert(copy.deepcopy(model), ignore=["down", "re:unu.*"])
    assert set(fp8_layers(converted)) == {"up"}
    assert set(fp8_layers(samebits.convert(copy.deepcopy(model), heads=True))) == {"up", "down", "lm_head", "unused"}
    with pytest.raises(ValueError, match="no nn.Linear to convert in Small"):
        samebits.convert(copy.deepcopy(model), ignore=["*"])


def test_convert_names_the_bad_weight():
    model = Small()
    with torch.no_grad():
        model.down.weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"down.weight\[3,4\] is nan"):
        samebits.convert(model)


def test_a_model_that_is_refused_is_as_it_was():
    for value, message in ((float("inf"), r"down.weight\[3,4\] is inf"), (None, "down.weight is torch.float64")):
        model = Small()
        with torch.no_grad():
            if value is None:
                model.down.double()
            else:
                model.down.weight[3, 4] = value
        with pytest.raises(ValueError, match=message):
            samebits.convert(model)
        assert type(model.up) is nn.Linear and not fp8_layers(model)
    for options in ({"order": "hopper-block128"}, {"order": "none"}, {"scales": "row"}):
        with pytest.raises(ValueError):
            samebits.convert(model := Small(), **options)
        assert not fp8_layers(model)


def test_a_linear_of_two_names_becomes_one_layer_of_two_names():
    model = Small()
    model.again = nn.ModuleDict({"up": model.up})
    samebits.convert(model)
    assert type(model.up) is Fp8Linear and model.again["up"] is model.up
    model = Small()
    model.again = model.up
    assert "up" not in fp8_layers(samebits.convert(model, ignore=["again"])), "ignored under one of its names"
    assert type(model.up) is nn.Linear and model.again is model.up
    model = Small().bfloat16()
    model.again = model.up
    samebits.convert(model, ignore=["*"], invariant_rest=True)
    assert type(model.up) is samebits.InvariantLinear and model.again is model.up


@pytest.mark.parametrize("rest", [False, True])
def test_encoders_of_torch_call_their_linears(rest):
    """Their fast path in eval() reads the weights of the linears instead."""
    layer = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)).bfloat16().eval()
    encoder, x = model[0], torch.randn(2, 7, 64).bfloat16()
    padding = torch.arange(7)[None] >= torch.tensor([[7], [4]])
    expected = encoder(x, src_key_padding_mask=padding)
    if rest:
        samebits.convert(model, ignore=["*"], invariant_rest=True)
    else:
        samebits.convert(model)
        assert set(fp8_layers(model)) == {f"0.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)}
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, (Fp8Linear, samebits.InvariantLinear)):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        for options in ({}, {"src_key_padding_mask": padding}):
            calls.clear()
            out = encoder(x, **options)
            assert len(calls) == 4
    real = ~padding
    assert torch.cosine_similarity(out[real].float(), expected[real].float(), dim=-1).min() > 0.98


def test_tied_weights_stay_tied():
    model = Small()
    model.unused = nn.Linear(64, 96)
    model.unused.weight = model.up.weight
    assert set(fp8_layers(samebits.convert(model))) == {"down"}


def test_calibrate(device):
    model = samebits.convert(Small().to(device))
    batches = [torch.randn(5, 64, device=device) for _ in range(3)]
    with pytest.warns(UserWarning, match="no input reached unused"):
        scales = samebits.calibrate(model, batches)
    largest = max(batch.abs().max().item() for batch in batches)
    assert scales["up"] == (torch.tensor(largest) / torch.tensor(448.0)).item()
    assert set(scales) == {"up", "down"} and model.unused.input_scale is None
    assert "static activations" in model.up.explain()
    with pytest.raises(ValueError, match="the input of up holds nan"):
        samebits.calibrate(model, [torch.full((1, 64), float("nan"), device=device)])
