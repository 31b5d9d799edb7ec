"""The kernel class that vLLM's FP8 linear layers run, and its place in vLLM's lists. Imported only inside vLLM."""

from collections.abc import Sequence

import torch
import vllm.envs as envs
import vllm.model_executor.kernels.linear as linear
from torch import Tensor
from vllm.logger import init_logger
from vllm.model_executor.kernels.linear.scaled_mm import CutlassFP8ScaledMMLinearKernel, FP8ScaledMMLinearLayerConfig
from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassFp8BlockScaledMMKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape
from vllm.platforms import PlatformEnum

import samebits

from . import not_covered, why_no_kernel

ORDER = "hopper-fast"
"""What vLLM's own batch-invariant kernel computes on Hopper."""
BLOCK_ORDER = "hopper-block128"
"""Of block-scaled layers: the sum of vLLM's CUTLASS block kernel and of DeepGEMM."""

logger = init_logger("vllm.samebits")  # vLLM prints the loggers below "vllm" only
_WEIGHT_SHAPES = (GroupShape.PER_TENSOR, GroupShape.PER_CHANNEL, GroupShape.PER_TOKEN)  # per token: [N, 1]
_quantizer = "vllm"
OVERLAP = {"vllm": "none", "samebits": "weight"}
"""How the GEMM may start, by who quantizes: vLLM's quantizers never let the next kernel start early, so there is nothing
to overlap. Behind samebits' own "weight" is right: the weight was written at loading, not by the quantizer."""
_linears = False


def quantize(x: Tensor, scale: Tensor | None, scale_ub: Tensor | None) -> tuple[Tensor, Tensor]:
    """samebits' quantizers behind the call of vLLM's QuantFP8: static with a scale, else per token."""
    if scale is not None:
        return torch.ops.samebits.quantize_static(x, scale), scale
    return torch.ops.samebits.quantize_per_token(x, scale_ub)


def quantize_groups(
    x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None, use_triton: bool = False
) -> tuple[Tensor, Tensor]:
    """The same for block-scaled layers: dynamic in groups of 128, token scales fastest."""
    return torch.ops.samebits.quantize_per_group(x)


def has_kernel(order: str) -> tuple[bool, str | None]:
    """Whether it has one, and the reason, logged once, where not: what vLLM's `is_supported` returns."""
    reason = why_no_kernel(order)
    if reason:
        logger.warning_once("samebits is not used: %s", reason)
    return reason is None, reason


class SamebitsFP8ScaledMMLinearKernel(CutlassFP8ScaledMMLinearKernel):
    """vLLM's CUTLASS kernel class with another GEMM: the same weights, padding and quantized activations go in.

    A subclass, because under VLLM_BATCH_INVARIANT vLLM's linear methods dequantize to BF16 for any other class.
    """

    def __init__(self, c: FP8ScaledMMLinearLayerConfig, layer_param_names: Sequence[str]) -> None:
        super().__init__(c, layer_param_names)
        if _quantizer == "samebits":
            self.quant_fp8 = quantize
        logger.info_once(
            "samebits computes FP8 linears with weights %s and activations %s (quantized by %s), Order %s.",
            str(c.weight_quant_key.scale),
            str(c.activation_quant_key.scale),
            _quantizer,
            ORDER,
        )

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        supported, reason = super().is_supported(compute_capability)
        if not supported:
            return supported, reason
        return has_kernel(ORDER)

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        activation, weight = c.activation_quant_key.scale, c.weight_quant_key.scale
        shape = activation.group_shape
        reason = None
        if not activation.static and shape.is_per_tensor():
            reason = "one dynamic activation scale for the whole batch: no row has one value"
        elif not (shape.is_per_tensor() if activation.static else shape.is_per_token()):
            reason = f"activations {activation}: static per tensor or dynamic per token are computed"
        elif weight.group_shape not in _WEIGHT_SHAPES:
            reason = f"weights {weight}: per tensor or per channel are computed"
        elif c.out_dtype not in (None, torch.bfloat16, torch.float16):
            reason = f"output in {c.out_dtype}: bfloat16 or float16 are computed"
        if reason:
            logger.warning_once("samebits does not cover FP8 linears with %s.", reason)
        return reason is None, reason

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """vLLM's padding of N and K to multiples of 16. Per-channel scales are padded here: vLLM 0.22.1 stops at an
        assertion, because it puts the loader of the padded scales on the weight."""
        weight_name, scale_name = self.layer_param_names[:2]
        scale, pad = getattr(layer, scale_name), -getattr(layer, weight_name).shape[1] % 16
        if pad == 0 or scale.numel() == 1:
            super().process_weights_after_loading(layer)
            return
        delattr(layer, scale_name)
        super().process_weights_after_loading(layer)
        padded = torch.nn.functional.pad(scale.detach().reshape(-1), (0, pad), value=1.0).view(-1, *scale.shape[1:])
        padded = torch.nn.Parameter(padded, requires_grad=False)
        padded.weight_loader = self.padded_weight_loader
        setattr(layer, scale_name, padded)

    def apply_scaled_mm(
        self,
        *,
        A: Tensor,
        B: Tensor,
        out_dtype: torch.dtype,
        As: Tensor,
        Bs: Tensor,
        bias: Tensor | None,
        output_shape: list[int],
    ) -> Tensor:
        """``[M, K] x [K, N]``, where B and Bs were padded to multiples of 16 after loading, A and bias are not yet."""
        n = self.logical_output_size
        if B.shape[0] > A.shape[1]:
            A = self._pad_to_alignment(A, dim=1, alignment=16)
        if bias is not None and B.shape[1] > n:
            bias = self._pad_to_alignment(bias, dim=0, alignment=16)
        out = torch.ops.samebits.scaled_mm(A, B, As, Bs, bias, out_dtype, ORDER, OVERLAP[_quantizer])
        return out[:, :n].reshape(*output_shape[:-1], n)


class SamebitsFp8BlockScaledMMKernel(CutlassFp8BlockScaledMMKernel):
    """vLLM's CUTLASS block kernel class with another GEMM: no padding of M, no choice that depends on it.

    vLLM adds a bias after the cast to the output's dtype, and so does this.
    """

    def __init__(self, config: FP8ScaledMMLinearLayerConfig) -> None:
        super().__init__(config)
        if _quantizer == "samebits":
            self.quant_fp8 = quantize_groups
        logger.info_once(
            "samebits computes FP8 linears with weights %s and activations %s (quantized by %s), Order %s.",
            str(config.weight_quant_key.scale),
            str(config.activation_quant_key.scale),
            _quantizer,
            BLOCK_ORDER,
        )

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        supported, reason = super().is_supported(compute_capability)
        if not supported:
            return supported, reason
        return has_kernel(BLOCK_ORDER)

    @classmethod
    def can_implement(cls, config: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        reason = None
        if config.weight_quant_key.scale.group_shape != GroupShape(128, 128):
            reason = f"weights {config.weight_quant_key.scale}: blocks of 128 x 128 are computed"
        elif any(extent % 16 for extent in config.weight_shape):
            reason = f"block scales and a weight {list(config.weight_shape)}: multiples of 16 are computed"
        elif config.out_dtype not in (None, torch.bfloat16, torch.float16):
            reason = f"output in {config.out_dtype}: bfloat16 or float16 are computed"
        if reason is None:
            covered, reason = super().can_implement(config)
            reason = None if covered else reason
        if reason:
            logger.warning_once("samebits does not cover FP8 linears with %s.", reason)
        return reason is None, reason

    def apply_block_scaled_mm(self, A: Tensor, B: Tensor, As: Tensor, Bs: Tensor) -> Tensor:
        """``[M, K] x [N, K]``: As [M, K / 128] with M fastest, Bs [ceil(N / 128), K / 128]."""
        out_dtype = self.config.out_dtype or torch.bfloat16
        return torch.ops.samebits.block_scaled_mm(A, B.t(), As, Bs, None, out_dtype, BLOCK_ORDER, OVERLAP[_quantizer])


def _cache_key() -> str:
    linears = "linears " if _linears else ""
    rules = samebits.rules_digest() or "no rules"
    return f"{samebits.__version__} {ORDER} {BLOCK_ORDER} {_quantizer} {linears}{rules}"


def install(quantizer: str, linears_too: bool) -> None:
    """Puts the classes first in vLLM's lists for CUDA, and into the keys of its compile cache. Safe to run again.

    Does not touch the GPU: vLLM calls it also in the process that it forks its workers from.

    linears_too: also take over the unquantized linears, which ask for the GPU's kernels when the first of them runs.
    """
    global _quantizer, _linears
    _quantizer, _linears = quantizer, linears_too
    if linears_too:
        from .linear import install as install_linears

        install_linears()
    first = SamebitsFP8ScaledMMLinearKernel not in linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CUDA]
    for cls, lists in (
        (SamebitsFP8ScaledMMLinearKernel, linear._POSSIBLE_FP8_KERNELS),
        (SamebitsFp8BlockScaledMMKernel, linear._POSSIBLE_FP8_BLOCK_KERNELS),
    ):
        kernels = lists[PlatformEnum.CUDA]
        kernels[:] = [cls, *(kernel for kernel in kernels if kernel is not cls)]
        linear._LINEAR_BACKEND_KERNEL_MAP["cutlass"].add(cls)  # --linear-backend=cutlass filters by this map
    # vLLM's compile cache knows no plugins: without an entry of ours it would run a graph compiled without samebits.
    envs.environment_variables["SAMEBITS_VLLM_KERNEL"] = _cache_key
    if first:
        missing = "; ".join(not_covered(_linears))
        logger.info_once("samebits %s is first for FP8 linears. Not covered: %s.", samebits.__version__, missing)
