"""FP8 weights as checkpoints store them -> as the layers use them. Called by linear, routes, convert, huggingface."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from . import ops

BLOCK = 128
"""Edge of a weight block of DeepSeek's layout: scales are [ceil(N / 128), ceil(K / 128)]."""


def check_weight(weight: Tensor, name: str) -> None:
    """Raises ValueError, with the name, where :func:`quantize` cannot take the weight."""
    if weight.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"{name} is {weight.dtype}; it must be bfloat16, float16 or float32")
    if weight.is_meta:
        return
    bad = ~torch.isfinite(weight)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(f"{name}[{row},{column}] is {weight[row, column].item()}")


def quantize(weight: Tensor, scales: str) -> tuple[Tensor, Tensor]:
    """A [N, K] weight in bf16, fp16 or fp32 as FP8 and its scales of the form "tensor", "channel" or "block"."""
    if scales == "block":
        return ops.quantize_weight_blocks(weight)
    return ops.quantize_weight(weight, scales == "channel")


def no_static_scale(shape: Sequence[int]) -> str:
    """Why a layer with these block scales takes no input_scale."""
    return f"weight_scale {list(shape)}: block scales have dynamic activations in groups of 128, no input_scale"


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def pad(t: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix ``t`` with zeros below and to the right; ``t`` itself where nothing is missing."""
    if tuple(t.shape) == (rows, columns):
        return t
    widths = (0, columns - t.shape[1], 0, rows - t.shape[0])
    return (
        functional.pad(t.view(torch.uint8), widths).view(t.dtype)
        if t.element_size() == 1
        else functional.pad(t, widths)
    )


def is_block_scale(scale: Tensor, n: int, k: int) -> bool:
    """Whether ``scale`` has the shape of one value for each 128 x 128 block of a [n, k] weight."""
    return scale.dim() == 2 and tuple(scale.shape) == (-(-n // BLOCK), -(-k // BLOCK))


def normal_scale(
    scale: Tensor,
    n: int,
    k: int,
    widths: Sequence[int] | None = None,
    what: str = "weight_scale",
    blocks: bool = False,
) -> Tensor:
    """One of the three forms that layers keep: float32 [1], [n], or [ceil(n / 128), ceil(k / 128)].

    Args:
        scale: as on disk: a scalar, [1], [n], [n, 1], blocks, or one value for each part of a fused layer.
        widths: rows of each part of a fused layer (QKV, gate-up), in order. Their scales become a per-channel vector,
            which is exact.
        what: how errors call the scale.
        blocks: the checkpoint says that the scale is of blocks: a weight of one block, whose scale is [1, 1], looks
            like one with a scale for all of it, and has other bits.

    Raises:
        ValueError: another shape, or a scale that is NaN, infinite or negative (a checkpoint's "not loaded" mark).
    """
    scale = scale.to(torch.float32)
    if not scale.is_meta and not bool((torch.isfinite(scale) & (scale >= 0)).all()):
        raise ValueError(f"{what} holds a value that is NaN, infinite or negative: {scale.flatten()[:4].tolist()} ...")
    if blocks and is_block_scale(scale, n, k):
        return scale.contiguous()
    if scale.numel() == 1:
        return scale.reshape(1)
    if scale.numel() == n and (scale.dim() == 1 or tuple(scale.shape) == (n, 1)):
        return scale.reshape(n).contiguous()
    if is_block_scale(scale, n, k):
        return scale.contiguous()
    if widths is not None and scale.numel() == len(widths):
        if sum(widths) != n:
            raise ValueError(f"the parts {list(widths)} have {sum(widths)} rows, the fused weight has {n}")
        repeats = torch.tensor(list(widths), device=scale.device)
        return scale.reshape(-1).repeat_interleave(repeats, output_size=n)
    raise ValueError(
        f"{what} has shape {list(scale.shape)} for a weight [{n}, {k}]: it must be one value, {n} values, blocks "
        f"[{-(-n // BLOCK)}, {-(-k // BLOCK)}], or one value for each part of a fused layer (widths={widths})"
    )


def requantize(weight: Tensor, scales: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What vLLM makes of a fused layer: one scale, the largest, and all parts quantized again with it. Lossy.

    ``part = e4m3(fp16(q * fp16(scale)) * (1 / largest))``: vLLM dequantizes in fp16, where its GPU multiplication
    rounds the scale to fp16 too, and quantizes with its static form.

    Args:
        weight: [N, K] float8_e4m3fn. scales: float32, one for each part. widths: rows of each part.

    Returns:
        weight [N, K] float8_e4m3fn and scale [1] float32.
    """
    scales = scales.to(torch.float32).reshape(-1)
    largest = scales.max().reshape(1)
    parts, start = [], 0
    for scale, width in zip(scales, widths, strict=True):
        part = weight[start : start + width].to(torch.float32) * scale.to(torch.float16).to(torch.float32)
        parts.append(ops.quantize_static(part.to(torch.float16), largest))
        start += width
    return torch.cat([part.view(torch.uint8) for part in parts]).view(torch.float8_e4m3fn), largest


def dequantized(weight: Tensor, scale: Tensor, n: int, k: int) -> Tensor:
    """``bfloat16(q * scale)`` of a [n, k] weight, the product in FP32. On any device, with torch's own ops.

    Args:
        weight: at least [n, k] float8. scale: a form of :func:`normal_scale`, perhaps padded.
    """
    if scale.dim() == 2:
        scale = scale.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]
    else:
        scale = scale[: n if scale.numel() > 1 else 1].reshape(-1, 1)
    return (weight[:n, :k].to(torch.float32) * scale).to(torch.bfloat16)
