"""The arithmetic of bench/ratios.py on a file made by hand, and what bench/run.py decides without a GPU."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import peers
import ratios
import run

HEAD = {"device": "NVIDIA H100 80GB HBM3", "driver": "CUDA 13.0", "date": "2026-11-24", "sms": 132}


def line(kernel: str, m: int, us: float, n: int = 1024, k: int = 2048, order: str = "hopper-fast", **more) -> dict:
    shape = {"order": order, "shape": f"made {n}x{k}", "m": m, "n": n, "k": k}
    rates = {"us": us, "gbps": n * k / us * 1e-3, "tflops": 2 * m * n * k / us * 1e-6}
    return HEAD | shape | {"kernel": kernel, "same_bits": True} | rates | more


def ours(m: int, us: float, **more) -> dict:
    return line("samebits", m, us, **({"row": "s", "tile": [64, 16, 256], "tiles": 132} | more))


def written(folder: Path, lines: list[dict]) -> Path:
    path = folder / "h100.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


CEILINGS = [
    HEAD | {"kernel": "ceiling-read", "us": 1.0, "gbps": 2000.0},
    HEAD | {"kernel": "ceiling-empty-kernel", "us": 1.0},
]


def test_a_summary_has_geomean_worst_and_cells_below_one(tmp_path: Path) -> None:
    times = {1: (10.0, 20.0), 64: (10.0, 5.0), 65: (4.0, 4.0), 512: (100.0, 300.0), 1024: (100.0, 1200.0)}
    lines = list(CEILINGS)
    for m, (us, peer_us) in times.items():
        lines += [ours(m, us), line("fixed-tile", m, peer_us)]
    lines.append(line("torch-rowwise", 2048, 1.0))  # a cell without samebits has no ratio
    cells, machines = ratios.cells_of(ratios.read_lines([written(tmp_path, lines)]))
    assert machines[HEAD["device"]].read_gbps == 2000.0
    assert ratios.summary(cells) == [
        ["fixed-tile", "1.00 (0.50; 1 of 2)", "1.00 (1.00; 0 of 1)", "6.00 (3.00; 0 of 2)", "12.00 (12.00; 0 of 1)"]
    ]


def test_a_later_line_replaces_the_cell_and_layers_are_no_cells(tmp_path: Path) -> None:
    layer = HEAD | {"kernel": "samebits", "layer": "llama3-8b", "m": 8, "us": 90.0}
    lines = [*CEILINGS, ours(8, 10.0), line("cublaslt-outer", 8, 20.0), layer, line("cublaslt-outer", 8, 30.0)]
    cells, _ = ratios.cells_of(ratios.read_lines([written(tmp_path, lines)]))
    assert len(cells) == 1
    assert cells[0].ratio("cublaslt-outer") == 3.0
    assert cells[0].ratio("fixed-tile") is None


def test_layers_keep_the_latest_line_of_a_side() -> None:
    def side(kernel: str, us: float, device: str = HEAD["device"]) -> dict:
        facts = {"order": "hopper-fast", "layer": "llama3-8b", "m": 8, "of_read_ceiling": 50 / us}
        return HEAD | facts | {"device": device, "kernel": kernel, "us": us}

    lines = [*CEILINGS, ours(8, 10.0), side("samebits", 80.0), side("cublaslt", 200.0), side("samebits", 100.0)]
    assert ratios.layers([*lines, side("samebits", 1.0, "other")], HEAD["device"], "hopper-fast") == [
        ["llama3-8b", "8", "samebits", "100.00", "50.0%", "1.00"],
        ["llama3-8b", "8", "cublaslt", "200.00", "25.0%", "2.00"],
    ]
    assert ratios.layers(lines, HEAD["device"], "hopper-promoted") == []


def test_orders_are_different_cells() -> None:
    cells, _ = ratios.cells_of([*CEILINGS, ours(8, 10.0), ours(8, 20.0, order="hopper-promoted")])
    assert [cell.order for cell in cells] == ["hopper-fast", "hopper-promoted"]


FLOPS_US = 2 * 4096 * 1024 * 2048 / 1000 * 1e-6  # of M = 4096 at 1000 TFLOP/s


def read_us(m: int) -> float:
    """Microseconds at 2000 GB/s for the bytes of the made shape."""
    return (1024 * 2048 + m * 2048 + 2 * m * 1024) / 2000.0 * 1e-3


@pytest.mark.parametrize(
    "m, us, more, peer_more, word",
    [
        (8, read_us(8) / 0.9, {}, {}, "bytes: 90% of the read ceiling"),
        (8, read_us(8) / 0.9, {}, {"split_k": 4}, "the peer splits K in 4; bytes"),
        (4096, FLOPS_US / 0.85, {"tile": [128, 256, 128], "tiles": 128}, {}, "flops: 85%"),
        # 64 of 132 SMs have a tile, so 44 % of the best TFLOP/s is 91 % of what they can give.
        (4096, FLOPS_US / 0.44, {"tile": [256, 256, 64], "tiles": 64}, {}, "waves: 64 tiles fill 48% of 1 x 132 SMs"),
        (8, 3.0, {}, {}, "launch: an empty kernel takes 33%"),
        (8, 50.0, {}, {}, "latency: bytes explain 2%"),
    ],
)
def test_the_bound_of_a_loss(m: int, us: float, more: dict, peer_more: dict, word: str) -> None:
    best = line("cublaslt-outer", 8192, 2 * 8192 * 1024 * 2048 / 1000 * 1e-6)  # 1000 TFLOP/s
    peer = line("cublaslt-tensor", m, us * 0.9, **peer_more)
    cells, machines = ratios.cells_of([*CEILINGS, ours(m, us, **more), peer, best])
    assert machines[HEAD["device"]].tflops["hopper-fast"] == pytest.approx(1000)
    (row,) = ratios.losses(cells, machines)
    assert row[:3] == ["cublaslt-tensor", "made 1024x2048", str(m)]
    assert row[5] == "0.900"
    assert word in row[6]


def test_losses_are_sorted_and_stop_at_the_limit() -> None:
    lines = [*CEILINGS, ours(1, 10.0), line("fixed-tile", 1, 9.0), ours(2, 10.0), line("fixed-tile", 2, 5.0)]
    cells, machines = ratios.cells_of(lines)
    assert [row[2] for row in ratios.losses(cells, machines)] == ["2", "1"]
    assert [row[2] for row in ratios.losses(cells, machines, below=0.9)] == ["2"]


def test_markdown_and_geomean() -> None:
    assert ratios.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert ratios.geomean([2.0, 8.0]) == pytest.approx(4.0)


def test_results_are_named_by_the_device() -> None:
    names = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200", "NVIDIA GeForce RTX": "nvidia-geforce-rtx"}
    for device, stem in names.items():
        assert run.results_file(device).name == f"{stem}.jsonl"
    assert run.results_file(None).parent.name == "out"


def test_the_commands_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", "run.py --cli cli --quick --shapes seed --append".split())
    args = run.arguments()
    assert args.layers == ""
    sweep = run.bench_command(args, Path("x"), args.append, shapes=args.shapes, m=args.m, kernels=args.kernels)
    assert sweep == f"cli bench --append --rounds 3 --out x --shapes seed --m {run.QUICK_M} --kernels chosen".split()
    monkeypatch.setattr(sys, "argv", "run.py --cli cli --order hopper-fast --cublaslt lt.so".split())
    args = run.arguments()
    layers = run.bench_command(args, Path("x"), True, layer=args.layers)
    common = "cli bench --append --rounds 7 --order hopper-fast --cublaslt lt.so --out x"
    assert layers == [*common.split(), "--layer", run.LAYERS]


def test_torchs_line_has_the_fields_of_a_cell() -> None:
    made = peers.peer_line("torch-rowwise", ours(8, 10.0), 12.3456789, {"same_bits": None}, "2.13.0")
    cells, _ = ratios.cells_of([ours(8, 10.0), made])
    assert cells[0].ratio("torch-rowwise") == 1.2346
    assert made["same_bits"] is None and made["order"] == "hopper-fast"
    assert made["gbps"] == pytest.approx(1024 * 2048 / 12.3456789 * 1e-3, rel=1e-4)
