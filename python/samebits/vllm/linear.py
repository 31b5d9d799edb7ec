"""What vLLM's unquantized linears and lm_head run with batch invariance. Imported only inside vLLM.

vLLM 0.22.1 has one function for them, ``linear_batch_invariant`` in ``batch_invariant.py``. ``linear.py`` and
``vocab_parallel_embedding.py`` import it by name, and on GPUs of compute capability 8.x ``enable_batch_invariant_mode``
makes it ``aten::linear`` as well (elsewhere vLLM leaves ``aten::linear`` to cuBLAS without split-K).
"""

import sys

import torch
import vllm.model_executor.layers.batch_invariant as batch_invariant
from torch import Tensor
from vllm.logger import init_logger

import samebits

from ..ops import offset, rows_of
from . import why_no_kernel

ORDER = samebits.HALF_ORDERS[0]
NAME = "linear_batch_invariant"
USERS = ("vllm.model_executor.layers.linear", "vllm.model_executor.layers.vocab_parallel_embedding")
"""Modules that hold the function by name; those imported later find ours in batch_invariant."""

logger = init_logger("vllm.samebits")
_theirs = getattr(batch_invariant, NAME)
_served: bool | None = None


def covers(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether samebits computes it: by dtypes and the weight alone, so that no row's bits depend on the batch."""
    return (
        weight.dtype in (torch.bfloat16, torch.float16)
        and x.dtype == weight.dtype
        and weight.dim() == 2
        and weight.shape[0] % 8 == 0
        and weight.shape[1] % 8 == 0
        and weight.stride(1) == 1
        and weight.stride(0) % 8 == 0
        and offset(weight) % 8 == 0  # 16 bytes: allocators align a storage
        and (bias is None or (bias.dtype == weight.dtype and bias.dim() == 1 and bias.stride(0) == 1))
    )


@torch.compiler.assume_constant_result
def served() -> bool:
    """Whether this process's GPU has the kernels: asked by the first layer that runs, one log line, then constant.

    Not asked in `install`: that would initialize CUDA in the process that vLLM may fork its workers from.
    """
    global _served
    if _served is None:
        reason = why_no_kernel(ORDER)
        if reason:
            logger.warning_once("samebits leaves unquantized linears and lm_head to vLLM: %s", reason)
        else:
            logger.info_once("samebits computes unquantized linears and lm_head, Order %s.", ORDER)
        _served = reason is None
    return _served


def linear_batch_invariant(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """vLLM's function of this name: ``input @ weight.t() + bias``, here with the bias fused and one rounding."""
    if not covers(input, weight, bias) or not served():
        return _theirs(input, weight, bias)
    out = samebits.invariant_linear(rows_of(input), weight, bias, order=ORDER, overlap="none")
    return out.reshape(*input.shape[:-1], weight.shape[0])


def installed() -> bool:
    return getattr(batch_invariant, NAME) is linear_batch_invariant


def install() -> None:
    """Puts the function in the three places. Safe to run again."""
    setattr(batch_invariant, NAME, linear_batch_invariant)
    for module in USERS:
        if module in sys.modules:
            setattr(sys.modules[module], NAME, linear_batch_invariant)
