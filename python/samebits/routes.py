"""How a layer computes: one function for each route, and the gradient that they share. Called by linear.

Every route is batch invariant: a row's bits depend on that row alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import ops
from .weights import dequantized, pad, round_up

DIRECT = "direct FP8"
BLOCK_SCALED = "block-scaled"
WEIGHT_ONLY = "weight-only"
FALLBACK = "BF16 fallback"


def direct(
    x: Tensor, weight: Tensor, scale: Tensor, input_scale: Tensor | None, bias: Tensor | None, n: int, order: str,
    out_dtype: torch.dtype, weight_ready: bool,
) -> Tensor:  # fmt: skip
    """``cast(scale[n] * (scale_x[m] * acc) [+ bias])`` of e4m3 activations and weight. x [M, K] -> [M, n].

    weight [Np, Kp], scale [1] or [Np] and bias [Np] are padded to multiples of 16; the quantizer pads the activations.
    """
    if input_scale is None:
        q, scale_x = ops.quantize_per_token(x, None, weight.shape[1])
    else:
        q, scale_x = ops.quantize_static(x, input_scale, weight.shape[1]), input_scale
    out = ops.scaled_mm(q, weight.t(), scale_x, scale, bias, out_dtype, order, weight_ready)
    return out if out.shape[1] == n else out[:, :n].contiguous()


def block_scaled(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, n: int, order: str, out_dtype: torch.dtype,
    weight_ready: bool,
) -> Tensor:  # fmt: skip
    """Activations in groups of 128 along K, weight in 128 x 128 blocks: :func:`samebits.block_scaled_mm`.

    x [M, K] -> [M, n]. weight [Np, Kp] and bias [Np] are padded to multiples of 16, which starts no new block.
    """
    q, scale_x = ops.quantize_per_group(x, weight.shape[1])
    out = ops.block_scaled_mm(q, weight.t(), scale_x, scale, bias, out_dtype, order, weight_ready)
    return out if out.shape[1] == n else out[:, :n].contiguous()


@torch.library.custom_op("samebits::linear_by_row", mutates_args=())
def linear_by_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` in bfloat16, one row at a time: each row is the same call, so no row can see another.

    x [M, K] bfloat16, weight [N, K] bfloat16, bias [N] bfloat16 -> [M, N] bfloat16. Slow, and meant to be correct.
    """
    out = x.new_empty((x.shape[0], weight.shape[0]))
    row = x.new_empty((1, x.shape[1]))  # one address, hence one alignment, for every row
    for m in range(x.shape[0]):
        row.copy_(x[m : m + 1])
        out[m : m + 1] = functional.linear(row, weight, bias)
    return out


@linear_by_row.register_fake
def _(x, weight, bias):
    return x.new_empty((x.shape[0], weight.shape[0]))


def by_row(x: Tensor, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """The BF16 fallback and, until it has a kernel, weight-only. weight [N, K] bfloat16, dequantized at preparation."""
    bias = None if bias is None else bias.to(torch.bfloat16)
    return torch.ops.samebits.linear_by_row(x.to(torch.bfloat16), weight, bias).to(out_dtype)


class StraightThrough(torch.autograd.Function):
    """The forward of a route with a gradient: in BF16 through the dequantized weight, straight through the quantizers.

    ``grad_x = bf16(grad) @ bf16(weight)``, ``grad_master = bf16(grad).T @ bf16(x)``, ``grad_bias = sum of grad``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, master: Tensor | None, bias: Tensor | None, first: Tensor, second: Tensor | None,
        input_scale: Tensor | None, route: str, n: int, order: str, out_dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x if master is not None else None, first, second)
        ctx.dtypes = (x.dtype, None if master is None else master.dtype, None if bias is None else bias.dtype)
        ctx.weight = (n, x.shape[1])
        operands = (first,) if second is None else (first, second)
        return compute(route, x, operands, input_scale, bias, n, order, out_dtype)

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


def weight_of(n: int, k: int, first: Tensor, second: Tensor | None) -> Tensor:
    """The [n, k] weight in bfloat16 from the operands of a route."""
    return first if second is None else dequantized(first, second, n, k)


def operands_of(route: str, weight: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """What `compute` needs of a [N, K] weight and its scale: padded, transposed or dequantized, once."""
    n, k = weight.shape
    rows = round_up(n, 16)
    if route in (FALLBACK, WEIGHT_ONLY):
        return (dequantized(weight, scale, n, k),)
    if route == DIRECT and scale.numel() > 1:
        scale = pad(scale.reshape(1, -1), 1, rows).reshape(-1)
    return pad(weight, rows, round_up(k, 16)), scale


def compute(
    route: str, x: Tensor, operands: tuple[Tensor, ...], input_scale: Tensor | None, bias: Tensor | None, n: int,
    order: str, out_dtype: torch.dtype, weight_ready: bool = False,
) -> Tensor:  # fmt: skip
    """The forward of a route. x [M, K], bias [n] -> [M, n] of ``out_dtype``. weight_ready: see ops.scaled_mm."""
    if route in (FALLBACK, WEIGHT_ONLY):
        return by_row(x, operands[0], bias, out_dtype)
    if bias is not None:
        bias = bias.to(out_dtype)
        if n != operands[0].shape[0]:
            bias = functional.pad(bias, (0, operands[0].shape[0] - n))
    if route == BLOCK_SCALED:
        return block_scaled(x, operands[0], operands[1], bias, n, order, out_dtype, weight_ready)
    return direct(x, operands[0], operands[1], input_scale, bias, n, order, out_dtype, weight_ready)
