"""What lies between two FP8 linear layers, in one pass over memory: RMSNorm or SiLU * mul, then FP8 per token.

Each ``..._quantize`` has the bits of the op without it followed by :func:`samebits.quantize_per_token`, and every op
the same bits on CPU and CUDA, for every batch. The roundings are those of transformers' Llama and Qwen modules; the
order of the sum and the exponential are those of ``docs/contract.md``. All ops are functional; on CUDA elements of a
row must be adjacent.
"""

import torch
from torch import Tensor

from .fakes import per_group, per_token


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """``cast(cast(x / rms(x)) * weight)``, ``rms(x) = sqrt(mean(x**2) + eps)`` over each row.

    Args:
        x: [M, K] bfloat16, float16 or float32.
        weight: [K] of the dtype of x.

    Returns:
        [M, K] of the dtype of x.

    Raises:
        RuntimeError: shapes, dtypes or strides, with the numbers.
    """
    return torch.ops.samebits.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """``h = cast(x + residual)`` and :func:`rms_norm` of h.

    Args:
        x, residual: [M, K] bfloat16, float16 or float32.
        weight: [K] of the dtype of x.

    Returns:
        The norm and h, both [M, K] of the dtype of x.
    """
    return torch.ops.samebits.add_rms_norm(x, residual, weight, eps)


def rms_norm_quantize(
    x: Tensor, weight: Tensor, eps: float = 1e-6, scale_ub: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``quantize_per_token(rms_norm(x, weight, eps), scale_ub)``.

    Returns:
        q [M, K] float8_e4m3fn and scale [M, 1] float32.
    """
    return torch.ops.samebits.rms_norm_quantize(x, weight, eps, scale_ub)


def add_rms_norm_quantize(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6, scale_ub: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`add_rms_norm` with its norm quantized.

    Returns:
        q [M, K] float8_e4m3fn, scale [M, 1] float32 and h [M, K] of the dtype of x.
    """
    return torch.ops.samebits.add_rms_norm_quantize(x, residual, weight, eps, scale_ub)


def silu_mul(x: Tensor) -> Tensor:
    """``cast(cast(g / (1 + exp(-g))) * u)`` of ``x = [g | u]``.

    Args:
        x: [M, 2K] bfloat16, float16 or float32.

    Returns:
        [M, K] of the dtype of x.

    Raises:
        RuntimeError: an odd number of columns, and as above.
    """
    return torch.ops.samebits.silu_mul(x)


def silu_mul_quantize(x: Tensor, scale_ub: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``quantize_per_token(silu_mul(x), scale_ub)``.

    Returns:
        q [M, K] float8_e4m3fn and scale [M, 1] float32.
    """
    return torch.ops.samebits.silu_mul_quantize(x, scale_ub)


def rms_norm_quantize_per_group(
    x: Tensor, weight: Tensor, eps: float = 1e-6, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """``quantize_per_group(rms_norm(x, weight, eps), power_of_two=power_of_two)``.

    Returns:
        q [M, K] float8_e4m3fn and scale [M, ceil(K / 128)] float32, tokens fastest.
    """
    return torch.ops.samebits.rms_norm_quantize_per_group(x, weight, eps, power_of_two)


def add_rms_norm_quantize_per_group(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`add_rms_norm` with its norm quantized in groups.

    Returns:
        q [M, K] float8_e4m3fn, scale [M, ceil(K / 128)] float32, tokens fastest, and h [M, K] of the dtype of x.
    """
    return torch.ops.samebits.add_rms_norm_quantize_per_group(x, residual, weight, eps, power_of_two)


def silu_mul_quantize_per_group(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """``quantize_per_group(silu_mul(x), power_of_two=power_of_two)``.

    Returns:
        q [M, K] float8_e4m3fn and scale [M, ceil(K / 128)] float32, tokens fastest.
    """
    return torch.ops.samebits.silu_mul_quantize_per_group(x, power_of_two)


@torch.library.register_fake("samebits::rms_norm")
def _(x, weight, eps):
    return x.new_empty(x.shape)


@torch.library.register_fake("samebits::add_rms_norm")
def _(x, residual, weight, eps):
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.register_fake("samebits::rms_norm_quantize")
def _(x, weight, eps, scale_ub=None):
    return per_token(x, x.shape[1])


@torch.library.register_fake("samebits::add_rms_norm_quantize")
def _(x, residual, weight, eps, scale_ub=None):
    return *per_token(x, x.shape[1]), x.new_empty(x.shape)


@torch.library.register_fake("samebits::silu_mul")
def _(x):
    return x.new_empty((x.shape[0], x.shape[1] // 2))


@torch.library.register_fake("samebits::silu_mul_quantize")
def _(x, scale_ub=None):
    return per_token(x, x.shape[1] // 2)


@torch.library.register_fake("samebits::rms_norm_quantize_per_group")
def _(x, weight, eps, power_of_two=False):
    return per_group(x, x.shape[1], x.shape[1])


@torch.library.register_fake("samebits::add_rms_norm_quantize_per_group")
def _(x, residual, weight, eps, power_of_two=False):
    return *per_group(x, x.shape[1], x.shape[1]), x.new_empty(x.shape)


@torch.library.register_fake("samebits::silu_mul_quantize_per_group")
def _(x, power_of_two=False):
    return per_group(x, x.shape[1] // 2, x.shape[1] // 2)
