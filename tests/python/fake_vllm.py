"""As much of vLLM 0.22.1 as the plugin touches: module paths, class names, list order and choice, and no GPU code.

test_vllm.py writes each string of FILES where vLLM has that module, test_bench.py those of BENCH.
"""

FILES = {
    "__init__": '__version__ = "0.22.1"',
    "envs": """
import os
environment_variables = {
    "VLLM_BATCH_INVARIANT": lambda: bool(int(os.getenv("VLLM_BATCH_INVARIANT", "0"))),
    "VLLM_PLUGINS": lambda: os.environ["VLLM_PLUGINS"].split(",") if "VLLM_PLUGINS" in os.environ else None,
    "VLLM_DISABLED_KERNELS": lambda: os.getenv("VLLM_DISABLED_KERNELS", "").split(","),
}
def __getattr__(name):
    if name in environment_variables:
        return environment_variables[name]()
    raise AttributeError(name)
""",
    "logger": """
LINES = []
class Logger:
    def __init__(self, name): self.name = name
    def info_once(self, text, *args):
        line = f"{self.name}: {text % args}"
        if line not in LINES: LINES.append(line)
    warning_once = warning = info_once
init_logger = Logger
""",
    "platforms": """
import enum
PlatformEnum = enum.Enum("PlatformEnum", "CUDA ROCM CPU")
class current_platform:
    _enum = PlatformEnum.CUDA
    cuda = True
    @classmethod
    def is_cuda(cls): return cls.cuda
""",
    "plugins/__init__": """
import vllm.envs as envs
from importlib.metadata import entry_points
DEFAULT_PLUGINS_GROUP = "vllm.general_plugins"
def load_general_plugins():
    for plugin in entry_points(group=DEFAULT_PLUGINS_GROUP):
        if plugin.name == "samebits" and (envs.VLLM_PLUGINS is None or plugin.name in envs.VLLM_PLUGINS):
            plugin.load()()
""",
    "model_executor/__init__": "",
    "model_executor/kernels/__init__": "",
    "model_executor/kernels/linear/__init__": """
import vllm.envs as envs
from vllm.platforms import PlatformEnum, current_platform
from .scaled_mm import CutlassFP8ScaledMMLinearKernel, FP8ScaledMMLinearKernel, FP8ScaledMMLinearLayerConfig
from .scaled_mm.cutlass import CutlassFp8BlockScaledMMKernel
class MarlinFP8ScaledMMLinearKernel(FP8ScaledMMLinearKernel):
    @classmethod
    def is_supported(cls, compute_capability=None): return not envs.VLLM_BATCH_INVARIANT, "not batch invariant"
_POSSIBLE_FP8_KERNELS = {PlatformEnum.CUDA: [MarlinFP8ScaledMMLinearKernel, CutlassFP8ScaledMMLinearKernel]}
_POSSIBLE_FP8_BLOCK_KERNELS = {PlatformEnum.CUDA: [CutlassFp8BlockScaledMMKernel, MarlinFP8ScaledMMLinearKernel]}
_LINEAR_BACKEND_KERNEL_MAP = {"cutlass": {CutlassFP8ScaledMMLinearKernel}}
def choose_scaled_mm_linear_kernel(config, possible_kernels):
    for kernel in possible_kernels[current_platform._enum]:
        if kernel.__name__ not in envs.VLLM_DISABLED_KERNELS:
            if kernel.is_supported(90)[0] and kernel.can_implement(config)[0]: return kernel
    raise ValueError("Failed to find a kernel")
""",
    "model_executor/kernels/linear/scaled_mm/cutlass": """
import torch
from vllm.platforms import current_platform
class CutlassFp8BlockScaledMMKernel:
    def __init__(self, config):
        assert self.can_implement(config)[0] and self.is_supported()[0]
        self.config = config
        self.quant_fp8 = self.theirs
    @staticmethod
    def theirs(x, scale, ub, use_triton=False):
        groups = x.float().view(len(x), -1, 128) / 0.5
        return groups.view(x.shape).to(torch.float8_e4m3fn), torch.full((x.shape[1] // 128, len(x)), 0.5).t()
    @classmethod
    def is_supported(cls, compute_capability=None): return current_platform.is_cuda(), "requires CUDA."
    @classmethod
    def can_implement(cls, c):
        return not c.activation_quant_key.scale.static, "Only dynamic per token group activation quantization"
    def apply_weights(self, layer, x, bias=None):
        q, scale = self.quant_fp8(x.view(-1, x.shape[-1]), None, None, use_triton=False)
        out = self.apply_block_scaled_mm(A=q, B=layer.weight, As=scale, Bs=layer.weight_scale_inv)
        out = out if bias is None else out + bias
        return out.to(self.config.out_dtype).view(*x.shape[:-1], layer.weight.shape[0])
""",
    "model_executor/kernels/linear/scaled_mm/__init__": """
from dataclasses import dataclass
import torch
from vllm.platforms import current_platform
@dataclass
class FP8ScaledMMLinearLayerConfig:
    weight_quant_key: object
    activation_quant_key: object
    weight_shape: tuple
    input_dtype: torch.dtype
    out_dtype: torch.dtype
class FP8ScaledMMLinearKernel:
    def __init__(self, c, layer_param_names):
        assert self.can_implement(c)[0] and self.is_supported()[0]
        self.layer_param_names = layer_param_names
        self.quant_fp8 = lambda x, scale, ub: ((x.float() / 0.5).to(torch.float8_e4m3fn), torch.full((len(x), 1), 0.5))
    @classmethod
    def is_supported(cls, compute_capability=None): return current_platform.is_cuda(), "requires CUDA."
    @classmethod
    def can_implement(cls, c): return True, None
    def apply_weights(self, layer, x, bias=None):
        q, scale = self.quant_fp8(x.view(-1, x.shape[-1]), layer.input_scale, None)
        return self.apply_scaled_mm(A=q, B=layer.weight, out_dtype=x.dtype, As=scale, Bs=layer.weight_scale, bias=bias,
                                    output_shape=[*x.shape[:-1], layer.weight.shape[1]])
class CutlassFP8ScaledMMLinearKernel(FP8ScaledMMLinearKernel):
    @staticmethod
    def _pad_to_alignment(x, dim, alignment, value=0.0):
        pad = [0] * (2 * x.dim())
        pad[-(2 * dim + 1)] = -x.shape[dim] % alignment
        return torch.nn.functional.pad(x.view(torch.uint8) if x.dtype.itemsize == 1 else x, pad).view(x.dtype)
    def process_weights_after_loading(self, layer):
        k, self.logical_output_size = layer.weight.shape
        weight = layer.weight.t().contiguous()
        layer.weight = self._pad_to_alignment(self._pad_to_alignment(weight, 0, 16), 1, 16).t()
        scale = getattr(layer, "weight_scale", None)
        assert scale is None or scale.numel() == 1 or self.logical_output_size % 16 == 0, "Overwriting: weight_loader"
    @staticmethod
    def padded_weight_loader(param, loaded): param.data[: len(loaded)].copy_(loaded)
""",
    "model_executor/layers/__init__": "",
    "model_executor/layers/batch_invariant": """
CALLS = []
OVERRIDES = {}
def linear_batch_invariant(input, weight, bias=None):
    CALLS.append(tuple(weight.shape))
    output = input @ weight.t()
    return output if bias is None else output + bias
def enable_batch_invariant_mode():  # what vLLM does on compute capability 8.x
    OVERRIDES["aten::linear"] = linear_batch_invariant
""",
    "model_executor/layers/linear": """
from vllm.model_executor.layers.batch_invariant import linear_batch_invariant
class UnquantizedLinearMethod:
    def apply(self, layer, x, bias=None): return linear_batch_invariant(x, layer.weight, bias)
""",
    "model_executor/layers/vocab_parallel_embedding": """
from vllm.model_executor.layers.batch_invariant import linear_batch_invariant
class UnquantizedEmbeddingMethod:
    def apply(self, layer, x, bias=None): return linear_batch_invariant(x, layer.weight, bias)
""",
    "model_executor/layers/quantization/__init__": "",
    "model_executor/layers/quantization/utils/__init__": "",
    "model_executor/layers/quantization/utils/quant_utils": """
from collections import namedtuple
class GroupShape(namedtuple("GroupShape", "row col")):
    def is_per_tensor(self): return self == (-1, -1)
    def is_per_token(self): return self == (1, -1)
GroupShape.PER_TENSOR, GroupShape.PER_TOKEN = GroupShape(-1, -1), GroupShape(1, -1)
GroupShape.PER_CHANNEL = GroupShape(-1, 1)
class ScaleDesc(namedtuple("ScaleDesc", "static group_shape")):
    def __str__(self): return f"{'static' if self.static else 'dynamic'} {tuple(self.group_shape)}"
QuantKey = namedtuple("QuantKey", "scale")
kFp8StaticTensorSym = QuantKey(ScaleDesc(True, GroupShape.PER_TENSOR))
kFp8StaticChannelSym = QuantKey(ScaleDesc(True, GroupShape.PER_CHANNEL))
kFp8DynamicTensorSym = QuantKey(ScaleDesc(False, GroupShape.PER_TENSOR))
kFp8DynamicTokenSym = QuantKey(ScaleDesc(False, GroupShape.PER_TOKEN))
kFp8Static128BlockSym = QuantKey(ScaleDesc(True, GroupShape(128, 128)))
kFp8Dynamic128Sym = QuantKey(ScaleDesc(False, GroupShape(1, 128)))
""",
}

# What bench/vllm_engine.py starts: LLM.generate, whose logprobs are a function of the prompt and, without batch
# invariance, of the batch. FAKE_DISTURB names an arm and what is wrong in it.
BENCH = {
    "__init__": """
import json, os, pathlib
from types import SimpleNamespace
ARM = "samebits" if os.environ["VLLM_PLUGINS"] else "vllm" if os.environ["VLLM_BATCH_INVARIANT"] == "1" else "default"
if ARM == "vllm" and "Cutlass" in os.environ.get("VLLM_DISABLED_KERNELS", ""): ARM = "fallback"
KERNEL = {"samebits": "Samebits", "vllm": "Cutlass"}.get(ARM, "Marlin") + "FP8ScaledMMLinearKernel"
def disturbed(what): return os.environ.get("FAKE_DISTURB") == f"{ARM}-{what}"
SamplingParams = SimpleNamespace
class LLM:
    @classmethod
    def from_engine_args(cls, args):
        if disturbed("start"): raise SystemExit("out of memory")
        print(f"Selected {os.environ.get('FAKE_KERNEL', KERNEL)} for Fp8LinearMethod {args}", flush=True)
        if os.environ.get("SAMEBITS_VLLM_LINEAR") != "vllm" and not disturbed("linears"): print("samebits computes unquantized linears", flush=True)
        if "SAMEBITS_VLLM_QUANTIZER" in os.environ: print("(quantized by samebits)", flush=True)
        llm = cls()
        llm.traces = pathlib.Path(dict(zip(args, args[1:])).get("--profiler-config.torch_profiler_dir", "/nowhere"))
        return llm
    def start_profile(self): pass
    def stop_profile(self):
        self.traces.mkdir(parents=True, exist_ok=True)
        kernel = {"cat": "kernel", "name": f"{ARM}_attention", "dur": 250.0}
        text = json.dumps({"traceEvents": [kernel, kernel, {"cat": "cpu_op", "name": "x", "dur": 9}]})
        (self.traces / f"{ARM}.pt.trace.json").write_text(text)
    def get_tokenizer(self): return SimpleNamespace(vocab_size=1000)
    def generate(self, prompts, params, use_tqdm):
        depends = ARM == "default" and not disturbed("invariant") or disturbed("batch")
        return [self.output(prompt, len(prompts) if depends else 1) for prompt in prompts]
    def output(self, prompt, batch):
        token = 7 if disturbed("constant") else sum(prompt["prompt_token_ids"]) + disturbed("token")
        step = {token: SimpleNamespace(logprob=-1.0 / batch)}
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token], logprobs=[step])])
""",
    "inputs": "TokensPrompt = dict",
    "engine/__init__": "",
    "engine/arg_utils": """
class EngineArgs:
    add_cli_args = from_cli_args = staticmethod(lambda x: x)
""",
    "utils/__init__": "",
    "utils/argparse_utils": """
class FlexibleArgumentParser:
    def set_defaults(self, **defaults): self.defaults = defaults
    def parse_args(self, arguments): return [*arguments, str(self.defaults)]
""",
}
