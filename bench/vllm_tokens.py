#!/usr/bin/env python3
"""Token ids and logprobs of prompts alone and in batches, for each arm: one process, one JSON line, one hash each.

The verdict: invariant arms give every prompt the same bits alone and in batches, samebits-fp8 and samebits those of vLLM's
batch-invariant kernel, and the default arm, which must differ, does. Exit codes: 0 all of that holds, 1 not.

Dummy weights give every prompt the same logits, so such a test could not fail: `--random CONFIG` writes random weights
of the shapes of a configuration (a folder with config.json and a tokenizer) once and uses those.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from vllm_arms import ARMS, SAME_TOKENS, Engine, engine_command, engines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen3-1.7B", help="a name or a folder with real weights")
    parser.add_argument("--random", type=Path, metavar="CONFIG", help="random weights for this configuration instead")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default", "vllm", "samebits-fp8", "samebits"])
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--filler", type=int, default=40, help="other prompts in the crowded batch")
    parser.add_argument("--parallel", action="store_true", help="start all arms at once on one GPU, 10 GB and their weights each")
    parser.add_argument("--out", type=Path, default=Path("out/vllm"))
    parser.add_argument("rest", nargs="*", help="after --: more arguments of vLLM's engine")
    return parser.parse_args()


def write_random_model(config_folder: Path, root: Path | None = None) -> Path:
    """A checkpoint in BF16 with the initialization of the architecture, seed 0, below root ($TMPDIR); written once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    out = (root or Path(tempfile.gettempdir())) / f"random-{config_folder.resolve().name}"
    if (out / "done").exists():
        return out
    weights = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.pt", "*.pth")  # vLLM would load them too
    shutil.copytree(config_folder, out, dirs_exist_ok=True, ignore=weights)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config_folder), dtype=torch.bfloat16)
    model.save_pretrained(out)
    (out / "done").touch()
    return out


def row(engine: Engine, args: argparse.Namespace) -> dict:
    """One line of tokens.jsonl."""
    prints = engine.ask("tokens", new_tokens=args.new_tokens, filler=args.filler)
    return {
        "arm": engine.arm,
        "model": str(args.model),
        "prompts": len(prints["alone"]),
        "distinct": len(set(prints["alone"])),
        "differ": {name: sum(x != y for x, y in zip(prints["alone"], prints[name], strict=True)) for name in prints},
        "hash": {name: hashlib.sha256("".join(prints[name]).encode()).hexdigest()[:16] for name in prints},
        "kernels": engine.kernels,
    }


def verdict(rows: dict[str, dict]) -> list[str]:
    """What does not hold, one sentence each."""
    wrong = []
    for arm, row in rows.items():
        differ = sum(row["differ"].values())
        if row["distinct"] < row["prompts"]:
            wrong.append(f"{arm}: only {row['distinct']} of {row['prompts']} prompts differ from each other")
        if arm == "default" and differ == 0:
            wrong.append("default: the control arm does not depend on the batch, so this test shows nothing")
        if arm != "default" and differ:
            wrong.append(f"{arm}: prompts differ from alone: {row['differ']}")
    for arm in SAME_TOKENS:
        if {"vllm", arm} <= rows.keys() and rows["vllm"]["hash"] != rows[arm]["hash"]:
            wrong.append(f"{arm}: other token ids or logprobs than vLLM's batch-invariant kernel")
    return wrong


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.random:
        args.model = write_random_model(args.random)
    command = [*engine_command(str(args.model)), "--max-model-len", "1024", "--seed", "0", *args.rest]
    rows = {}
    with (
        open(args.out / "tokens.jsonl", "w") as file,
        engines(args.arms, args.out, command, args.parallel) as started,
    ):
        for engine in started:
            rows[engine.arm] = row(engine, args)
            print(json.dumps(rows[engine.arm]), file=file, flush=True)
            print(f"{engine.arm:9} differ {rows[engine.arm]['differ']}  hash {rows[engine.arm]['hash']}", flush=True)
    wrong = verdict(rows)
    print("\n".join(wrong) or "as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
