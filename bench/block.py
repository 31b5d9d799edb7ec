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
import subprocess
import sys
from collections.abc import Callable

from peers import cells_of, run_peer, summary
from run import Rowwise, device_name

ORDER, BLOCK = "hopper-block128", 128
SHAPES, M = "deepseek-v3,qwen3-1.7b,llama3-8b", "1,4,8,16,32,64,128,256,512,1024,4096,8192"


class BlockPeer(Rowwise):
    """`multiply(a, b, scale_a, scale_b)` with scales of 1x128, tokens fastest, and 128x128 on one weight shape."""

    def make(self, max_m: int, n: int, k: int) -> None:
        super().make(max_m, n, k)
        blocks = -(-k // BLOCK)
        self.all_a = self.torch.rand(blocks, max_m, device="cuda") * 0.01 + 0.001
        self.scale_b = self.torch.rand(-(-n // BLOCK), blocks, device="cuda") * 0.01 + 0.001
        self.scales: dict = {}

    def operands(self, m: int, copy: int) -> tuple:
        a, b, _, _ = super().operands(m, copy)
        if m not in self.scales:  # of this batch alone: both peers ask for dense columns
            self.scales[m] = self.all_a[:, :m].contiguous().t()
        return a, b, self.scales[m], self.scale_b

    def ours(self, m: int, samebits):
        return samebits.block_scaled_mm(*self.operands(m, 0))


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

    with args.out.open() as file:
        cells = cells_of((json.loads(line) for line in file), ORDER)
    makers = {"vllm-block": vllm_multiply, "torch-block": torch_multiply}
    with args.out.open("a") as file:
        for name in args.peers.split(","):
            run_peer(name, makers[name], BlockPeer, torch, cells, args.rounds, file)
    summary([json.loads(line) for line in args.out.read_text().splitlines()], makers)
    return code


if __name__ == "__main__":
    sys.exit(main())
