"""The kernel class that vLLM's FP8 linear layers run, and its place in vLLM's lists. Imported only inside vLLM."""

from collections.abc import Sequence

import torch
import vllm.envs as envs
import vllm.model_executor.kernels.linear as linear
from torch import Tensor
from vllm.logger import init_logger
from vllm.model_executor.kernels.linear.scaled_mm import CutlassFP8ScaledMMLinearKernel, FP8ScaledMMLinearLayerConfig
from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape
from vllm.platforms import PlatformEnum

import samebits

from . import not_covered

ORDER = "hopper-fast"
"""What vLLM's own batch-invariant kernel computes on Hopper."""

logger = init_logger("vllm.samebits")  # vLLM prints the loggers below "vllm" only
_WEIGHT_SHAPES = (GroupShape.PER_TENSOR, GroupShape.PER_CHANNEL, GroupShape.PER_TOKEN)  # per token: [N, 1]
_quantizer = "vllm"
OVERLAP = {"vllm": "none", "samebits": "weight"}
"""How the GEMM may start, by who quantizes: vLLM's quantizers never let the next kernel start early, so there is nothing
to overlap."""
_linears = False


def quantize(x: Tensor, scale: Tensor | None, scale_ub: Tensor | None) -> tuple[Tensor, Tensor]:
    """samebits' quantizers behind the call of vLLM's QuantFP8: static with a scale, else per token."""
    if scale is not None:
        return torch.ops.samebits.quantize_static(x, scale), scale
    return torch.ops.samebits.quantize_per_token(x, scale_ub)


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
        try:
            samebits.kernel("cuda", ORDER, 16, 16, 16)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            logger.warning_once("samebits is not used: %s", reason)
            return False, reason
        return True, None

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
        # "weight" is right: B was written at loading, never by the kernel before this one.
        out = torch.ops.samebits.scaled_mm(A, B, As, Bs, bias, out_dtype, ORDER, OVERLAP[_quantizer])
        return out[:, :n].reshape(*output_shape[:-1], n)


def _cache_key() -> str:
    linears = "linears " if _linears else ""
    return f"{samebits.__version__} {ORDER} {_quantizer} {linears}{samebits.rules_digest() or 'no rules'}"


def install(quantizer: str, linears_too: bool) -> None:
    """Puts the class first in vLLM's list for CUDA, and into the keys of its compile cache. Safe to run again.

    linears_too: also take over the unquantized linears, if the GPU has kernels for them.
    """
    global _quantizer, _linears
    _quantizer = quantizer
    if linears_too:
        from .linear import install as install_linears

        _linears = install_linears()
    cls = SamebitsFP8ScaledMMLinearKernel
    kernels = linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CUDA]
    first = cls not in kernels
    kernels[:] = [cls, *(kernel for kernel in kernels if kernel is not cls)]
    linear._LINEAR_BACKEND_KERNEL_MAP["cutlass"].add(cls)  # --linear-backend=cutlass filters by this map
    # vLLM's compile cache knows no plugins: without an entry of ours it would run a graph compiled without samebits.
    envs.environment_variables["SAMEBITS_VLLM_KERNEL"] = _cache_key
    if first:
        missing = "; ".join(not_covered(_linears))
        logger.info_once("samebits %s is first for FP8 linears. Not covered: %s.", samebits.__version__, missing)
