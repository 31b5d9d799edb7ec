#!/usr/bin/env python3
"""On a Hopper GPU with vLLM: are samebits' bits those of vLLM's batch-invariant `cutlass_scaled_mm`?

Every shape of vLLM's own tests that its kernel accepts, both shapes of both scales, bias or none, bf16 and fp16. Then
the needle test of vLLM's FP8 layer, also where it pads N and K: a row alone and as first and last of batches, with the
plugin's kernel and against vLLM's. The last line is `N outputs, D differ`; exit code 1 if any does, or if the control
differs nowhere.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ["VLLM_BATCH_INVARIANT"] = "1"  # vLLM reads it once for each process
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "python"))

import torch
import vllm._custom_ops  # noqa: F401: loads torch.ops._C
from helpers import C3, C3_UNALIGNED, bits, operands
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
from vllm.model_executor.kernels.linear.scaled_mm import CutlassFP8ScaledMMLinearKernel
from vllm.model_executor.layers.quantization.utils import quant_utils as keys

import samebits
from samebits import vllm as plugin

BATCHES = (1, 16, 17, 32, 64, 65, 256, 257)
NEEDLE = [(m, n, k) for n, k in ((1024, 2048), (4608, 4096)) for m in BATCHES]
LAYERS = [(1024, 2048), (4608, 4096), *dict.fromkeys((n, k) for _, n, k in C3_UNALIGNED)]
DTYPES = (torch.bfloat16, torch.float16)
FORKABLE = """
import torch, samebits.vllm
samebits.vllm.register()
assert not torch.cuda.is_initialized(), "vLLM could not fork its workers after register()"
"""


class Count:
    """Outputs compared and outputs that differ."""

    def __init__(self) -> None:
        self.outputs = self.differ = 0

    def add(self, got: torch.Tensor, want: torch.Tensor) -> int:
        assert got.shape == want.shape and got.dtype == want.dtype
        differ = int((bits(got) != bits(want)).sum())
        self.outputs += got.numel()
        self.differ += differ
        return differ


def vllm_scaled_mm(a, b, scale_a, scale_b, bias, dtype) -> torch.Tensor:
    out = torch.empty(a.shape[0], b.shape[1], dtype=dtype, device=a.device)
    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b, bias)
    return out


def compare_op(shape: tuple[int, int, int], count: Count, control: Count) -> None:
    """All scales, bias and dtypes of one shape; another Order as the control, which has to differ."""
    m, n, k = shape
    before = count.differ
    for per_channel in (False, True):
        a, b, scale_a, scale_b = operands(m, n, k, "cuda", per_channel)
        for a_scales in (scale_a, scale_a[:1].reshape(1).contiguous()):
            for dtype in DTYPES:
                for bias in (None, torch.randn(n, device="cuda").to(dtype)):
                    want = vllm_scaled_mm(a, b, a_scales, scale_b, bias, dtype)
                    got = torch.empty_like(want)
                    torch.ops.samebits.cutlass_scaled_mm(got, a, b, a_scales, scale_b, bias)
                    count.add(got, want)
                    count.add(torch.ops.samebits.scaled_mm(a, b, a_scales, scale_b, bias, dtype), want)
        other = samebits.scaled_mm(a, b, scale_a, scale_b, None, torch.float16, "hopper-promoted")
        control.add(other, vllm_scaled_mm(a, b, scale_a, scale_b, None, torch.float16))
    print(f"M {m:4} N {n:6} K {k:5}: {count.differ - before} differ", flush=True)


def fp8_layer(n: int, k: int, per_channel: bool, static: bool, dtype: torch.dtype, ours: bool):
    """vLLM's FP8 layer after loading, with the kernel that vLLM chooses or its own; x -> y."""
    torch.manual_seed(n + k)
    kernel = init_fp8_linear_kernel(
        activation_quant_key=keys.kFp8StaticTensorSym if static else keys.kFp8DynamicTokenSym,
        weight_quant_key=keys.kFp8StaticChannelSym if per_channel else keys.kFp8StaticTensorSym,
        input_dtype=dtype,
        out_dtype=dtype,
        weight_shape=(n, k),
        force_kernel=None if ours else CutlassFP8ScaledMMLinearKernel,
    )
    assert ("Samebits" in type(kernel).__name__) == ours, f"vLLM chose {type(kernel).__name__}"
    weight, scale = samebits.quantize_weight(torch.randn(n, k, device="cuda") * 0.05, per_channel)
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight.t(), requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(scale.reshape(-1, 1) if per_channel else scale, requires_grad=False)
    layer.input_scale = torch.tensor(0.0125, device="cuda") if static else None
    layer.input_scale_ub = None
    kernel.process_weights_after_loading(layer)
    bias = torch.randn(n, device="cuda").to(dtype)
    return lambda x: kernel.apply_weights(layer, x, bias)


def compare_layer(n: int, k: int, count: Count) -> None:
    before = count.differ
    for per_channel in (False, True):
        for static in (False, True):
            for dtype in DTYPES:
                ours = fp8_layer(n, k, per_channel, static, dtype, True)
                # vLLM 0.22.1 cannot load per-channel scales whose number is no multiple of 16.
                loads = not per_channel or n % 16 == 0
                theirs = fp8_layer(n, k, per_channel, static, dtype, False) if loads else None
                x = torch.randn(257, k, device="cuda").to(dtype)
                alone = ours(x[:1])
                for m in BATCHES:
                    first = ours(x[:m])
                    last = ours(torch.cat([x[1:m], x[:1]]))
                    count.add(first[:1], alone)
                    count.add(last[m - 1 :], alone)
                    if theirs:
                        count.add(first, theirs(x[:m]))
    print(f"layer N {n:6} K {k:5}: {count.differ - before} differ", flush=True)


@torch.inference_mode()
def main() -> int:
    torch.manual_seed(0)
    subprocess.run([sys.executable, "-c", FORKABLE], check=True)
    plugin.register()
    count, control = Count(), Count()
    for shape in C3 + NEEDLE:
        compare_op(shape, count, control)
    with set_current_vllm_config(VllmConfig()):
        for n, k in LAYERS:
            compare_layer(n, k, count)
    print(f"control, Order hopper-promoted: {control.differ} of {control.outputs} differ")
    print(f"{len(C3 + NEEDLE)} shapes of the op, {len(LAYERS)} of the layer")
    print(f"{count.outputs} outputs, {count.differ} differ")
    return 1 if count.differ or not control.differ else 0


if __name__ == "__main__":
    sys.exit(main())
