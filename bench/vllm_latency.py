#!/usr/bin/env python3
"""vLLM's own latency benchmark with and without samebits: one run of `vllm bench latency` for each arm and batch size.

Writes one JSON line for each run to OUT/latency.jsonl, the logs beside it and, with matplotlib, a bar chart. Arguments
after `--` go to `vllm bench latency`. Compare arms of one run only: clocks differ from day to day.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from vllm_arms import ARMS, environment, selected_kernels


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen3-1.7B", help="a name or a folder")
    parser.add_argument("--real-weights", action="store_true", help="load the weights; default: dummy weights")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8])
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/vllm"))
    parser.add_argument("--chart-only", action="store_true", help="draw OUT/latency.jsonl again and run nothing")
    parser.add_argument("rest", nargs="*", help="after --: more arguments of `vllm bench latency`")
    return parser.parse_args()


def run(args: argparse.Namespace, arm: str, batch: int) -> dict:
    stem = args.out / f"{arm}-{batch}"
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "latency", "--model", args.model]
    command += ["--quantization", "fp8", "--attention-backend", "TRITON_ATTN", "--batch-size", str(batch)]
    command += ["--input-len", str(args.input_len), "--output-len", str(args.output_len)]
    command += ["--num-iters-warmup", str(args.warmup), "--num-iters", str(args.iterations)]
    command += ["--output-json", f"{stem}.json", *([] if args.real_weights else ["--load-format", "dummy"]), *args.rest]
    with open(f"{stem}.log", "w") as log:
        code = subprocess.run(command, env=environment(arm), stdout=log, stderr=subprocess.STDOUT).returncode
    text = Path(f"{stem}.log").read_text(errors="replace")
    if code:
        raise SystemExit(f"arm {arm}, batch {batch}: exit code {code}, end of {stem}.log:\n{text[-3000:]}")
    result = json.loads(Path(f"{stem}.json").read_text())
    return {
        "arm": arm,
        "model": args.model,
        "weights": "real" if args.real_weights else "dummy",
        "batch": batch,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "p50_s": result["percentiles"]["50"],
        "latencies_s": result["latencies"],
        "kernels": selected_kernels(arm, text),
    }


def chart(rows: list[dict], path: Path) -> None:
    """Groups of bars: batch size; bars: arms; height: median seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    batches = sorted({row["batch"] for row in rows})
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(arms) * len(batches), 4))
    for i, arm in enumerate(arms):
        found = {row["batch"]: row["p50_s"] for row in rows if row["arm"] == arm}
        places = [j + 0.8 * (i + 0.5) / len(arms) for j, batch in enumerate(batches) if batch in found]
        bars = axes.bar(places, [found[b] for b in batches if b in found], 0.75 / len(arms), label=arm)
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set_xticks([j + 0.4 for j in range(len(batches))], [f"batch {batch}" for batch in batches])
    axes.set_ylabel("median latency, s")
    axes.set_title(f"{Path(rows[0]['model']).name}, {rows[0]['input_len']} tokens in, {rows[0]['output_len']} out")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> int:
    args = arguments()
    lines = args.out / "latency.jsonl"
    rows = []
    if args.chart_only:
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        with open(lines, "w") as file:
            for batch in args.batch_sizes:
                for arm in args.arms:
                    rows.append(run(args, arm, batch))
                    print(json.dumps(rows[-1]), file=file, flush=True)
                    took = ", ".join(rows[-1]["kernels"])
                    print(f"batch {batch:4} {arm:9} {rows[-1]['p50_s']:.4f} s  {took}", flush=True)
    try:
        chart(rows, args.out / "latency.png")
    except ImportError:
        print(f"matplotlib is not installed: no chart; later: {Path(__file__).name} --chart-only --out {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
