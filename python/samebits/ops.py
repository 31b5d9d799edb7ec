"""The ops of ``torch.ops.samebits`` as functions.

Every op runs on CPU and CUDA tensors with the same bits, on torch's current device and stream, without copies: strides
are honoured, or refused with the numbers. Errors are ``RuntimeError``. A CUDA kernel asks for e4m3 operands with K and
N multiples of 16, or 16-bit ones with multiples of 8, rows on 16-byte boundaries and dense scales; the CPU takes every
shape and stride, and e5m2 as well.

Environment:
    SAMEBITS_RULES: a rules file of ``samebits tune``, read once at import as by :func:`load_rules`; whether it holds
        for the GPU is checked by the first call on one.
    SAMEBITS_CERTIFICATE: a certificate of ``samebits prove``, read once at import as by :func:`load_certificate`;
        whether it holds for the GPU is checked by the first call on one.
    A file that cannot be read or is damaged is an ``ImportError`` of samebits that names the variable.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ORDERS = ("hopper-fast", "hopper-promoted", "ada-fast", "ada-promoted", "hopper-block128", "blackwell-fast", "sm120-fast")
"""Names of the FP8 Orders: each is one way to add products over K, and so one set of output bits."""

HALF_ORDERS = ("hopper-bf16", "ampere-bf16")
"""Names of the Orders of bfloat16 and float16 operands: those of :func:`invariant_linear`."""

BLOCK_ORDERS = ("hopper-block128",)
"""The Orders with block scales, those of :func:`block_scaled_mm`."""

GROUP = 128
"""Columns of an activation row that share a scale, and edge of a weight block that does."""

FP8 = torch.float8_e4m3fn

torch.ops.load_library(str(Path(__file__).parent / "_C.so"))
_rules = ""  # digest of the loaded rules


def load_rules(path: str | os.PathLike | None) -> str:
    """Reads a rules file of ``samebits tune``: from now on it chooses the kernels of this process, never their bits.

    Args:
        path: the file; None goes back to the library's own tables. Rules hold for GPUs of the kind they were measured
            on; another kind of GPU in the same process keeps the library's tables.

    Returns:
        The file's digest, 16 hexadecimal digits; "" for None.

    Raises:
        RuntimeError: a file that is damaged, of another version of samebits, that names an unknown kernel or one of
            another Order, or that holds for no GPU here, with the reason. What was loaded before stays.
    """
    return _load_rules(path, check=True)


def rules_digest() -> str:
    """Digest of the rules file that is loaded, or ""."""
    return _rules


def _load_rules(path: str | os.PathLike | None, check: bool) -> str:
    global _rules
    _rules = torch.ops.samebits.load_rules("" if path is None else os.fspath(path), check)
    return _rules


def load_certificate(path: str | os.PathLike | None) -> str:
    """Reads a certificate of ``samebits prove``: every kernel of the GPUs that it holds for may run from now on.

    Without one a GPU of an architecture that the project has not proven is held to one kernel. A certificate never
    changes a bit: it says that all kernels were found to return the same ones.

    Args:
        path: the file; None goes back to what the library knows by itself.

    Returns:
        The file's digest, 16 hexadecimal digits; "" for None.

    Raises:
        RuntimeError: a file that is damaged, of another version of samebits or of its contract, of another major
            version of the driver, or of another kind of GPU than those here. What was loaded before stays.
    """
    return torch.ops.samebits.load_certificate("" if path is None else os.fspath(path), True)


def _load_named(variable: str, load: Callable[[str], object]) -> None:
    """``load`` of the file that an environment variable names.

    Its ImportError carries the name of the package: ``python -m samebits.vllm`` then prints it as one line.
    """
    if path := os.environ.get(variable):
        try:
            load(path)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ImportError(f"samebits cannot be used with {variable}: {reason}", name=__package__) from None


_load_named("SAMEBITS_RULES", lambda path: _load_rules(path, check=False))
_load_named("SAMEBITS_CERTIFICATE", lambda path: torch.ops.samebits.load_certificate(path, False))


def scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    order: str = "hopper-fast",
    overlap: str = "launch",
) -> Tensor:
    """``out[m, n] = cast(scale_b[n] * (scale_a[m] * acc(m, n)))``, with a bias ``cast(fma(scale_b[n], t, bias[n]))``.

    ``acc`` is the FP32 accumulator of ``a[m, :] . b[:, n]`` in the given Order; every step rounds to nearest even.

    Args:
        a: [M, K] float8_e4m3fn or float8_e5m2.
        b: [K, N] float8, as ``torch._scaled_mm`` takes it: column-major, that is ``weight.t()`` of a [N, K] weight.
        scale_a: float32, 1 value or M ([M] or [M, 1]).
        scale_b: float32, 1 value or N ([N] or [1, N]).
        bias: [N] bfloat16, float16 or float32; on CUDA of the dtype of the output. No bias is not a zero bias.
        out_dtype: bfloat16, float16 or float32 (on CUDA float32 where a kernel writes it).
        order: one of :data:`ORDERS` that is none of :data:`BLOCK_ORDERS`.
        overlap: how much may overlap the end of the work before this call on the stream (programmatic dependent
            launch). ``"none"``; ``"launch"``: the kernel may start and wait; ``"weight"``: it may also fetch ``b``
            meanwhile, right for any weight that is not made anew for the call; ``"chain"``: and it lets the next
            kernel start before it has waited itself, right where no work of a run of such calls, nor the kernel before
            the run, writes what a call of the run or the kernel after it reads before it waits. Never changes a bit;
            on the CPU nothing at all. It pays after a kernel that lets the next one start early, as samebits' own do.

    Returns:
        [M, N] of ``out_dtype``, contiguous. M = 0 or N = 0 gives an empty tensor.

    Raises:
        RuntimeError: shapes, dtypes, strides or an Order that the device cannot compute, with the numbers.
    """
    return torch.ops.samebits.scaled_mm(a, b, scale_a, scale_b, bias, out_dtype, order, overlap)


def offset(t: Tensor) -> int:
    """Elements of a view before its first, where eager torch can say so: what is compiled is checked by the op."""
    return 0 if torch.compiler.is_compiling() else t.storage_offset()


def rows_of(x: Tensor) -> Tensor:
    """[..., K] -> [M, K] as every kernel reads it: a copy, which has the same bits, where K is not contiguous or rows
    lie off 16 bytes and those of a copy do not. A view of one batch may have strides that its copy for two never has.
    """
    rows = x.reshape(-1, x.shape[-1])
    off = any(n * rows.element_size() % 16 for n in (rows.stride(0), offset(rows)))
    if rows.stride(1) != 1 or (off and rows.shape[1] * rows.element_size() % 16 == 0):
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows


def invariant_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    order: str = HALF_ORDERS[0],
    overlap: str = "launch",
) -> Tensor:
    """``F.linear`` in bfloat16 or float16 whose rows have the same bits in every batch; also with an FP8 weight.

    ``out[m, n] = cast(scale[n] * acc(m, n))``, with a bias ``cast(fma(scale[n], acc, bias[n]))``: one rounding, where
    torch rounds before it adds the bias. Without a scale the factor is 1. An FP8 weight is widened to the dtype of x,
    which is exact, and its scale is never rounded: weight-only FP8 and a weight widened beforehand are one definition.

    Args:
        x: [..., K] bfloat16 or float16.
        weight: [N, K], as ``torch.nn.Linear`` has it, of the dtype of x or float8_e4m3fn.
        bias: [N] bfloat16, float16 or float32; on CUDA of the dtype of the output.
        scale: float32, 1 value or N ([N] or [N, 1]).
        out_dtype: bfloat16, float16 or float32 (on CUDA float32 where a kernel writes it); None: that of x.
        order: one of :data:`HALF_ORDERS`.
        overlap: as in :func:`scaled_mm`.

    Returns:
        [..., N] of ``out_dtype``, contiguous. Gradients: to x, bias and a weight that is not FP8, with torch's matmul.

    Raises:
        RuntimeError: shapes, dtypes, strides or an Order that the device cannot compute, with the numbers.
    """
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    out = torch.ops.samebits.linear(rows, weight, bias, scale, out_dtype, order, overlap)
    return out if x.dim() == 2 else out.reshape(*x.shape[:-1], weight.shape[0])


def block_scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    order: str = BLOCK_ORDERS[0],
    overlap: str = "launch",
) -> Tensor:
    """``out = cast(acc)`` or ``cast(acc + bias[n])``; for each block j of 128 of K, in order,
    ``acc = fma(chain_j(m, n), scale_a[m, j] * scale_b[n // 128, j], acc)``.

    ``chain_j`` is the sum of the matrix unit over that block alone, from zero; all in FP32, rounded to nearest even.

    Args:
        a: [M, K] float8_e4m3fn or float8_e5m2.
        b: [K, N] float8, column-major, as in :func:`scaled_mm`.
        scale_a: float32 [M, ceil(K / 128)], any strides: row-major, or M fastest as :func:`quantize_per_group` has it.
        scale_b: float32 [ceil(N / 128), ceil(K / 128)], any strides; ``weight_scale_inv`` of a checkpoint as it is.
        bias: [N] bfloat16, float16 or float32; on CUDA of the dtype of the output.
        out_dtype: bfloat16, float16 or, on the CPU, float32.
        order: one of :data:`BLOCK_ORDERS`.
        overlap: as in :func:`scaled_mm`.

    Returns:
        [M, N] of ``out_dtype``, contiguous.

    Raises:
        RuntimeError: shapes, dtypes, strides or an Order that the device cannot compute, with the numbers.
    """
    return torch.ops.samebits.block_scaled_mm(a, b, scale_a, scale_b, bias, out_dtype, order, overlap)


def cutlass_scaled_mm(
    out: Tensor, a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, bias: Tensor | None = None
) -> None:
    """vLLM's op of this name, same arguments, in Order hopper-fast: the bits of its batch-invariant mode on Hopper.

    Args:
        out: [M, N] bfloat16 or float16, written. Its rows may be padded or a slice of a larger tensor.
        a: [M, K] float8_e4m3fn; rows may be padded.
        b: [K, N] float8_e4m3fn, column-major; columns may be padded.
        a_scales: float32, contiguous, 1 or M values. b_scales: 1 or N values.
        bias: [N] contiguous, dtype of ``out``.

    Raises:
        RuntimeError: anything else, block scales included; never another kernel in silence.
    """
    torch.ops.samebits.cutlass_scaled_mm(out, a, b, a_scales, b_scales, bias)


def quantize_per_token(x: Tensor, scale_ub: Tensor | None = None, columns: int | None = None) -> tuple[Tensor, Tensor]:
    """``scale[m] = max(min(absmax(x[m, :]), scale_ub) / 448, 1 / (448 * 512))``, ``q = e4m3(x / scale)``.

    Args:
        x: [M, K] bfloat16, float16 or float32.
        scale_ub: one float32 value, the upper bound of absmax.
        columns: width of q, at least K (the default); columns past K are zero, as a padded layer wants them.

    Returns:
        q [M, columns] float8_e4m3fn and scale [M, 1] float32.
    """
    if columns is None or columns == x.shape[1]:
        return torch.ops.samebits.quantize_per_token(x, scale_ub)
    return torch.ops.samebits.quantize_per_token_padded(x, columns, scale_ub)


def quantize_per_group(
    x: Tensor, columns: int | None = None, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """``scale[m, g] = max(absmax(x[m, 128 g : 128 g + 128]), 1e-10) / 448``, ``q = e4m3(x / scale)``.

    Args:
        x: [M, K] bfloat16, float16 or float32; the last group may be shorter.
        columns: width of q, at least K (the default); columns past K are zero.
        power_of_two: round each scale up to a power of two, and to 2^-33 at least.

    Returns:
        q [M, columns] float8_e4m3fn and scale [M, ceil(K / 128)] float32, tokens fastest: strides (1, M).
    """
    return torch.ops.samebits.quantize_per_group(x, columns, power_of_two)


def quantize_static(x: Tensor, scale: Tensor, columns: int | None = None) -> Tensor:
    """``q = e4m3(x * (1 / scale))``, the reciprocal rounded to FP32 first, clamped to +-448.

    Args:
        x: [M, K] bfloat16, float16 or float32.
        scale: one float32 value.
        columns: width of q, at least K (the default); columns past K are zero.

    Returns:
        q [M, columns] float8_e4m3fn.
    """
    if columns is None or columns == x.shape[1]:
        return torch.ops.samebits.quantize_static(x, scale)
    return torch.ops.samebits.quantize_static_padded(x, scale, columns)


def quantize_weight(w: Tensor, per_channel: bool = True) -> tuple[Tensor, Tensor]:
    """``scale = max(absmax / 448, 1 / (448 * 512))`` over each row or the tensor, ``q = e4m3(w / scale)``.

    Args:
        w: [N, K] bfloat16, float16 or float32. On the CPU NaN or infinity raises with its coordinate; on CUDA the
            caller checks.
        per_channel: one scale for each row, else one for the tensor.

    Returns:
        q [N, K] float8_e4m3fn and scale [N] or [1] float32.
    """
    return torch.ops.samebits.quantize_weight(w, per_channel)


def quantize_weight_blocks(w: Tensor) -> tuple[Tensor, Tensor]:
    """``scale = max(absmax / 448, 1 / (448 * 512))`` over each block of 128 x 128, ``q = e4m3(w / scale)``.

    Args:
        w: [N, K] bfloat16, float16 or float32; NaN and infinity as in :func:`quantize_weight`.

    Returns:
        q [N, K] float8_e4m3fn and scale [ceil(N / 128), ceil(K / 128)] float32.
    """
    return torch.ops.samebits.quantize_weight_blocks(w)


def dequantize(q: Tensor, scale: Tensor, out_dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """``cast(q * scale)``: the product in FP32, one rounding.

    Args:
        q: [N, K] float8_e4m3fn or float8_e5m2.
        scale: float32, 1 value, N ([N] or [N, 1]) or blocks [ceil(N / 128), ceil(K / 128)].
        out_dtype: bfloat16, float16 or float32.

    Returns:
        [N, K] of ``out_dtype``.
    """
    return torch.ops.samebits.dequantize(q, scale, out_dtype)


def kernel(
    device: torch.device | str,
    order: str,
    m: int,
    n: int,
    k: int,
    out_dtype: torch.dtype = torch.bfloat16,
    weight_only: bool = False,
) -> str:
    """Name of the kernel that :func:`scaled_mm` or, by the Order, :func:`invariant_linear` would run for these sizes:
    ``"cpu"`` or a row of the tile tables. weight_only: for an FP8 weight of :func:`invariant_linear`.

    Raises:
        RuntimeError: no kernel computes it there, with the reason.
    """
    device = torch.device(device)
    index = -1 if device.type == "cpu" else device.index if device.index is not None else torch.cuda.current_device()
    return torch.ops.samebits.kernel(index, order, m, n, k, out_dtype, weight_only)


@torch.compiler.assume_constant_result
def fp8_order(device: torch.device | str) -> str:
    """The Order of FP8 operands that a device computes: the first of :data:`ORDERS` with a kernel there.

    ``"hopper-fast"`` on a Hopper, ``"ada-fast"``, ``"blackwell-fast"`` or ``"sm120-fast"`` on those GPUs. The CPU
    computes all of them and gives the first, as do the meta device and a GPU without any. It is what
    :class:`Fp8Linear` computes in unless told; another is for the caller to ask for, such as a CPU that audits an Ada:
    ``samebits.convert(model, order="ada-fast")``.
    """
    return _first_order(device, ORDERS)


@torch.compiler.assume_constant_result
def half_order(device: torch.device | str) -> str:
    """The Order of 16-bit operands that a device computes: the first of :data:`HALF_ORDERS` with a kernel there.

    The CPU computes all of them and gives the first, as do the meta device and a GPU without any; another is for the
    caller to ask for, such as a CPU that audits an A100.
    """
    return _first_order(device, HALF_ORDERS)


def _first_order(device: torch.device | str, orders: tuple[str, ...]) -> str:
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    return orders[0] if device.type == "meta" else _first_with_kernel(device, orders)


@functools.cache
def _first_with_kernel(device: torch.device, orders: tuple[str, ...]) -> str:
    for order in orders:
        try:
            kernel(device, order, 1, 16, 16)
        except RuntimeError:
            continue
        return order
    return orders[0]
