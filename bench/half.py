#!/usr/bin/env python3
"""BF16 linears on a GPU: `samebits bench --order hopper-bf16`, then torch's F.linear and vLLM's batch-invariant matmul.

    bench/half.py --shapes qwen3-1.7b,llama3-8b --out out/half.jsonl
    bench/half.py --shape 151936,2048 --m 1,8,16,64,256

cuBLASLt's best of eight is timed by `samebits bench` itself. vLLM's persistent Triton matmul (that of batch_invariant_ops)
is timed where vLLM imports. Each peer's bits are compared with its own at the largest M (`invariant`) and with samebits'
where the package imports (`same_bits`, else null). Exit code 1 if a row of samebits had other bits than its Order.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

from peers import Peer, cells_of, run_peer, summary
from run import device_name

ORDER = "hopper-bf16"
SHAPES, M = "seed,qwen3-1.7b,llama3-8b", "1,2,4,8,16,17,32,64,65,128,256,257,512,1024,2048,4096"


class HalfPeer(Peer):
    """`multiply(x [M, K], weight [N, K]) -> [M, N]` in bfloat16 on one weight shape."""

    element_bytes = 2

    def make(self, max_m: int, n: int, k: int) -> None:
        self.a = self.torch.randn(max_m, k, device="cuda", dtype=self.torch.bfloat16)
        self.b = self.copies_of(self.torch.randn(n, k, device="cuda", dtype=self.torch.bfloat16))

    def run(self, m: int, copy: int):
        return self.multiply(self.a[:m], self.b[copy])

    def ours(self, m: int, samebits):
        return samebits.invariant_linear(self.a[:m], self.b[0])


def torch_linear(torch) -> Callable:
    return torch.nn.functional.linear


def vllm_persistent(torch) -> Callable:
    """Raises ImportError where there is no vLLM."""
    from vllm.model_executor.layers.batch_invariant import matmul_persistent

    return lambda x, weight: matmul_persistent(x, weight.t())


PEERS = {"torch-linear": torch_linear, "vllm-persistent": vllm_persistent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--cli", default=str(root / "build/samebits"), help="the samebits executable")
    parser.add_argument("--shapes", help=f"models, separated by commas; {SHAPES} by default")
    parser.add_argument("--shape", action="append", help="N,K of one weight; may be repeated")
    parser.add_argument("--m", default=M, help="batch sizes, separated by commas")
    parser.add_argument("--kernels", default="chosen", help="chosen (the default), all, or names of rows")
    parser.add_argument("--rounds", type=int, default=7, help="replays of each side; the median counts")
    parser.add_argument("--peers", default=",".join(PEERS), help=", ".join(PEERS))
    parser.add_argument("--append", action="store_true", help="add to the file instead of replacing it")
    parser.add_argument("--out", type=pathlib.Path, default=root / "out/half.jsonl")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    before = args.out.stat().st_size if args.append and args.out.exists() else 0
    command = [args.cli, "bench", "--order", ORDER, "--kernels", args.kernels, "--rounds", str(args.rounds)]
    command += ["--out", str(args.out), *(["--append"] if args.append else [])]
    if args.shapes or not args.shape:
        command += ["--shapes", args.shapes or SHAPES, "--m", args.m]
    for shape in args.shape or []:
        command += [word for m in args.m.split(",") for word in ("--shape", f"{m},{shape}")]
    code = subprocess.run(command).returncode
    if code not in (0, 1) or device_name(args.cli) is None:
        return code
    import torch

    with args.out.open() as file:
        file.seek(before)
        cells = cells_of((json.loads(line) for line in file), ORDER)
    with args.out.open("a") as file:
        for name in args.peers.split(","):
            run_peer(name, PEERS[name], HalfPeer, torch, cells, args.rounds, file)
    summary([json.loads(line) for line in args.out.read_text().splitlines()], ["cublaslt-bf16", *PEERS])
    return code


if __name__ == "__main__":
    sys.exit(main())
