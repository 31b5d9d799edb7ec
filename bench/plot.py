#!/usr/bin/env python3
"""Draws the JSON lines of bench/run.py and prints their tables: bench/plot.py bench/results/h100.jsonl > tables.md

For each device and Order: a ratio map for each peer (shape x M, the peer's time divided by samebits'), the bandwidth of
the weights in decode, and TFLOP/s of four shapes under the measured ceilings, as docs/img/<device>-<order>-*.png. Needs
matplotlib (bench/requirements.txt); --tables needs nothing.
"""

import argparse
import pathlib
import sys

from ratios import CLASSES, PEERS, Cell, Machine, cells_of, layers, losses, markdown, read_lines, summary

ROOT = pathlib.Path(__file__).resolve().parent.parent
DECODE_M = 8
CURVES = ((4096, 2048), (6144, 4096), (28672, 4096), (8192, 3584))  # [N,K] of the TFLOP/s curves


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/img")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--below", type=float, default=1.0, help="list the cells with a ratio below this")
    parser.add_argument("--tables", action="store_true", help="print the tables, draw nothing")
    return parser.parse_args()


def print_tables(title: str, cells: list[Cell], machines: dict[str, Machine], below: float) -> None:
    print(f"## {title}\n\nPeer's time / samebits' time: geomean (worst; cells below 1 of all).\n")
    print(markdown(["against", *CLASSES], summary(cells)))
    rows = losses(cells, machines, below)
    print(f"{len(rows)} cells below {below:g}, worst first:\n")
    print(markdown(["against", "shape", "M", "row", "us", "ratio", "why"], rows))


def ratio_map(plt, cells: list[Cell], peer: str, title: str):
    """One colour and number a cell; blue where samebits is faster."""
    shapes = list(dict.fromkeys(cell.shape for cell in cells))
    sizes = sorted({cell.m for cell in cells})
    grid = [[float("nan")] * len(sizes) for _ in shapes]
    for cell in cells:
        grid[shapes.index(cell.shape)][sizes.index(cell.m)] = cell.ratio(peer) or float("nan")
    figure, axes = plt.subplots(figsize=(3.2 + 0.5 * len(sizes), 1.2 + 0.26 * len(shapes)), layout="constrained")
    norm = plt.matplotlib.colors.SymLogNorm(linthresh=0.1, vmin=-1, vmax=1)
    axes.imshow([[ratio - 1 for ratio in row] for row in grid], cmap="RdBu", norm=norm, aspect="auto")
    for y, row in enumerate(grid):
        for x, ratio in enumerate(row):
            if ratio == ratio:
                shade = "white" if abs(ratio - 1) > 0.3 else "black"
                axes.text(x, y, f"{ratio:.2f}", ha="center", va="center", fontsize=7, color=shade)
    axes.set_xticks(range(len(sizes)), sizes, fontsize=8)
    axes.set_yticks(range(len(shapes)), shapes, fontsize=8)
    axes.set_xlabel("M")
    axes.set_title(f"{title}: time of {peer} / time of samebits", fontsize=9)
    return figure


def bandwidth(plt, cells: list[Cell], machine: Machine, title: str):
    """GB/s of weight bytes at the M of decode, by the size of the weight."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    decode = sorted((cell for cell in cells if cell.m == DECODE_M), key=lambda cell: cell.n * cell.k)
    for kernel in ("samebits", *PEERS):
        points = [(c.n * c.k * 1e-6, c.lines[kernel]["gbps"]) for c in decode if kernel in c.lines]
        if points:
            axes.plot(*zip(*points), marker=".", linewidth=1.8 if kernel == "samebits" else 0.9, label=kernel)
    axes.axhline(machine.read_gbps, color="black", linestyle="--", linewidth=0.8, label="read ceiling, measured")
    axes.set(xscale="log", xlabel="weight, MB", ylabel="GB/s of weight", ylim=(0, None))
    axes.set_title(f"{title}, M = {DECODE_M}", fontsize=9)
    axes.legend(fontsize=7)
    return figure


def tflops(plt, cells: list[Cell], machine: Machine, title: str):
    """TFLOP/s against M for four shapes, under what the read ceiling and the best TFLOP/s of the file allow."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for axes, (n, k) in zip(grid.flat, CURVES):
        chosen = sorted((cell for cell in cells if (cell.n, cell.k) == (n, k)), key=lambda cell: cell.m)
        axes.set_visible(bool(chosen))
        for kernel in ("samebits", *PEERS):
            points = [(c.m, c.lines[kernel]["tflops"]) for c in chosen if kernel in c.lines]
            if points:
                axes.plot(*zip(*points), marker=".", linewidth=1.8 if kernel == "samebits" else 0.9, label=kernel)
        roof = [(c.m, min(c.flops / c.bytes * machine.read_gbps * 1e-3, machine.tflops[c.order])) for c in chosen]
        if roof:
            axes.plot(*zip(*roof), color="black", linestyle="--", linewidth=0.8, label="ceilings, measured")
            axes.set(xscale="log", yscale="log", xlabel="M", ylabel="TFLOP/s")
            axes.set_title(f"{n} x {k}", fontsize=8)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=7)
    figure.suptitle(title, fontsize=9)
    return figure


def draw(stem: str, title: str, cells: list[Cell], machine: Machine, args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the bytes
    from matplotlib import pyplot as plt

    args.out.mkdir(parents=True, exist_ok=True)
    figures = {f"vs-{peer}": ratio_map(plt, cells, peer, title) for peer in PEERS if any(c.ratio(peer) for c in cells)}
    figures |= {"bandwidth": bandwidth(plt, cells, machine, title), "tflops": tflops(plt, cells, machine, title)}
    for name, figure in figures.items():
        path = args.out / f"{stem}-{name}.{args.format}"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        print(f"{path}: {path.stat().st_size >> 10} KiB", file=sys.stderr)


def main() -> None:
    args = arguments()
    for path in args.files:
        lines = read_lines([path])
        cells, machines = cells_of(lines)
        for device, order in dict.fromkeys((cell.device, cell.order) for cell in cells):
            chosen = [cell for cell in cells if (cell.device, cell.order) == (device, order)]
            print_tables(f"{device}, {order}", chosen, machines, args.below)
            if of_layers := layers(lines, device, order):
                print(markdown(["layer", "M", "side", "us", "weights, of the read ceiling", "ratio"], of_layers))
            if not args.tables:
                draw(f"{path.stem}-{order}", f"{device}, {order}", chosen, machines[device], args)


if __name__ == "__main__":
    main()
