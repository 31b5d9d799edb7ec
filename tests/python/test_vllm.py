"""The vLLM plugin against the modules of vLLM that it touches (fake_vllm.py); bench/vllm_bits.py has the real ones."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import samebits
import samebits.vllm as plugin
from fake_vllm import FILES
from helpers import bits, operands, overlaps_in, random_fp8, same_bits

ROOT = Path(__file__).resolve().parents[2]
OURS = "SamebitsFP8ScaledMMLinearKernel"
THEIRS = ["MarlinFP8ScaledMMLinearKernel", "CutlassFP8ScaledMMLinearKernel"]
OPTIONS = ("VLLM_BATCH_INVARIANT", "VLLM_PLUGINS", "VLLM_DISABLED_KERNELS", "SAMEBITS_VLLM", "SAMEBITS_VLLM_QUANTIZER")
OPTIONS += ("SAMEBITS_VLLM_LINEAR",)
OURS_IN_VLLM = ("samebits.vllm.kernel", "samebits.vllm.linear", "samebits.vllm.__main__")
SHOWN_RULES = "0123456789abcdef"


def forget_vllm() -> None:
    for name in list(sys.modules):
        if name == "vllm" or name.startswith("vllm.") or name in OURS_IN_VLLM:
            del sys.modules[name]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """vLLM in sys.path with samebits installed beside it, VLLM_BATCH_INVARIANT=1, and a GPU that has the kernels."""
    for name, text in FILES.items():
        path = tmp_path / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "samebits-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samebits\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in OPTIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    monkeypatch.setattr(samebits, "kernel", lambda *_: "a row of the table")
    forget_vllm()
    yield tmp_path
    forget_vllm()


def listed() -> list[str]:
    linear = importlib.import_module("vllm.model_executor.kernels.linear")
    kernels = linear._POSSIBLE_FP8_KERNELS[importlib.import_module("vllm.platforms").PlatformEnum.CUDA]
    return [kernel.__name__ for kernel in kernels]


def check() -> int:
    return importlib.import_module("samebits.vllm.__main__").main(["check"])


def config(weight="kFp8StaticTensorSym", activation="kFp8DynamicTokenSym", out_dtype=torch.bfloat16):
    keys = importlib.import_module("vllm.model_executor.layers.quantization.utils.quant_utils")
    scaled_mm = importlib.import_module("vllm.model_executor.kernels.linear.scaled_mm")
    return scaled_mm.FP8ScaledMMLinearLayerConfig(
        getattr(keys, weight), getattr(keys, activation), (64, 64), torch.bfloat16, out_dtype
    )


def kernel_class():
    return importlib.import_module("samebits.vllm.kernel").SamebitsFP8ScaledMMLinearKernel


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [OURS, *THEIRS]),
        ({"VLLM_BATCH_INVARIANT": "0"}, THEIRS),
        ({"VLLM_BATCH_INVARIANT": "0", "SAMEBITS_VLLM": "always"}, [OURS, *THEIRS]),
        ({"SAMEBITS_VLLM": "never"}, THEIRS),
    ],
)
def test_the_switch_decides_and_registering_again_changes_nothing(fake, monkeypatch, options, expected):
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    plugin.register()
    assert listed() == expected
    plugin.register()
    assert listed() == expected
    envs, linear = sys.modules["vllm.envs"], sys.modules["vllm.model_executor.kernels.linear"]
    on = OURS in expected
    assert ("SAMEBITS_VLLM_KERNEL" in envs.environment_variables) == on  # else another arm's compile cache is used
    assert any(k.__name__ == OURS for k in linear._LINEAR_BACKEND_KERNEL_MAP["cutlass"]) == on


def test_the_compile_cache_key_has_the_rules(fake, monkeypatch):
    plugin.register()
    key = sys.modules["vllm.envs"].environment_variables["SAMEBITS_VLLM_KERNEL"]
    without = key()
    assert without.endswith(" no rules")
    monkeypatch.setattr(samebits, "rules_digest", lambda: SHOWN_RULES)
    assert key() == without.replace("no rules", SHOWN_RULES)


def test_it_is_a_subclass_of_what_batch_invariant_layers_look_for(fake):
    plugin.register()
    scaled_mm = importlib.import_module("vllm.model_executor.kernels.linear.scaled_mm")
    assert issubclass(kernel_class(), scaled_mm.CutlassFP8ScaledMMLinearKernel)


@pytest.mark.parametrize(("version", "loads"), [("0.22.1", True), ("0.22.1+cu130", True), ("0.23.0", False)])
def test_untested_versions_are_refused(fake, monkeypatch, version, loads, capsys):
    importlib.import_module("vllm").__version__ = version
    plugin.register()
    assert (listed()[0] == OURS) == loads
    assert check() == (0 if loads else 1)
    if not loads:
        assert f"does not touch vLLM {version}" in capsys.readouterr().out
        assert any(version in line for line in sys.modules["vllm.logger"].LINES)
        monkeypatch.setenv("SAMEBITS_VLLM", "always")
        with pytest.raises(RuntimeError, match="tested with vLLM 0.22.1"):
            plugin.register()


@pytest.mark.parametrize("name", ["SAMEBITS_VLLM", "SAMEBITS_VLLM_QUANTIZER", "SAMEBITS_VLLM_LINEAR"])
def test_a_misspelt_option_is_named(fake, monkeypatch, name):
    monkeypatch.setenv(name, "alwyas")
    with pytest.raises(ValueError, match=f"{name}='alwyas'"):
        plugin.register()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, None),
        ({"weight": "kFp8StaticChannelSym"}, None),
        ({"activation": "kFp8StaticTensorSym", "out_dtype": torch.float16}, None),
        ({"activation": "kFp8DynamicTensorSym"}, "no row has one value"),
        ({"weight": "kFp8Static128BlockSym"}, "per tensor or per channel"),
        ({"out_dtype": torch.float32}, "bfloat16 or float16"),
    ],
)
def test_layers_not_covered_are_named(fake, keys, reason):
    plugin.register()
    covered, said = kernel_class().can_implement(config(**keys))
    assert covered == (reason is None) and (reason is None or reason in said)
    assert reason is None or any(reason in line for line in sys.modules["vllm.logger"].LINES)


def test_one_log_line_for_each_layer_type(fake):
    plugin.register()
    for keys in ({}, {}, {"weight": "kFp8StaticChannelSym"}):
        kernel_class()(config(**keys), ["weight", "weight_scale", "input_scale", "input_scale_ub"])
    lines = sys.modules["vllm.logger"].LINES
    assert len([line for line in lines if "samebits computes FP8 linears" in line]) == 2
    assert len([line for line in lines if "FP8 MoE experts" in line]) == 1


def no_gpu_kernel(monkeypatch, _):
    def refuse(*_):
        raise RuntimeError("compute capability 8.0: no kernel")

    monkeypatch.setattr(samebits, "kernel", refuse)


def disabled(monkeypatch, _):
    monkeypatch.setenv("VLLM_DISABLED_KERNELS", OURS)


def filtered(monkeypatch, _):
    monkeypatch.setenv("VLLM_PLUGINS", "another")


def switched_off(monkeypatch, _):
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")


def not_installed(monkeypatch, folder):
    (folder / "samebits-0.1.0.dist-info" / "entry_points.txt").write_text("")
    installed = [path for path in sys.path if list(Path(path or ".").glob("samebits-*.dist-info/RECORD"))]
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in installed])


def no_vllm(monkeypatch, _):
    monkeypatch.setitem(sys.modules, "vllm", None)


def no_cuda(monkeypatch, _):
    monkeypatch.setattr(importlib.import_module("vllm.platforms").current_platform, "cuda", False)


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        (no_gpu_kernel, "compute capability 8.0: no kernel"),
        (disabled, "VLLM_DISABLED_KERNELS"),
        (filtered, "VLLM_PLUGINS=another"),
        (switched_off, "VLLM_BATCH_INVARIANT is not 1"),
        (not_installed, "no entry point"),
        (no_vllm, "vLLM cannot be imported"),
        (no_cuda, "requires CUDA"),
    ],
)
def test_check_says_why_not(fake, monkeypatch, capsys, breakage, reason):
    breakage(monkeypatch, fake)
    assert check() == 1
    out = capsys.readouterr().out
    assert reason in out and "samebits is not in use" in out


def test_check_says_that_it_is_in_use(fake, capsys):
    assert check() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "samebits is in use for FP8 linears"
    assert sum(line.endswith(OURS) for line in lines) == 4 and "FP8 MoE experts" in lines[-2]
    assert sum(line.endswith("SamebitsFp8BlockScaledMMKernel") for line in lines) == 1


@pytest.mark.parametrize("quantizer", ["vllm", "samebits"])
@pytest.mark.parametrize(("n", "k"), [(64, 96), (255, 513)])
def test_a_layer_computes_scaled_mm_with_the_quantizer_asked_for(fake, monkeypatch, quantizer, n, k):
    monkeypatch.setenv("SAMEBITS_VLLM_QUANTIZER", quantizer)
    plugin.register()
    kernel = kernel_class()(config("kFp8StaticChannelSym"), ["weight", "weight_scale", "input_scale", "input_scale_ub"])
    weight, scale, bias = random_fp8(n, k), torch.rand(n, 1), torch.randn(n).bfloat16()
    layer = SimpleNamespace(weight=weight.t(), weight_scale=scale, input_scale=None)
    kernel.process_weights_after_loading(layer)
    x = torch.randn(2, 5, k).bfloat16()
    rows = x.view(10, k)
    q, scale_x = samebits.quantize_per_token(rows) if quantizer == "samebits" else kernel.quant_fp8(rows, None, None)
    want = samebits.scaled_mm(q, weight.t(), scale_x, scale, bias).view(2, 5, n)
    assert same_bits(kernel.apply_weights(layer, x, bias), want)
    assert overlaps_in(lambda: kernel.apply_weights(layer, x, bias)) == [{"vllm": "none", "samebits": "weight"}[quantizer]]

    def forward(y):
        return kernel.apply_weights(layer, y, bias)

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True, dynamic=True)
    assert same_bits(compiled(x), want) and same_bits(compiled(x[:, :3].contiguous()), want[:, :3])


def block_config(activation="kFp8Dynamic128Sym", weight="kFp8Static128BlockSym", shape=(208, 384)):
    made = config(weight, activation)
    made.weight_shape = shape
    return made


@pytest.mark.parametrize("quantizer", ["vllm", "samebits"])
def test_a_block_layer_computes_block_scaled_mm(fake, monkeypatch, quantizer):
    monkeypatch.setenv("SAMEBITS_VLLM_QUANTIZER", quantizer)
    plugin.register()
    kernels = importlib.import_module("vllm.model_executor.kernels.linear")._POSSIBLE_FP8_BLOCK_KERNELS
    first = kernels[importlib.import_module("vllm.platforms").PlatformEnum.CUDA][0]
    assert first.__name__ == "SamebitsFp8BlockScaledMMKernel"
    kernel = first(block_config())
    weight, scale, bias = random_fp8(208, 384), torch.rand(2, 3), torch.randn(208).bfloat16()
    layer = SimpleNamespace(weight=weight, weight_scale_inv=scale)
    x = torch.randn(2, 5, 384).bfloat16()
    q, scale_x = samebits.quantize_per_group(x.view(10, 384)) if quantizer == "samebits" else first.theirs(
        x.view(10, 384), None, None
    )
    want = (samebits.block_scaled_mm(q, weight.t(), scale_x, scale) + bias).view(2, 5, 208)
    assert same_bits(kernel.apply_weights(layer, x, bias), want)
    assert overlaps_in(lambda: kernel.apply_weights(layer, x, bias)) == [{"vllm": "none", "samebits": "weight"}[quantizer]]

    def forward(y):
        return kernel.apply_weights(layer, y, bias)

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True, dynamic=True)
    assert same_bits(compiled(x), want) and same_bits(compiled(x[:, :3].contiguous()), want[:, :3])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"weight": "kFp8StaticChannelSym"}, "blocks of 128 x 128"),
        ({"shape": (200, 384)}, "multiples of 16"),
        ({"activation": "kFp8StaticTensorSym"}, "Only dynamic per token group"),
    ],
)
def test_block_layers_not_covered_are_named(fake, options, reason):
    plugin.register()
    block = importlib.import_module("samebits.vllm.kernel").SamebitsFp8BlockScaledMMKernel
    covered, said = block.can_implement(block_config(**options))
    assert covered == (reason is None) and (reason is None or reason in said)
    assert reason is None or any(reason in line for line in sys.modules["vllm.logger"].LINES)


def test_control_another_order_has_other_bits():
    a, b, scale_a, scale_b = operands(4, 64, 512)
    one, other = (samebits.scaled_mm(a, b, scale_a, scale_b, None, torch.float16, o) for o in samebits.ORDERS[:2])
    assert not torch.equal(bits(one), bits(other))


def test_importing_samebits_needs_no_vllm():
    code = "import sys; sys.modules['vllm'] = None; import samebits, samebits.vllm"
    subprocess.run([sys.executable, "-c", code], check=True)
