#!/usr/bin/env python3
"""Block scales on a GPU: `samebits bench --order hopper-block128`, then vLLM's CUTLASS kernel and torch._scaled_mm.

    bench/block.py --out out/block.jsonl
    bench/block.py --shapes deepseek-v3 --m 1,8,64,512,4096 --kernels all

vLLM's kernel is timed where `vllm._custom_ops` imports, with the padding of M to a multiple of 4 of its layers.
torch._scaled_mm takes 1x128 and 128x128 scales from 2.9 on. Each peer's bits are compared with its own at the largest M
(`invariant`), and with samebits' where the package imports (`same_bits`, else null). Exit code 1 if a row of samebits
had other bits than its Order.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable

from run import TorchRowwise, device_name, torch_line

ORDER, BLOCK = "hopper-block128", 128
SHAPES, M = "deepseek-v3,qwen3-1.7b,llama3-8b", "1,4,8,16,32,64,128,256,512,1024,4096,8192"


class BlockPeer(TorchRowwise):
    """A peer with scales of 1x128 and 128x128: `multiply(a, b, scale_a, scale_b)` on one weight shape."""

    def __init__(self, torch, multiply: Callable, max_m: int, n: int, k: int) -> None:
        self.multiply, self.blocks, self.scales = multiply, -(-k // BLOCK), {}
        self.block_a = torch.rand(self.blocks, max_m, device="cuda") * 0.01 + 0.001
        self.block_b = torch.rand(-(-n // BLOCK), self.blocks, device="cuda") * 0.01 + 0.001
        super().__init__(torch, max_m, n, k)

    def operands(self, m: int, copy: int) -> tuple:
        a, b, _, _ = super().operands(m, copy)
        # Tokens fastest, of this batch alone: both peers ask for it.
        return a, b, self.block_a[:, :m].contiguous().t(), self.block_b

    def run(self, m: int, copy: int):
        if m not in self.scales:
            self.scales[m] = self.operands(m, 0)[2]
        a, b, _, _ = super().operands(m, copy)
        return self.multiply(a, b, self.scales[m], self.block_b)

    def bits(self, m: int, samebits) -> dict:
        got = self.run(m, 0).view(self.torch.int16)
        found = {"same_bits": None}
        if samebits:
            ours = samebits.block_scaled_mm(*self.operands(m, 0))
            found["same_bits"] = self.torch.equal(got, ours.view(self.torch.int16))
        if m < len(self.largest):
            found["invariant"] = self.torch.equal(got, self.largest[:m].view(self.torch.int16))
        return found


def vllm_multiply(torch) -> Callable:
    """vLLM's block kernel as its layers call it. Raises ImportError or RuntimeError where there is none."""
    from vllm import _custom_ops as ops

    def multiply(a, b, scale_a, scale_b):
        m = a.shape[0]
        if m % 4:  # its padded_cutlass
            rows = m + 4 - m % 4
            padded = torch.zeros((rows, a.shape[1]), device=a.device, dtype=a.dtype)
            padded[:m].copy_(a)
            scales = torch.ones((scale_a.shape[1], rows), device=a.device).t()
            scales[:m].copy_(scale_a)
            return ops.cutlass_scaled_mm(padded, b, out_dtype=torch.bfloat16, scale_a=scales, scale_b=scale_b.t())[:m]
        return ops.cutlass_scaled_mm(a, b, out_dtype=torch.bfloat16, scale_a=scale_a, scale_b=scale_b.t())

    return multiply


def torch_multiply(torch) -> Callable:
    """torch._scaled_mm with block scales. It wants the weight's with K fastest and its stride a multiple of 4."""
    made = {}

    def weight_scales(scale_b):
        key = scale_b.data_ptr()
        if key not in made:
            n, k = scale_b.shape
            wide = torch.zeros((n, (k + 3) // 4 * 4), device=scale_b.device)
            wide[:, :k] = scale_b
            made.clear()
            made[key] = wide[:, :k].t()
        return made[key]

    def multiply(a, b, scale_a, scale_b):
        return torch._scaled_mm(
            a, b, scale_a=scale_a, scale_b=weight_scales(scale_b), out_dtype=torch.bfloat16, use_fast_accum=False
        )

    return multiply


def run_peer(name: str, make: Callable, torch, cells: dict, rounds: int, file) -> None:
    """Appends a line of the peer for each cell of samebits: {(shape, n, k): lines}."""
    try:
        multiply = make(torch)
    except (ImportError, RuntimeError, AttributeError) as error:
        return print(f"{name} is left out: {error}")
    try:
        import samebits
    except ImportError:
        samebits = None
    for (shape, n, k), ours in cells.items():
        side = None
        try:
            side = BlockPeer(torch, multiply, max(line["m"] for line in ours), n, k)
        except RuntimeError as error:
            print(f"{name} {shape} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        for line in ours:
            try:
                us = side.microseconds(line["m"], line["us"], rounds)
                made = torch_line(line, us, side.bits(line["m"], samebits), torch.__version__) | {"kernel": name}
            except RuntimeError as error:
                print(f"{name} {shape} m={line['m']} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            print(json.dumps(made, separators=(",", ":")), file=file, flush=True)
            print(f"{name} {shape} m={line['m']}: {us:.2f} us, samebits {line['us']:.2f}, {us / line['us']:.2f}"
                  f"{'' if made.get('invariant', True) else ', other bits than at the largest M'}", flush=True)


def summary(lines: list[dict]) -> None:
    """Geometric mean and worst cell of each peer's time over samebits', by M."""
    ours = {(x["n"], x["k"], x["m"]): x["us"] for x in lines if x["kernel"] == "samebits" and "m" in x}
    for name in ("vllm-block", "torch-block"):
        ratios = [(x["us"] / ours[x["n"], x["k"], x["m"]], x) for x in lines if x["kernel"] == name]
        for what, low, high in (("M <= 64", 0, 64), ("65 to 511", 65, 511), ("M >= 512", 512, 1 << 30)):
            part = [(r, x) for r, x in ratios if low <= x["m"] <= high]
            if part:
                worst, cell = min(part, key=lambda p: p[0])
                mean, where = statistics.geometric_mean(r for r, _ in part), f"{cell['n']}x{cell['k']} m={cell['m']}"
                print(f"{name} {what}: {mean:.2f} (worst {worst:.2f}, {where})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--cli", default=str(root / "build/samebits"), help="the samebits executable")
    parser.add_argument("--shapes", default=SHAPES, help="models, separated by commas")
    parser.add_argument("--m", default=M, help="batch sizes, separated by commas")
    parser.add_argument("--kernels", default="chosen", help="chosen (the default), all, or names of rows")
    parser.add_argument("--rounds", type=int, default=7, help="replays of each side; the median counts")
    parser.add_argument("--peers", default="vllm-block,torch-block", help="vllm-block, torch-block")
    parser.add_argument("--out", type=pathlib.Path, default=root / "out/block.jsonl")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    command = [args.cli, "bench", "--order", ORDER, "--cublaslt", "none", "--out", str(args.out)]
    for option in ("shapes", "m", "kernels", "rounds"):
        command += ["--" + option, str(getattr(args, option))]
    code = subprocess.run(command).returncode
    if code not in (0, 1) or device_name(args.cli) is None:
        return code
    import torch

    cells: dict[tuple, list[dict]] = {}
    for line in map(json.loads, args.out.read_text().splitlines()):
        if line["kernel"] == "samebits" and "shape" in line:
            cells.setdefault((line["shape"], line["n"], line["k"]), []).append(line)
    makers = {"vllm-block": vllm_multiply, "torch-block": torch_multiply}
    with args.out.open("a") as file:
        for name in args.peers.split(","):
            run_peer(name, makers[name], torch, cells, args.rounds, file)
    summary([json.loads(line) for line in args.out.read_text().splitlines()])
    return code


if __name__ == "__main__":
    sys.exit(main())
