"""A vLLM engine that answers requests: what vllm_arms.Engine starts in the environment of an arm.

`vllm_engine.py REPLY_FD [arguments of vLLM's engine]`: one JSON request a line on the standard input, one JSON reply a
line on the file descriptor. An engine takes a minute to start, so everything that is asked of an arm is asked of one.
"""

import hashlib
import json
import os
import random
import struct
import sys
import time

PROMPT_TOKENS = (33, 100, 257, 64, 400, 17, 129, 310)


def start(arguments: list[str]):
    """The engine as `vllm bench latency` makes it: prefix caching off, which would skew latencies."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.set_defaults(enable_prefix_caching=False)
    return LLM.from_engine_args(EngineArgs.from_cli_args(parser.parse_args(arguments)))


def random_prompts(vocabulary: int, lengths: list[int], seed: int = 0) -> list:
    from vllm.inputs import TokensPrompt

    draw = random.Random(seed)
    return [TokensPrompt(prompt_token_ids=[draw.randrange(vocabulary) for _ in range(n)]) for n in lengths]


def latency(llm, batch: int, input_len: int, output_len: int, warmup: int, iterations: int, profile: bool) -> list[float]:
    """Seconds of each iteration: the prompts and sampling of `vllm bench latency`. A profile traces one more."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=1.0, top_p=1.0, ignore_eos=True, max_tokens=output_len)
    prompts = random_prompts(10000, [input_len] * batch)
    seconds = []
    for _ in range(warmup + iterations):
        begin = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        seconds.append(time.perf_counter() - begin)
    if profile:
        llm.start_profile()
        llm.generate(prompts, params, use_tqdm=False)
        llm.stop_profile()
    return seconds[warmup:]


def fingerprint(output) -> str:
    """A hash of the token ids and of the bits of their logprobs."""
    digest = hashlib.sha256()
    for token, position in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        digest.update(struct.pack("<q", token))
        for candidate in sorted(position):
            digest.update(struct.pack("<qd", candidate, position[candidate].logprob))
    return digest.hexdigest()


def tokens(llm, new_tokens: int, filler: int) -> dict[str, list[str]]:
    """Fingerprints of eight prompts: alone, together, and behind `filler` others."""
    from vllm import SamplingParams

    lengths = random.Random(1)
    vocabulary = llm.get_tokenizer().vocab_size
    prompts = random_prompts(vocabulary, PROMPT_TOKENS)
    others = random_prompts(vocabulary, [lengths.randrange(20, 500) for _ in range(filler)], seed=2)
    params = SamplingParams(temperature=0, max_tokens=new_tokens, logprobs=3, ignore_eos=True)

    def run(batch: list) -> list[str]:
        return [fingerprint(output) for output in llm.generate(batch, params, use_tqdm=False)]

    return {"alone": [run([p])[0] for p in prompts], "batch": run(prompts), "crowded": run(others + prompts)[filler:]}


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "w") as replies:
        llm = start(sys.argv[2:])
        print(json.dumps("ready"), file=replies, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            answer = {"latency": latency, "tokens": tokens}[request.pop("do")]
            print(json.dumps(answer(llm, **request)), file=replies, flush=True)


if __name__ == "__main__":
    main()
