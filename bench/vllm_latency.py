#!/usr/bin/env python3
"""The latency benchmark of vLLM with and without samebits: one engine for each arm, asked for each batch size.

Prompts, sampling and iterations are those of `vllm bench latency`. Writes one JSON line for each arm and batch size to
OUT/latency.jsonl, a log for each arm and, with matplotlib, a bar chart; with --profile GPU time by kernel to
OUT/kernels.jsonl, with --tokens what vllm_tokens.py asks. Arguments after `--` go to vLLM's engine. Compare arms of one
run only: clocks differ from day to day.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from vllm_arms import ARM, ARMS, Engine, engine_command, engines
from vllm_kernels import kernel_times, table
from vllm_tokens import row as token_row
from vllm_tokens import verdict, write_random_model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen3-1.7B", help="a name or a folder")
    parser.add_argument("--real-weights", action="store_true", help="load the weights; default: dummy weights")
    parser.add_argument("--random", type=Path, metavar="CONFIG", help="random weights as vllm_tokens.py writes them")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default", "fallback", "vllm", "samebits-fp8", "samebits"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8])
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="trace one more run at the first batch size (slow)")
    parser.add_argument("--tokens", action="store_true", help="ask the same engines for tokens (not with dummy weights)")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--filler", type=int, default=40)
    parser.add_argument("--parallel", action="store_true", help="start all arms at once on one GPU; measured one at a time")
    parser.add_argument("--out", type=Path, default=Path("out/vllm"))
    parser.add_argument("--chart-only", action="store_true", help="draw OUT/latency.jsonl again and run nothing")
    parser.add_argument("rest", nargs="*", help="after --: more arguments of vLLM's engine")
    args = parser.parse_args()
    if args.tokens and not (args.random or args.real_weights):
        parser.error("--tokens: dummy weights give every prompt the same logits; add --random or --real-weights")
    return args


def engine_arguments(args: argparse.Namespace) -> list[str]:
    command = engine_command(args.model)
    command += [] if args.real_weights or args.random else ["--load-format", "dummy"]
    if args.profile:
        folder = args.out.absolute() / "traces" / ARM  # each arm's own
        command += ["--profiler-config.profiler", "torch", "--profiler-config.torch_profiler_with_stack=false"]
        command += ["--profiler-config.torch_profiler_dir", str(folder)]
    return command + args.rest


def measure(engine: Engine, args: argparse.Namespace, batch: int) -> dict:
    """One line of latency.jsonl."""
    lengths = {"batch": batch, "input_len": args.input_len, "output_len": args.output_len}
    profile = args.profile and batch == args.batch_sizes[0]
    seconds = engine.ask("latency", **lengths, warmup=args.warmup, iterations=args.iterations, profile=profile)
    return {
        "arm": engine.arm,
        "model": args.model,
        "weights": "random" if args.random else "real" if args.real_weights else "dummy",
        **lengths,
        "p50_s": statistics.median(seconds),
        "latencies_s": seconds,
        "kernels": engine.kernels,
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


def run(args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """The lines of latency.jsonl, and what does not hold of the tokens."""
    rows, tokens = [], {}
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.out / "traces", ignore_errors=True)  # of earlier runs
    with (
        open(args.out / "latency.jsonl", "w") as lines,
        open(args.out / "kernels.jsonl" if args.profile else "/dev/null", "w") as kernels,
        engines(args.arms, args.out, engine_arguments(args), args.parallel) as started,
    ):
        for engine in started:
            for batch in args.batch_sizes:
                rows.append(measure(engine, args, batch))
                print(json.dumps(rows[-1]), file=lines, flush=True)
                took = ", ".join(rows[-1]["kernels"])
                print(f"batch {batch:4} {engine.arm:9} {rows[-1]['p50_s']:.4f} s  {took}", flush=True)
            if args.profile:
                times = kernel_times(args.out / "traces" / engine.arm)
                for name, (ms, calls) in times.items():
                    line = {"arm": engine.arm, "batch": args.batch_sizes[0], "kernel": name, "ms": ms, "calls": calls}
                    print(json.dumps(line), file=kernels, flush=True)
                print(table(engine.arm, times), flush=True)
            if args.tokens:
                tokens[engine.arm] = token_row(engine, args)
                print(json.dumps(tokens[engine.arm]), flush=True)
    if args.tokens:
        (args.out / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tokens.values()))
    return rows, verdict(tokens)


def main() -> int:
    args = arguments()
    wrong = []
    if args.chart_only:
        rows = [json.loads(line) for line in (args.out / "latency.jsonl").read_text().splitlines()]
    else:
        if args.random:
            args.model = str(write_random_model(args.random))
        rows, wrong = run(args)
    try:
        chart(rows, args.out / "latency.png")
    except ImportError:
        print(f"matplotlib is not installed: no chart; later: {Path(__file__).name} --chart-only --out {args.out}")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
