#!/usr/bin/env python3
"""Token ids and logprobs of prompts alone and in batches, for each arm: one process, one JSON line, one hash each.

The verdict: invariant arms give every prompt the same bits alone and in batches, samebits those of vLLM's
batch-invariant kernel, and the default arm, which must differ, does. Exit codes: 0 all of that holds, 1 not.

Dummy weights give every prompt the same logits, so such a test could not fail: `--random CONFIG` writes random weights
of the shapes of a configuration (a folder with config.json and a tokenizer) once and uses those.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_arms import ARMS, environment, selected_kernels

PROMPT_TOKENS = (33, 100, 257, 64, 400, 17, 129, 310)
MARK = "TOKENS "


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen3-1.7B", help="a name or a folder with real weights")
    parser.add_argument("--random", type=Path, metavar="CONFIG", help="random weights for this configuration instead")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default", "vllm", "samebits"])
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--filler", type=int, default=40, help="other prompts in the crowded batch")
    parser.add_argument("--parallel", action="store_true", help="all arms at once on one GPU, 10 GB and their weights each")
    parser.add_argument("--out", type=Path, default=Path("out/vllm"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_random_model(config_folder: Path, out: Path) -> Path:
    """A checkpoint in BF16 with the initialization of the architecture, seed 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if (out / "done").exists():
        return out
    shutil.copytree(config_folder, out, dirs_exist_ok=True)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config_folder), dtype=torch.bfloat16)
    model.save_pretrained(out)
    (out / "done").touch()
    return out


def fingerprint(output) -> str:
    """A hash of the token ids and of the bits of their logprobs."""
    digest = hashlib.sha256()
    for token, position in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        digest.update(struct.pack("<q", token))
        for candidate in sorted(position):
            digest.update(struct.pack("<qd", candidate, position[candidate].logprob))
    return digest.hexdigest()


def worker(args: argparse.Namespace) -> None:
    """In the environment of one arm: prints one line with the fingerprints of all arrangements."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=args.model,
        quantization="fp8",
        attention_backend="TRITON_ATTN",
        max_model_len=1024,
        enable_prefix_caching=False,
        seed=0,
        # A fixed cache leaves out the profiling of free memory, which other arms on the same GPU would disturb.
        **({"gpu_memory_utilization": 0.2, "kv_cache_memory_bytes": 4 << 30} if args.parallel else {}),
    )
    vocabulary = llm.get_tokenizer().vocab_size
    draw = random.Random(0)

    def prompt(tokens: int):
        return TokensPrompt(prompt_token_ids=[draw.randrange(vocabulary) for _ in range(tokens)])

    prompts = [prompt(n) for n in PROMPT_TOKENS]
    filler = [prompt(draw.randrange(20, 500)) for _ in range(args.filler)]
    params = SamplingParams(temperature=0, max_tokens=args.new_tokens, logprobs=3, ignore_eos=True)

    def run(batch: list) -> list[str]:
        return [fingerprint(output) for output in llm.generate(batch, params, use_tqdm=False)]

    found = {
        "alone": [run([p])[0] for p in prompts],
        "batch": run(prompts),
        "crowded": run(filler + prompts)[len(filler) :],
    }
    print(MARK + json.dumps(found), flush=True)


def run_arm(args: argparse.Namespace, arm: str) -> dict:
    command = [sys.executable, __file__, "--worker", "--model", str(args.model)]
    command += ["--new-tokens", str(args.new_tokens), "--filler", str(args.filler)]
    command += ["--parallel"] if args.parallel else []
    done = subprocess.run(
        command, env=environment(arm), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    (args.out / f"tokens-{arm}.log").write_text(done.stdout)
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        raise SystemExit(f"arm {arm}: exit code {done.returncode}, end of its log:\n{done.stdout[-3000:]}")
    prints = json.loads(found[-1].removeprefix(MARK))
    return {
        "arm": arm,
        "model": str(args.model),
        "prompts": len(prints["alone"]),
        "distinct": len(set(prints["alone"])),
        "differ": {name: sum(x != y for x, y in zip(prints["alone"], prints[name], strict=True)) for name in prints},
        "hash": {name: hashlib.sha256("".join(prints[name]).encode()).hexdigest()[:16] for name in prints},
        "kernels": selected_kernels(arm, done.stdout),
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
    if {"vllm", "samebits"} <= rows.keys() and rows["vllm"]["hash"] != rows["samebits"]["hash"]:
        wrong.append("samebits: other token ids or logprobs than vLLM's batch-invariant kernel")
    return wrong


def main() -> int:
    args = arguments()
    if args.worker:
        worker(args)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    if args.random:
        name = args.random.resolve().name
        args.model = write_random_model(args.random, Path(os.environ.get("TMPDIR", "/tmp")) / f"random-{name}")
    rows = {}
    with open(args.out / "tokens.jsonl", "w") as file, ThreadPoolExecutor(len(args.arms) if args.parallel else 1) as pool:
        for arm, row in zip(args.arms, pool.map(lambda arm: run_arm(args, arm), args.arms), strict=True):
            rows[arm] = row
            print(json.dumps(rows[arm]), file=file, flush=True)
            print(f"{arm:9} differ {rows[arm]['differ']}  hash {rows[arm]['hash']}", flush=True)
    wrong = verdict(rows)
    print("\n".join(wrong) or "as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
