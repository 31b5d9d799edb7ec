"""GPU time by kernel from a trace of torch's profiler. Called by vllm_latency.py, which deletes nothing of it."""

import gzip
import json
from pathlib import Path

REST = "norms, quantizers, small"
GROUPS = {
    REST: ("triton_", "rows_kernel"),
    "attention": ("attention", "flash", "reshape_and_cache", "reduce_segments"),
    "BF16 GEMM, lm_head": ("(samebits::order)4", "matmul_kernel"),  # Order::kHopperBf16
    "samebits GEMM": ("samebits",),
    "FP8 GEMM": ("float_e4m3", "scaled_mm", "e4m3_e4m3", "nvjet_qq", "nvjet_sm90_qq"),
    "other GEMM": ("nvjet", "gemm", "cutlass"),
    "copies": ("memcpy", "memset"),
}
"""Group: parts of kernel names, lower case; the first that matches. Inductor's kernels are named after all they fuse, so they come first. What matches none is REST."""


def group_of(kernel: str) -> str:
    name = kernel.lower()
    return next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), REST)


def kernel_times(folder: Path) -> dict[str, tuple[float, int]]:
    """{kernel: (milliseconds, calls)} of the newest trace under `folder` with GPU events, longest first.

    Raises:
        SystemExit: no trace has any.
    """
    traces = sorted(folder.rglob("*.json*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for trace in traces:
        with (gzip.open if trace.suffix == ".gz" else open)(trace, "rt") as file:
            events = json.load(file)["traceEvents"]
        times: dict[str, tuple[float, int]] = {}
        for event in events:
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                ms, calls = times.get(event["name"], (0.0, 0))
                times[event["name"]] = ms + event["dur"] / 1e3, calls + 1
        if times:
            return dict(sorted(times.items(), key=lambda item: -item[1][0]))
    raise SystemExit(f"{folder}: no GPU events in {len(traces)} traces")


def table(arm: str, times: dict[str, tuple[float, int]]) -> str:
    """Milliseconds and calls of each group, one line each, then the ten longest kernels."""
    groups: dict[str, tuple[float, int]] = {}
    for name, (ms, calls) in times.items():
        total, count = groups.get(group_of(name), (0.0, 0))
        groups[group_of(name)] = total + ms, count + calls
    lines = [f"{arm}: {sum(ms for ms, _ in times.values()):.1f} ms of kernels"]
    ordered = sorted(groups.items(), key=lambda item: -item[1][0])
    lines += [f"  {ms:8.2f} ms {calls:6} calls  {name}" for name, (ms, calls) in ordered]
    lines += [f"    {ms:8.2f} ms {calls:6} calls  {name[:100]}" for name, (ms, calls) in list(times.items())[:10]]
    return "\n".join(lines)
