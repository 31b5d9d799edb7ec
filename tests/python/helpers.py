"""What the Python tests share: devices, random operands, bits, and the contract evaluated in numpy."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import samebits

FP8 = torch.float8_e4m3fn
C3 = [
    (1, 256, 128), (1, 16384, 1024), (1, 24576, 496), (16, 256, 496), (16, 16384, 128), (16, 24576, 4096),
    (32, 8192, 4096), (32, 16384, 4096), (33, 1024, 1024), (33, 8192, 128), (64, 2048, 496), (64, 16384, 1024),
    (100, 8192, 496), (128, 32768, 4096), (256, 4096, 4096), (512, 256, 1024), (512, 8192, 4096), (512, 16384, 128),
    (512, 24576, 128),
]  # fmt: skip
C3_UNALIGNED = [(32, 3420, 1280), (32, 1280, 6840), (1, 3420, 1280), (64, 6840, 1280), (16, 100, 200), (33, 255, 513)]


def _devices() -> tuple[list[str], str | None]:
    if not torch.cuda.is_available():
        return ["cpu"], None
    try:
        samebits.kernel("cuda", "hopper-fast", 16, 16, 16)
    except RuntimeError as error:
        return ["cpu"], str(error).partition("\n")[0]
    return ["cpu", "cuda"], None


DEVICES, UNUSABLE_GPU = _devices()


def half_rows(device: torch.device | str, weight_only: bool = False) -> bool:
    """Whether 16-bit operands run there, or 16-bit activations with an FP8 weight. On the CPU always."""
    try:
        samebits.kernel(device, samebits.HALF_ORDERS[0], 1, 16, 16, weight_only=weight_only)
    except RuntimeError:
        return False
    return True


def bits(t: Tensor) -> Tensor:
    """The same memory as integers, on the CPU: torch.equal of two of them compares bits, NaN and -0 included."""
    return t.detach().cpu().contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[t.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def random_fp8(rows: int, columns: int, device: torch.device | str = "cpu", spread: float = 1.0) -> Tensor:
    return (torch.randn(rows, columns) * spread).clamp(-448, 448).to(FP8).to(device)


def operands(m: int, n: int, k: int, device: torch.device | str = "cpu", per_channel: bool = True):
    """a [M, K], b [K, N] column-major, scale_a [M, 1], scale_b [1, N] or [1]: random, scales no powers of two."""
    a, b = random_fp8(m, k, device), random_fp8(n, k, device).t()
    scale_a = (torch.rand(m, 1) * 0.1 + 0.01).to(device)
    scale_b = (torch.rand(1, n) * 0.1 + 0.01).to(device) if per_channel else torch.tensor([0.037], device=device)
    return a, b, scale_a, scale_b


class _SeesOverlap(TorchDispatchMode):
    """Notes what each call of scaled_mm, block_scaled_mm or linear may overlap."""

    def __init__(self):
        super().__init__()
        self.said: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.samebits.scaled_mm.default, torch.ops.samebits.block_scaled_mm.default):
            self.said.append(args[7] if len(args) > 7 else "launch")
        elif func is torch.ops.samebits.linear.default:
            self.said.append(args[6] if len(args) > 6 else "launch")
        return func(*args, **(kwargs or {}))


def overlaps_in(call: Callable[[], object]) -> list[str]:
    """``overlap`` of every product that ``call`` runs."""
    with _SeesOverlap() as mode:
        call()
    return mode.said


def check_invariant(compute, x: Tensor, sizes: list[int]) -> None:
    """The row x[0] alone and as first and last of every batch: the same bits. Raises AssertionError where not."""
    alone = bits(compute(x[:1]))
    for m in sizes:
        rest = x[1:m]
        for place, batch in ((0, torch.cat([x[:1], rest])), (m - 1, torch.cat([rest, x[:1]]))):
            got = bits(compute(batch)[place : place + 1])
            assert torch.equal(got, alone), f"row {place} of a batch of {m} differs in {(got != alone).sum()} elements"


def _decode(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """e4m3 codes -> values and the exponents that the matrix unit sees (a subnormal counts as -6)."""
    field, fraction = (codes >> 3) & 15, codes & 7
    exponent = np.where(field == 0, -6, field.astype(np.int64) - 7)
    value = np.ldexp(np.where(field == 0, fraction, fraction + 8).astype(np.float64), exponent - 3)
    return np.where(codes & 128, -value, value), exponent


def _truncate(x: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """x toward zero to a multiple of 2^(exponent - 13)."""
    return np.ldexp(np.trunc(np.ldexp(x, 13 - exponent)), exponent - 13)


def reference_accumulate(a: Tensor, b: Tensor, promoted: bool = False) -> np.ndarray:
    """FP32 accumulators of a [M, K] . b [N, K], e4m3, in the Order hopper-fast or hopper-promoted: docs/contract.md."""
    (av, ae), (bv, be) = _decode(bits(a).numpy()), _decode(bits(b).numpy())
    k = av.shape[1]
    acc = np.zeros((av.shape[0], bv.shape[0]))
    total = np.zeros_like(acc, dtype=np.float32)
    for start in range(0, k, 32):
        part = slice(start, min(start + 32, k))
        product = av[:, None, part] * bv[None, :, part]
        exponents = np.where(product != 0, ae[:, None, part] + be[None, :, part], -1000)
        largest = np.maximum(exponents.max(-1), np.where(acc != 0, np.frexp(acc)[1] - 1, -1000))
        terms = _truncate(product, largest[..., None]).sum(-1) + _truncate(acc, largest)
        acc = np.where(terms == 0, 0.0, _truncate(terms, np.frexp(terms)[1] - 1))
        if promoted and (part.stop % 128 == 0 or part.stop == k):
            total, acc = total + acc.astype(np.float32), np.zeros_like(acc)
    return total if promoted else acc.astype(np.float32)


HALF_CONSTANTS = {"hopper-bf16": (16, 25, -133), "ampere-bf16": (8, 24, -132)}
"""Elements a step, alignment bits and the least exponent: docs/contract.md."""


def reference_accumulate_half(a: Tensor, b: Tensor, order: str = "hopper-bf16") -> np.ndarray:
    """FP32 accumulators of finite a [M, K] . b [N, K], both bfloat16 or both float16."""
    chunk, align, least = HALF_CONSTANTS[order]
    smallest = -126 if a.dtype == torch.bfloat16 else -14
    av, bv = (t.detach().cpu().double().numpy() for t in (a, b))
    ae, be = (np.maximum(np.frexp(v)[1] - 1, smallest) for v in (av, bv))
    acc = np.zeros((av.shape[0], bv.shape[0]))
    for start in range(0, av.shape[1], chunk):
        part = slice(start, start + chunk)
        product = av[:, None, part] * bv[None, :, part]
        exponents = np.where(product != 0, ae[:, None, part] + be[None, :, part], least).max(-1)
        of_acc = np.where(acc != 0, np.maximum(np.frexp(acc)[1] - 1, -126), least)
        unit = np.maximum(np.maximum(exponents, of_acc), least) - align
        total = np.trunc(np.ldexp(product, -unit[..., None])).sum(-1) + np.trunc(np.ldexp(acc, -unit))
        total = np.ldexp(total, unit)
        last = np.maximum(np.frexp(total)[1] - 24, -149)
        acc = np.ldexp(np.trunc(np.ldexp(total, -last)), last) + 0.0
    return acc.astype(np.float32)


def reference_block_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """block_scaled_mm by definition. a [M, K], b [N, K] e4m3, scale_a [M, ceil(K/128)], scale_b [ceil(N/128), ...]."""
    acc = np.zeros((a.shape[0], b.shape[0]), dtype=np.float32)
    for j in range(scale_a.shape[1]):
        columns = slice(128 * j, min(128 * j + 128, a.shape[1]))
        channel = scale_b.numpy()[:, j].repeat(128)[: b.shape[0]]
        product = scale_a.numpy()[:, j : j + 1] * channel[None, :]
        acc = _fma(reference_accumulate(a[:, columns], b[:, columns]), product, acc)
    return torch.from_numpy(acc if bias is None else acc + bias.float().numpy()).to(out_dtype)


def block_operands(m: int, n: int, k: int, device: torch.device | str = "cpu"):
    """a [M, K], b [K, N] column-major, scale_a [M, ceil(K/128)] tokens fastest, scale_b [ceil(N/128), ceil(K/128)]."""
    blocks = -(-k // 128)
    scale_a = (torch.rand(blocks, m) * 0.1 + 0.01).to(device).t()
    scale_b = (torch.rand(-(-n // 128), blocks) * 0.1 + 0.01).to(device)
    return random_fp8(m, k, device), random_fp8(n, k, device).t(), scale_a, scale_b


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """float32(x * y + z), rounded once: the product is exact in float64, the sum is rounded to odd, then to FP32."""
    product, z = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    s = product + z
    high = s - product
    error = (product - (s - high)) + (z - high)
    even = (s.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(s, toward), s).astype(np.float32)


def reference_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, out_dtype: torch.dtype, promoted=False
) -> Tensor:
    """scaled_mm by definition. a [M, K], b [N, K] e4m3 on the CPU, scale_a [M, 1] or [1], scale_b [N] or [1]."""
    return _epilogue(scale_a.numpy().reshape(-1, 1) * reference_accumulate(a, b, promoted), scale_b, bias, out_dtype)


def fp8_layers(model: nn.Module) -> dict[str, samebits.Fp8Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, samebits.Fp8Linear)}


def reference_half(
    x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, out_dtype=torch.bfloat16,
    order: str = "hopper-bf16",
) -> Tensor:  # fmt: skip
    """invariant_linear by definition. x [M, K] bfloat16 or float16, weight [N, K] of any dtype that x's holds."""
    acc = reference_accumulate_half(x, weight.detach().cpu().float().to(x.dtype), order)
    scale = torch.ones(1) if scale is None else scale.cpu()
    return _epilogue(acc, scale, None if bias is None else bias.detach().cpu(), out_dtype)


def _epilogue(t: np.ndarray, scale_b: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    channel = np.broadcast_to(scale_b.numpy().reshape(1, -1), t.shape)
    if bias is None:
        return torch.from_numpy(channel * t).to(out_dtype)
    return torch.from_numpy(_fma(channel, t, np.broadcast_to(bias.float().numpy(), t.shape))).to(out_dtype)
