#!/usr/bin/env python3
"""FP8 checkpoints of every form that vLLM loads onto the plugin's kernels, through vLLM itself: same tokens, same bits?

A small Qwen3 with random weights, written as each form of FORMATS. For each: prompts alone and in batches with the
plugin's FP8 linears, against vLLM's batch-invariant kernel where that computes the form (not blocks), and vLLM's default
arm once, which must differ in batches. One JSON line for each engine in OUT/formats.jsonl. Exit codes: 0 all of that
holds, 1 not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_arms import Engine, compilation
from vllm_tokens import row, verdict, write_random_model

ARMS = ("vllm", "samebits-fp8")
CONTROL = "vllm-fp8"
"""The form that the default arm runs, too."""
INPUT_SCALE = 0.02
"""Of static activations: 448 times that is more than what a norm or SiLU gives here."""
ENGINE = [
    "--attention-backend", "TRITON_ATTN", "--max-model-len", "1024", "--seed", "0", "--gpu-memory-utilization", "0.05",
    "--kv-cache-memory-bytes", "1000000000",
]  # fmt: skip
SMALL = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def add_input_scales(folder: Path) -> None:
    """Beside every weight_scale."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for key in [key for key in tensors if key.endswith(".weight_scale")]:
            tensors[key.replace("weight_scale", "input_scale")] = torch.tensor(INPUT_SCALE)
        save_file(tensors, path, {"format": "pt"})


def vllm_static(config: dict) -> dict:
    return config | {"activation_scheme": "static"}


def compressed_tensors_static(config: dict) -> dict:
    for group in config["config_groups"].values():
        group["input_activations"] |= {"dynamic": False, "strategy": "tensor"}
    return config


def modelopt(config: dict) -> dict:
    return {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}


@dataclass(frozen=True)
class Format:
    """What `samebits quantize` is asked for, and the `quantization_config` of what it does not write: static activations."""

    quantize: tuple[str, ...]
    static: Callable[[dict], dict] | None = None
    arms: tuple[str, ...] = ARMS


FORMATS = {
    "vllm-fp8": Format(("--format", "vllm-fp8")),
    "vllm-fp8-static": Format(("--format", "vllm-fp8"), vllm_static),
    "vllm-fp8-block": Format(("--format", "vllm-fp8", "--weights", "block"), arms=("samebits-fp8",)),
    "compressed-tensors": Format(("--format", "compressed-tensors")),
    "compressed-tensors-tensor": Format(("--format", "compressed-tensors", "--weights", "tensor")),
    "compressed-tensors-static": Format(("--format", "compressed-tensors", "--weights", "tensor"), compressed_tensors_static),
    "modelopt": Format(("--format", "vllm-fp8"), modelopt),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="a folder with the config.json and tokenizer of a Qwen3")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--filler", type=int, default=40, help="other prompts in the crowded batch")
    parser.add_argument("--samebits", default=os.environ.get("SAMEBITS_CLI", "samebits"), help="the executable")
    parser.add_argument("--out", type=Path, default=Path("out/vllm"))
    parser.add_argument("rest", nargs="*", help="after --: more arguments of vLLM's engine")
    return parser.parse_args()


def small_model(config_folder: Path, root: Path) -> Path:
    """Random BF16 weights of a SMALL model of that configuration."""
    shutil.copytree(config_folder, root / "small", ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*"))
    path = root / "small" / "config.json"
    config = json.loads(path.read_text()) | SMALL
    config.pop("layer_types", None)  # one for each layer of the large model
    path.write_text(json.dumps(config))
    return write_random_model(root / "small", root)


def write(name: str, model: Path, root: Path, samebits: str) -> Path:
    """The model's folder in the form of that name."""
    form, out = FORMATS[name], root / name
    subprocess.run([samebits, "quantize", model, out, *form.quantize], check=True, stdout=subprocess.DEVNULL)
    if form.static:
        add_input_scales(out)
        config = json.loads((out / "config.json").read_text())
        config["quantization_config"] = form.static(config["quantization_config"])
        (out / "config.json").write_text(json.dumps(config))
    return out


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    wrong = []
    with tempfile.TemporaryDirectory() as folder, open(args.out / "formats.jsonl", "w") as file:
        model = small_model(args.config, Path(folder))
        started: dict[str, list[Engine]] = {}
        try:
            for name in args.formats:
                command = ["--model", str(write(name, model, Path(folder), args.samebits)), *ENGINE, *args.rest]
                (args.out / name).mkdir(exist_ok=True)
                started[name] = []
                for arm in FORMATS[name].arms + ("default",) * (name == CONTROL):
                    started[name].append(Engine(arm, args.out / name, command + compilation(arm)))
            for name, engines in started.items():
                args.model = name
                rows = {engine.arm: row(engine, args) for engine in engines}
                for line in rows.values():
                    print(json.dumps(line), file=file, flush=True)
                found = verdict(rows)
                wrong += [f"{name}: {sentence}" for sentence in found]
                kernels = {kernel for arm in ARMS if arm in rows for kernel in rows[arm]["kernels"]}
                print(f"{name:26} {'; '.join(found) or 'as it should be'} ({', '.join(sorted(kernels))})", flush=True)
        finally:
            all_engines = [engine for engines in started.values() for engine in engines]
            for engine in all_engines:
                engine.process.stdin.close()  # they end side by side
            for engine in all_engines:
                engine.close()
    print("\n".join(wrong) or f"{len(started)} forms: as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
