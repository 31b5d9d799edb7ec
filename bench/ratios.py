"""The arithmetic behind bench/plot.py: JSON lines of bench/run.py to cells, ratios, geometric means and bounds.

A ratio is the peer's time divided by samebits' in one cell (device, Order, shape, M): above 1 samebits is faster.
"""

import json
import math
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass, field

PEERS = ("fixed-tile", "cublaslt-outer", "cublaslt-outer-slow", "cublaslt-tensor", "torch-rowwise")
CLASSES = {"M <= 64": (1, 64), "65 ... 511": (65, 511), "M >= 512": (512, math.inf), "M >= 1024": (1024, math.inf)}
NEAR = 0.8  # a bound that explains this share of the time is called the bound
LAUNCH = 0.25  # where an empty kernel takes this share, the launch is


@dataclass
class Machine:
    """What one device can do at most: read GB/s and the us of an empty kernel, measured; the best TFLOP/s of a file."""

    read_gbps: float = math.nan
    empty_us: float = math.nan
    tflops: dict[str, float] = field(default_factory=dict)  # by Order


@dataclass
class Cell:
    """One problem and what every kernel took for it."""

    device: str
    order: str
    shape: str
    m: int
    n: int
    k: int
    lines: dict[str, dict] = field(default_factory=dict)  # by kernel

    def ratio(self, peer: str) -> float | None:
        ours, other = self.lines.get("samebits"), self.lines.get(peer)
        return other["us"] / ours["us"] if ours and other else None

    @property
    def bytes(self) -> int:
        """Read and written once: weight and tokens in FP8, the output in BF16."""
        return self.n * self.k + self.m * self.k + 2 * self.m * self.n

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k


def read_lines(paths: Iterable[pathlib.Path]) -> list[dict]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


def cells_of(lines: Iterable[dict]) -> tuple[list[Cell], dict[str, Machine]]:
    """Cells in order of appearance, and the machines by device. A later line replaces an earlier one of its cell."""
    cells: dict[tuple, Cell] = {}
    machines: dict[str, Machine] = {}
    for line in lines:
        machine = machines.setdefault(line["device"], Machine())
        if line["kernel"] == "ceiling-read":
            machine.read_gbps = line["gbps"]
        elif line["kernel"] == "ceiling-empty-kernel":
            machine.empty_us = line["us"]
        elif "shape" in line:
            key = tuple(line[name] for name in ("device", "order", "shape", "m", "n", "k"))
            cells.setdefault(key, Cell(*key)).lines[line["kernel"]] = line
            best = machine.tflops.get(line["order"], 0.0)
            machine.tflops[line["order"]] = max(best, line["tflops"])
    return list(cells.values()), machines


def geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(cells: Iterable[Cell], peer: str, low: float = 1, high: float = math.inf) -> list[float]:
    """Of the cells with low <= M <= high where both were timed."""
    found = (cell.ratio(peer) for cell in cells if low <= cell.m <= high)
    return [ratio for ratio in found if ratio is not None]


def summary(cells: list[Cell]) -> list[list[str]]:
    """A row for each peer: its name and, for each class of M, "geomean (worst; cells below 1 of all)"."""
    rows = []
    for peer in PEERS:
        row = [peer]
        for low, high in CLASSES.values():
            found = ratios(cells, peer, low, high)
            below = sum(ratio < 1 for ratio in found)
            row.append(f"{geomean(found):.2f} ({min(found):.2f}; {below} of {len(found)})" if found else "-")
        if any(text != "-" for text in row[1:]):
            rows.append(row)
    return rows


def why(cell: Cell, machine: Machine, peer: str) -> str:
    """The likely bound of samebits' row in a cell, from its bytes, its flops and its output tiles.

    A tile is the work of one block: fewer tiles than SMs leave SMs idle, a last wave that is not full wastes part of
    them, and a tile that reaches past M or N computes for nothing.
    """
    ours = cell.lines["samebits"]
    read = cell.bytes / machine.read_gbps * 1e-3 / ours["us"]
    flops = cell.flops / machine.tflops[cell.order] * 1e-6 / ours["us"]
    tiles, sms, (tile_m, tile_n, _) = ours["tiles"], ours["sms"], ours["tile"]
    waves = math.ceil(tiles / sms)
    fill, used = tiles / (waves * sms), cell.m * cell.n / (tiles * tile_m * tile_n)
    split = cell.lines[peer].get("split_k", 1)
    note = f"the peer splits K in {split}; " if split > 1 else ""
    grid = f"{tiles} tiles fill {fill:.0%} of {waves} x {sms} SMs, {used:.0%} of their area is output"
    if read >= NEAR:
        return f"{note}bytes: {read:.0%} of the read ceiling"
    if flops >= NEAR:
        return f"{note}flops: {flops:.0%} of the best TFLOP/s; {grid}"
    if flops / (fill * used) >= NEAR:
        return f"{note}waves: {grid}"
    if machine.empty_us / ours["us"] >= LAUNCH:
        return f"{note}launch: an empty kernel takes {machine.empty_us / ours['us']:.0%} of the time; {grid}"
    return f"{note}latency: bytes explain {read:.0%} and flops {flops:.0%} of the time; {grid}"


def losses(cells: list[Cell], machines: dict[str, Machine], below: float = 1.0) -> list[list[str]]:
    """A row for each cell and peer with a ratio below `below`, worst first: peer, shape, M, row, us, ratio, why."""
    found = []
    for cell in cells:
        for peer in PEERS:
            ratio = cell.ratio(peer)
            if ratio is None or ratio >= below:
                continue
            ours = cell.lines["samebits"]
            text = why(cell, machines[cell.device], peer)
            found.append((ratio, [peer, cell.shape, str(cell.m), ours.get("row", ""), f"{ours['us']:.2f}", text]))
    found.sort(key=lambda item: item[0])
    return [row[:5] + [f"{ratio:.3f}"] + row[5:] for ratio, row in found]


def layers(lines: Iterable[dict], device: str, order: str) -> list[list[str]]:
    """A row for each layer, M and side of `samebits bench --layer`: us, of the read ceiling, ratio."""
    mine = [line for line in lines if "layer" in line and (line["device"], line["order"]) == (device, order)]
    latest = {(line["layer"], line["m"], line["kernel"]): line for line in mine}
    rows = []
    for (layer, m, kernel), line in latest.items():
        ratio = line["us"] / latest[layer, m, "samebits"]["us"]
        rows.append([layer, str(m), kernel, f"{line['us']:.2f}", f"{line['of_read_ceiling']:.1%}", f"{ratio:.2f}"])
    return rows


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
