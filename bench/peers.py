"""What run.py, block.py and half.py share: torch-side peers of `samebits bench`, timed as it times itself.

A peer is timed at every cell of samebits' own lines: one CUDA graph whose calls rotate through copies of the weight past
the L2 cache, the median of several replays. Its bits are compared with its own at the largest M (`invariant`), and with
samebits' where the package imports (`same_bits`, else null).
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable

# As in src/cli/bench_operands.cpp and bench_timing.cpp: copies of a weight past the L2 cache, calls of a graph.
ROTATE_BYTES, MOST_COPIES = 200 << 20, 64
GRAPH_US, LEAST_US, MOST_CALLS = 800.0, 3.0, 192


class Peer:
    """`multiply` of a peer on one weight shape. Subclasses say what the operands are (`make`), how a call uses them
    (`run`), and what samebits computes of the same (`ours`)."""

    element_bytes = 1

    def __init__(self, torch, multiply: Callable, max_m: int, n: int, k: int) -> None:
        self.torch, self.multiply = torch, multiply
        self.copies = max(2, min(MOST_COPIES, ROTATE_BYTES // (n * k * self.element_bytes) + 1))
        self.make(max_m, n, k)
        self.largest = self.run(max_m, 0)

    def codes(self, rows: int, columns: int):
        """About normal, standard deviation 60, as quantization leaves them. uint8, so that copies are cheap."""
        codes = self.torch.empty(rows, columns, dtype=self.torch.uint8, device="cuda")
        for part in codes.split(4096):
            normal = self.torch.randn(part.shape, device="cuda") * 60
            part.copy_(normal.clamp(-448, 448).to(self.torch.float8_e4m3fn).view(self.torch.uint8))
        return codes

    def copies_of(self, weight):
        """[copies, N, K], each the same."""
        return weight.expand(self.copies, *weight.shape).contiguous()

    def microseconds(self, m: int, about_us: float, rounds: int) -> float:
        """Median of `rounds` replays of one CUDA graph whose calls rotate through the copies of the weight."""
        torch = self.torch
        calls = max(1, min(MOST_CALLS, int(GRAPH_US / max(about_us, LEAST_US))))
        calls = calls if calls < self.copies else calls // self.copies * self.copies
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            self.run(m, 0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in range(calls):
                self.run(m, call % self.copies)
        times = []
        for _ in range(rounds + 1):  # the first one warms up
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) * 1000 / calls)
        return statistics.median(times[1:])

    def bits(self, m: int, samebits) -> dict:
        got = self.run(m, 0).view(self.torch.int16)
        found = {"same_bits": None}
        if samebits:
            found["same_bits"] = self.torch.equal(got, self.ours(m, samebits).view(self.torch.int16))
        if m < len(self.largest):
            found["invariant"] = self.torch.equal(got, self.largest[:m].view(self.torch.int16))
        return found


def cells_of(lines: Iterable[dict], order: str) -> dict[tuple, list[dict]]:
    """{(shape, n, k): samebits' lines of the Order}."""
    cells: dict[tuple, list[dict]] = {}
    for line in lines:
        if line["kernel"] == "samebits" and line.get("order") == order and "shape" in line:
            cells.setdefault((line["shape"], line["n"], line["k"]), []).append(line)
    return cells


def peer_line(name: str, ours: dict, us: float, bits: dict, version: str, element_bytes: int = 1) -> dict:
    """The line of a peer at the shape and M of samebits' line `ours`."""
    m, n, k = ours["m"], ours["n"], ours["k"]
    line = {key: ours[key] for key in ("device", "driver", "date", "sms", "order", "shape", "m", "n", "k")}
    rates = {"gbps": n * k * element_bytes / us * 1e-3, "tflops": 2 * m * n * k / us * 1e-6}
    line |= {"kernel": name, "us": us, **rates, **bits, "torch": version}
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in line.items()}


def run_peer(name: str, make: Callable, kind: type[Peer], torch, cells: dict, rounds: int, file) -> None:
    """Appends a line of the peer `make(torch)` for each cell. What it refuses is left out with its words."""
    try:
        multiply = make(torch)
    except (ImportError, RuntimeError, AttributeError) as error:
        return print(f"{name} is left out: {error}")
    try:
        import samebits
    except ImportError as error:
        samebits = None
        print(f"the bits of {name} are not compared: {error}")
    for (shape, n, k), ours in cells.items():
        side = None
        try:
            side = kind(torch, multiply, max(line["m"] for line in ours), n, k)
        except RuntimeError as error:  # out of memory, or a shape that the peer refuses
            print(f"{name} {shape} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        for line in ours:
            try:
                us = side.microseconds(line["m"], line["us"], rounds)
                bits = side.bits(line["m"], samebits)
            except RuntimeError as error:
                print(f"{name} {shape} m={line['m']} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            made = peer_line(name, line, us, bits, torch.__version__, side.element_bytes)
            print(json.dumps(made, separators=(",", ":")), file=file, flush=True)
            changed = "" if made.get("invariant", True) else ", other bits than at the largest M"
            print(f"{name} {shape} m={line['m']}: {us:.2f} us, samebits {line['us']:.2f}{changed}", flush=True)
        side = None
        torch.cuda.empty_cache()


def summary(lines: list[dict], names: Iterable[str]) -> None:
    """Geometric mean and worst cell of each peer's time over samebits', by M."""
    ours = {(x["n"], x["k"], x["m"]): x["us"] for x in lines if x["kernel"] == "samebits" and "m" in x}
    for name in names:
        ratios = [(x["us"] / ours[x["n"], x["k"], x["m"]], x) for x in lines if x["kernel"] == name]
        for what, low, high in (("M <= 64", 0, 64), ("65 to 511", 65, 511), ("M >= 512", 512, 1 << 30)):
            part = [(r, x) for r, x in ratios if low <= x["m"] <= high]
            if part:
                worst, cell = min(part, key=lambda p: p[0])
                where = f"{cell['n']}x{cell['k']} m={cell['m']}"
                print(f"{name} {what}: {statistics.geometric_mean(r for r, _ in part):.2f} (worst {worst:.2f}, {where})")
