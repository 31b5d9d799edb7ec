#!/usr/bin/env python3
"""Times the CPU backend beside mmaemu on one machine, on the same operands, and compares the bits.

Prints one JSON line: MAC/s of both (their best runs), the ratio, and how many of the FP32 accumulators differ.
Runs alternate, so that a load on the machine meets both. Needs bench/requirements.txt and build/bench/samebits_cpu_bench.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import mmaemu
import numpy
import torch


def arguments():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=pathlib.Path, default=root / "build/bench/samebits_cpu_bench")
    parser.add_argument("--shape", default="64,5760,1920", help="M,N,K")
    parser.add_argument("--order", default="hopper-fast",
                        choices=["hopper-fast", "hopper-promoted", "ada-fast", "ada-promoted"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="runs of mmaemu; samebits runs five times in each")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def random_codes(rng, rows, cols):
    """Any finite e4m3 code."""
    codes = rng.integers(0, 256, (rows, cols), dtype=numpy.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    return codes


def run_mmaemu(a, b, order):
    unit, accumulation = order.split("-")
    start = time.perf_counter()
    out = mmaemu.accumulate(torch.from_numpy(a).view(torch.float8_e4m3fn), torch.from_numpy(b).view(torch.float8_e4m3fn),
                            use_fast_accum=accumulation == "fast", profile=unit, splitk=1)
    return out.numpy(), time.perf_counter() - start


def run_samebits(bench, a, b, order, threads):
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(pathlib.Path(folder) / name) for name in ("a", "b", "out")]
        a.tofile(paths[0])
        b.tofile(paths[1])
        shape = [str(x) for x in (a.shape[0], b.shape[0], a.shape[1])]
        command = [str(bench), "--multiply", *paths, *shape, order, str(threads), "5"]
        seconds = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return numpy.fromfile(paths[2], numpy.float32).reshape(a.shape[0], b.shape[0]), min(seconds)


def main():
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    m, n, k = (int(x) for x in args.shape.split(","))
    rng = numpy.random.default_rng(args.seed)
    a, b = random_codes(rng, m, k), random_codes(rng, n, k)
    theirs, ours, differ = [], [], 0
    for _ in range(args.rounds):
        want, seconds = run_mmaemu(a, b, args.order)
        theirs.append(seconds)
        got, seconds = run_samebits(args.bench, a, b, args.order, args.threads)
        ours.append(seconds)
        differ = int((got.view(numpy.uint32) != want.view(numpy.uint32)).sum())
    macs = m * n * k
    print(json.dumps({"benchmark": "cpu_vs_mmaemu", "m": m, "n": n, "k": k, "order": args.order,
                      "threads": args.threads, "mmaemu": mmaemu.__version__, "mmaemu_mac_per_s": macs / min(theirs),
                      "samebits_mac_per_s": macs / min(ours), "ratio": min(theirs) / min(ours),
                      "outputs": m * n, "differ": differ}))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
