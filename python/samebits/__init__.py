"""FP8 linear layers whose output bits never depend on the batch.

One output row has one defined value: it depends on its own activation row, the weight, the scales, the bias and the
Order, never on how many other rows are computed with it. ``docs/contract.md`` defines the value of every bit.

Ops (CPU and CUDA, same bits): :func:`scaled_mm`, :func:`cutlass_scaled_mm`, :func:`quantize_per_token`,
:func:`quantize_static`, :func:`quantize_weight`, :func:`dequantize`; with block scales :func:`block_scaled_mm`,
:func:`quantize_per_group`, :func:`quantize_weight_blocks`; in bf16 or fp16 :func:`invariant_linear`; between two linear
layers :func:`rms_norm_quantize`, :func:`add_rms_norm_quantize`, :func:`silu_mul_quantize` and the three without a
quantizer; :func:`load_rules` takes kernels measured on your GPU,
:func:`load_certificate` the proof that all of them agree. Modules: :class:`Fp8Linear`, :class:`InvariantLinear`,
:func:`convert`, :func:`calibrate`, :func:`explain`. Hugging Face: :class:`SamebitsConfig` (needs transformers >= 5);
importing samebits is enough for ``from_pretrained`` to know folders that it saved.
"""

from typing import Any

from . import fakes as _fakes
from . import lazy as _lazy
from .convert import calibrate, convert, explain
from .fused import (
    add_rms_norm,
    add_rms_norm_quantize,
    add_rms_norm_quantize_per_group,
    rms_norm,
    rms_norm_quantize,
    rms_norm_quantize_per_group,
    silu_mul,
    silu_mul_quantize,
    silu_mul_quantize_per_group,
)
from .invariant import InvariantLinear
from .linear import Fp8Linear
from .ops import (
    BLOCK_ORDERS,
    HALF_ORDERS,
    ORDERS,
    block_scaled_mm,
    cutlass_scaled_mm,
    dequantize,
    fp8_order,
    half_order,
    invariant_linear,
    kernel,
    load_certificate,
    load_rules,
    quantize_per_group,
    quantize_per_token,
    quantize_static,
    quantize_weight,
    quantize_weight_blocks,
    rules_digest,
    scaled_mm,
)

__version__ = "0.1.0"
__all__ = [
    "BLOCK_ORDERS",
    "HALF_ORDERS",
    "ORDERS",
    "Fp8Linear",
    "InvariantLinear",
    "SamebitsConfig",
    "add_rms_norm",
    "add_rms_norm_quantize",
    "add_rms_norm_quantize_per_group",
    "block_scaled_mm",
    "calibrate",
    "convert",
    "cutlass_scaled_mm",
    "dequantize",
    "explain",
    "fp8_order",
    "half_order",
    "invariant_linear",
    "kernel",
    "load_certificate",
    "load_rules",
    "quantize_per_group",
    "quantize_per_token",
    "quantize_static",
    "quantize_weight",
    "quantize_weight_blocks",
    "rms_norm",
    "rms_norm_quantize",
    "rms_norm_quantize_per_group",
    "rules_digest",
    "scaled_mm",
    "silu_mul",
    "silu_mul_quantize",
    "silu_mul_quantize_per_group",
]


def fuse_vllm(graph: Any) -> None:
    """Pass for vLLM's ``inductor_passes``, see docs/vllm.md. Here because vLLM looks in the top-level package only."""
    from .vllm.fusion import fuse

    fuse(graph)


def __getattr__(name: str) -> Any:
    if name == "SamebitsConfig":  # transformers takes seconds to import: only when asked for
        from .huggingface import SamebitsConfig

        return SamebitsConfig
    raise AttributeError(f"module 'samebits' has no attribute {name!r}")


_lazy.register()
