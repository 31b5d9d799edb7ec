"""How a layer computes: one function for each route, and the gradient that they share. Called by linear.

Every route is batch invariant: a row's bits depend on that row alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import ops
from .weights import BLOCK, dequantized, pad, round_up

DIRECT = "direct FP8"
BLOCK_SCALED = "block-scaled"
WEIGHT_ONLY = "weight-only"
FALLBACK = "BF16 fallback"


def direct(
    x: Tensor, weight: Tensor, scale: Tensor, input_scale: Tensor | None, bias: Tensor | None, n: int, order: str,
    out_dtype: torch.dtype, overlap: str,
) -> Tensor:  # fmt: skip
    """``cast(scale[n] * (scale_x[m] * acc) [+ bias])`` of e4m3 activations and weight. x [M, K] -> [M, n].

    weight [Np, Kp], scale [1] or [Np] and bias [Np] are padded to multiples of 16; the quantizer pads the activations.
    """
    if input_scale is None:
        q, scale_x = ops.quantize_per_token(x, None, weight.shape[1])
    else:
        q, scale_x = ops.quantize_static(x, input_scale, weight.shape[1]), input_scale
    out = ops.scaled_mm(q, weight.t(), scale_x, scale, bias, out_dtype, order, overlap)
    return out if out.shape[1] == n else out[:, :n].contiguous()


def block_scaled(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, n: int, order: str, out_dtype: torch.dtype,
    overlap: str,
) -> Tensor:  # fmt: skip
    """Activations in groups of 128 along K, weight in 128 x 128 blocks: :func:`samebits.block_scaled_mm`.

    x [M, K] -> [M, n]. weight [Np, Kp] and bias [Np] are padded to multiples of 16, which starts no new block.
    """
    q, scale_x = ops.quantize_per_group(x, weight.shape[1])
    out = ops.block_scaled_mm(q, weight.t(), scale_x, scale, bias, out_dtype, order, overlap)
    return out if out.shape[1] == n else out[:, :n].contiguous()


def half(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, n: int, order: str, out_dtype: torch.dtype
) -> Tensor:  # fmt: skip
    """Weight-only and the BF16 fallback, one definition: ``cast(scale[n] * acc [+ bias])`` of 16-bit activations and an
    e4m3 weight, which is exact in 16 bits, widened in the main loop or before. x [M, K] -> [M, n].

    weight [Np, Kp] e4m3, or bfloat16 / float16 holding its values; bias [Np]; scale [1] or [Np], or of 128 x 128 blocks
    [Kp / 128, Np]: ``total = sum over blocks j of scale[j, n] * acc_j`` in FP32, in the order of K, then bias and cast.
    """
    x = functional.pad(x.to(half_dtype(out_dtype)), (0, weight.shape[1] - x.shape[1]))
    if scale.dim() == 1:
        out = ops.invariant_linear(x, weight, bias, scale=scale, out_dtype=out_dtype, order=order)
        return out if out.shape[1] == n else out[:, :n].contiguous()
    total = None
    for j in range(scale.shape[0]):
        columns = slice(j * BLOCK, (j + 1) * BLOCK)
        part = ops.invariant_linear(
            x[:, columns], weight[:, columns], scale=scale[j], out_dtype=torch.float32, order=order
        )
        total = part if total is None else total + part
    return (total if bias is None else total + bias.to(torch.float32))[:, :n].to(out_dtype)


def half_dtype(out_dtype: torch.dtype) -> torch.dtype:
    """What weight-only and the fallback compute in: the output's dtype if that has 16 bits, else bfloat16."""
    return torch.float16 if out_dtype == torch.float16 else torch.bfloat16


def half_operands(weight: Tensor, scale: Tensor, widen: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """What `half` needs of a [N, K] e4m3 weight and its scale: padded, the weight in the dtype ``widen`` if given."""
    n, k = weight.shape
    rows = round_up(n, 16)
    weight = weight if widen is None else weight.to(widen)
    if scale.dim() == 2:
        per_row = scale.repeat_interleave(BLOCK, 0)[:n].t()
        return pad(weight, rows, round_up(k, BLOCK)), pad(per_row.contiguous(), scale.shape[1], rows)
    if scale.numel() > 1:
        scale = pad(scale.reshape(1, -1), 1, rows).reshape(-1)
    return pad(weight, rows, round_up(k, 16)), scale


class StraightThrough(torch.autograd.Function):
    """The forward of a route with a gradient: in BF16 through the dequantized weight, straight through the quantizers.

    ``grad_x = bf16(grad) @ bf16(weight)``, ``grad_master = bf16(grad).T @ bf16(x)``, ``grad_bias = sum of grad``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, master: Tensor | None, bias: Tensor | None, first: Tensor, second: Tensor,
        input_scale: Tensor | None, route: str, n: int, order: str, out_dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x if master is not None else None, first, second)
        ctx.dtypes = (x.dtype, None if master is None else master.dtype, None if bias is None else bias.dtype)
        ctx.weight = (route, n, x.shape[1])
        return compute(route, x, (first, second), input_scale, bias, n, order, out_dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first, second = ctx.saved_tensors
        x_dtype, master_dtype, bias_dtype = ctx.dtypes
        narrow = grad.to(torch.bfloat16)
        grad_x = grad_master = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = (narrow @ weight_of(*ctx.weight, first, second)).to(x_dtype)
        if ctx.needs_input_grad[1]:
            grad_master = (narrow.t() @ x.to(torch.bfloat16)).to(master_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.to(torch.float32).sum(0).to(bias_dtype)
        return grad_x, grad_master, grad_bias, None, None, None, None, None, None, None


def weight_of(route: str, n: int, k: int, first: Tensor, second: Tensor) -> Tensor:
    """The [n, k] weight in bfloat16 from the operands of a route."""
    if route in (FALLBACK, WEIGHT_ONLY) and second.dim() == 2:
        scale = second.t()[:n].repeat_interleave(BLOCK, 1)[:, :k]
        return (first[:n, :k].to(torch.float32) * scale).to(torch.bfloat16)
    return dequantized(first, second, n, k)


def operands_of(
    route: str, weight: Tensor, scale: Tensor, widen: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `compute` needs of a [N, K] weight and its scale: padded or transposed, once. widen: see `half_operands`."""
    n, k = weight.shape
    rows = round_up(n, 16)
    if route in (FALLBACK, WEIGHT_ONLY):
        return half_operands(weight, scale, widen)
    if route == DIRECT and scale.numel() > 1:
        scale = pad(scale.reshape(1, -1), 1, rows).reshape(-1)
    return pad(weight, rows, round_up(k, 16)), scale


def compute(
    route: str, x: Tensor, operands: tuple[Tensor, Tensor], input_scale: Tensor | None, bias: Tensor | None, n: int,
    order: str, out_dtype: torch.dtype, overlap: str = "launch",
) -> Tensor:  # fmt: skip
    """The forward of a route. x [M, K], bias [n] -> [M, n] of ``out_dtype``. overlap: see ops.scaled_mm."""
    if bias is not None:
        bias = bias.to(out_dtype)
        if n != operands[0].shape[0]:
            bias = functional.pad(bias, (0, operands[0].shape[0] - n))
    if route in (FALLBACK, WEIGHT_ONLY):
        return half(x, operands[0], operands[1], bias, n, order, out_dtype)
    if route == BLOCK_SCALED:
        return block_scaled(x, operands[0], operands[1], bias, n, order, out_dtype, overlap)
    return direct(x, operands[0], operands[1], input_scale, bias, n, order, out_dtype, overlap)
