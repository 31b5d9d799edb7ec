#!/usr/bin/env python3
"""One benchmark job on a GPU: `samebits bench`, then torch._scaled_mm with row-wise scales on the same shapes.

Writes bench/results/h100.jsonl, h200.jsonl, ... by the name of the device. A long sweep can be split by model over
several jobs that add to one file:

    bench/run.py --shapes qwen3-1.7b,llama3-8b
    bench/run.py --shapes llama3-70b --append

torch's bits are compared with samebits' where the package samebits can be imported, else same_bits is null. Exit code 1
if a row of samebits had other bits than its Order. Without a GPU: the CPU backend, into out/bench.jsonl.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

from peers import Peer, cells_of, run_peer

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = "qwen3-1.7b,llama3-8b"
QUICK_M, QUICK_ROUNDS = "1,16,64,256,1024,8192", 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cli", default=str(ROOT / "build/samebits"), help="the samebits executable")
    parser.add_argument("--shapes", help="models, separated by commas; all 23 shapes by default")
    parser.add_argument("--layers", help=f"models whose layer is timed too; {LAYERS} by default, none with --shapes")
    parser.add_argument("--m", help="batch sizes, separated by commas; 17 of 1 to 8192 by default")
    parser.add_argument("--order", help="Orders, separated by commas")
    parser.add_argument("--kernels", default="chosen", help="chosen (the default), all, or names of rows")
    parser.add_argument("--rounds", type=int, default=7, help="replays of each side; the median counts")
    parser.add_argument("--quick", action="store_true", help=f"a first look: --m {QUICK_M} --rounds {QUICK_ROUNDS}")
    parser.add_argument("--append", action="store_true", help="add to the device's file instead of replacing it")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out")
    parser.add_argument("--cublaslt", help="the libcublasLt.so to load, where the loader finds none")
    parser.add_argument("--out", type=pathlib.Path, help="another file")
    args = parser.parse_args()
    if args.layers is None:
        args.layers = "" if args.shapes else LAYERS
    if args.quick:
        args.m, args.rounds = args.m or QUICK_M, min(args.rounds, QUICK_ROUNDS)
    return args


def device_name(cli: str) -> str | None:
    """The first GPU that samebits sees."""
    info = json.loads(subprocess.run([cli, "info", "--json"], check=True, capture_output=True).stdout)
    return next((d["name"] for d in info["devices"] if d["ordinal"] >= 0), None)


def results_file(device: str | None) -> pathlib.Path:
    """h100.jsonl for "NVIDIA H100 80GB HBM3"."""
    if device is None:
        return ROOT / "out/bench.jsonl"
    model = re.search(r"\b[A-Z]+\d+\b", device)
    return ROOT / "bench/results" / f"{(model[0] if model else device).lower().replace(' ', '-')}.jsonl"


def bench_command(args: argparse.Namespace, out: pathlib.Path, append: bool, **more: str | None) -> list[str]:
    options = {"rounds": str(args.rounds), "order": args.order, "cublaslt": args.cublaslt, "out": str(out)} | more
    command = [args.cli, "bench", *(["--append"] if append else [])]
    return command + [word for name, value in options.items() if value for word in ("--" + name, value)]


class Rowwise(Peer):
    """`multiply(a, b, scale_a, scale_b)` with one scale a token and a channel, bf16 out, on one weight shape."""

    def make(self, max_m: int, n: int, k: int) -> None:
        self.a, self.b = self.codes(max_m, k), self.copies_of(self.codes(n, k))
        self.scale_a = self.torch.rand(max_m, 1, device="cuda") * 0.01 + 0.001
        self.scale_b = self.torch.rand(1, n, device="cuda") * 0.01 + 0.001

    def operands(self, m: int, copy: int) -> tuple:
        fp8 = self.torch.float8_e4m3fn
        return self.a[:m].view(fp8), self.b[copy].view(fp8).t(), self.scale_a[:m], self.scale_b

    def run(self, m: int, copy: int):
        return self.multiply(*self.operands(m, copy))

    def ours(self, m: int, samebits):
        return samebits.scaled_mm(*self.operands(m, 0), order="hopper-fast")


def torch_rowwise(torch):
    """torch._scaled_mm, fast accumulation."""

    def multiply(a, b, scale_a, scale_b):
        return torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=True)

    return multiply


def run_torch(lines: list[dict], rounds: int, out: pathlib.Path) -> None:
    """Appends torch-rowwise for every hopper-fast cell of samebits' lines."""
    try:
        import torch
    except ImportError as error:
        return print(f"torch-rowwise is left out: {error}")
    if not torch.cuda.is_available():
        return print(f"torch-rowwise is left out: torch {torch.__version__} sees no CUDA device")
    with out.open("a") as file:
        run_peer("torch-rowwise", torch_rowwise, Rowwise, torch, cells_of(lines, "hopper-fast"), rounds, file)


def main() -> int:
    args = arguments()
    device = device_name(args.cli)
    out = args.out or results_file(device)
    out.parent.mkdir(parents=True, exist_ok=True)
    before = out.stat().st_size if args.append and out.exists() else 0
    sweep = bench_command(args, out, args.append, shapes=args.shapes, m=args.m, kernels=args.kernels)
    code = subprocess.run(sweep).returncode
    if device and args.layers and code in (0, 1):
        code = max(code, subprocess.run(bench_command(args, out, True, layer=args.layers)).returncode)
    if code not in (0, 1):
        return code
    with out.open() as file:
        file.seek(before)
        lines = [json.loads(line) for line in file]
    if device and not args.no_torch:
        run_torch(lines, args.rounds, out)
    print(f"{out}: {len(lines)} lines of samebits and its peers")
    return code


if __name__ == "__main__":
    sys.exit(main())
