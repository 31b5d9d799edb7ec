"""What torch.compile and autograd need to know of the ops in ops.py: shapes and dtypes of outputs, linear's gradient.

Imported by the package for its effect: each function registers itself with torch.
"""

import torch
from torch import Tensor

from .ops import BLOCK_ORDERS, FP8, GROUP, HALF_ORDERS


def _product(a, b, out_dtype):
    torch._check(a.dim() == 2 and b.dim() == 2, lambda: f"a is {list(a.shape)}, b is {list(b.shape)}: must be 2-D")
    torch._check(a.shape[1] == b.shape[0], lambda: f"a is {list(a.shape)} and b is {list(b.shape)}: their K differs")
    return a.new_empty((a.shape[0], b.shape[1]), dtype=out_dtype)


@torch.library.register_fake("samebits::scaled_mm")
def _(a, b, scale_a, scale_b, bias=None, out_dtype=torch.bfloat16, order="hopper-fast", overlap="launch"):
    return _product(a, b, out_dtype)


@torch.library.register_fake("samebits::block_scaled_mm")
def _(a, b, scale_a, scale_b, bias=None, out_dtype=torch.bfloat16, order=BLOCK_ORDERS[0], overlap="launch"):
    return _product(a, b, out_dtype)


@torch.library.register_fake("samebits::linear")
def _(x, weight, bias=None, scale=None, out_dtype=None, order=HALF_ORDERS[0], overlap="launch"):
    shapes = f"x is {list(x.shape)} and weight is {list(weight.shape)}"
    torch._check(x.dim() == 2 and weight.dim() == 2, lambda: f"{shapes}: both must be 2-D")
    torch._check(x.shape[1] == weight.shape[1], lambda: f"{shapes}: their K differs")
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=out_dtype or x.dtype)


def _save_for_linear(ctx, inputs, output):
    x, weight, bias, scale = inputs[:4]
    ctx.save_for_backward(x, weight, scale)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _linear_backward(ctx, grad):
    """``grad_x = half(grad) @ half(scale * weight)``, ``grad_weight = half(scale * grad).T @ x`` in the dtype of x."""
    x, weight, scale = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        full = weight if scale is None else weight.to(torch.float32) * scale.reshape(-1, 1)
        grad_x = grad.to(x.dtype) @ full.to(x.dtype)
    if ctx.needs_input_grad[1]:
        scaled = grad if scale is None else grad.to(torch.float32) * scale.reshape(1, -1)
        grad_weight = scaled.to(x.dtype).t() @ x
    if ctx.needs_input_grad[2]:
        grad_bias = grad.to(torch.float32).sum(0).to(ctx.bias_dtype)
    return grad_x, grad_weight, grad_bias, None, None, None, None


torch.library.register_autograd("samebits::linear", _linear_backward, setup_context=_save_for_linear)


@torch.library.register_fake("samebits::cutlass_scaled_mm")
def _(out, a, b, a_scales, b_scales, bias):
    return None


def per_token(x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """q [M, columns] and scale [M, 1] of a fake x."""
    return x.new_empty((x.shape[0], columns), dtype=FP8), x.new_empty((x.shape[0], 1), dtype=torch.float32)


def per_group(x: Tensor, columns: int, of: int) -> tuple[Tensor, Tensor]:
    """q [M, columns] of a fake x and the scales of the groups of [M, of], tokens fastest."""
    scale = x.new_empty((-(-of // GROUP), x.shape[0]), dtype=torch.float32).t()
    return x.new_empty((x.shape[0], columns), dtype=FP8), scale


@torch.library.register_fake("samebits::quantize_per_token")
def _(x, scale_ub=None):
    return per_token(x, x.shape[1])


@torch.library.register_fake("samebits::quantize_per_token_padded")
def _(x, columns, scale_ub=None):
    return per_token(x, columns)


@torch.library.register_fake("samebits::quantize_per_group")
def _(x, columns=None, power_of_two=False):
    return per_group(x, x.shape[1] if columns is None else columns, x.shape[1])


@torch.library.register_fake("samebits::quantize_weight_blocks")
def _(w):
    return w.new_empty(w.shape, dtype=FP8), w.new_empty(
        (-(-w.shape[0] // GROUP), -(-w.shape[1] // GROUP)), dtype=torch.float32
    )


@torch.library.register_fake("samebits::quantize_static")
def _(x, scale):
    return x.new_empty(x.shape, dtype=FP8)


@torch.library.register_fake("samebits::quantize_static_padded")
def _(x, scale, columns):
    return x.new_empty((x.shape[0], columns), dtype=FP8)


@torch.library.register_fake("samebits::quantize_weight")
def _(w, per_channel=True):
    return w.new_empty(w.shape, dtype=FP8), w.new_empty((w.shape[0] if per_channel else 1,), dtype=torch.float32)


@torch.library.register_fake("samebits::dequantize")
def _(q, scale, out_dtype):
    return q.new_empty(q.shape, dtype=out_dtype)
