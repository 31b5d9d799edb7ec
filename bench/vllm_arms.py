"""The arms that bench/vllm_latency.py, vllm_tokens.py and vllm_formats.py compare, and an engine in the environment of one.

`selected_kernels` reads from vLLM's log which kernel an arm really took: an arm that took another one is an error.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

ARMS = {
    "default": {"VLLM_BATCH_INVARIANT": "0", "VLLM_PLUGINS": ""},
    "fallback": {
        "VLLM_BATCH_INVARIANT": "1",
        "VLLM_PLUGINS": "",
        "VLLM_DISABLED_KERNELS": "CutlassFP8ScaledMMLinearKernel",
    },
    "vllm": {
        "VLLM_BATCH_INVARIANT": "1",
        "VLLM_PLUGINS": "",
        "VLLM_DISABLED_KERNELS": "FlashInferFP8ScaledMMLinearKernel",
    },
    "samebits-fp8": {"VLLM_BATCH_INVARIANT": "1", "VLLM_PLUGINS": "samebits", "SAMEBITS_VLLM_LINEAR": "vllm"},
    "samebits": {"VLLM_BATCH_INVARIANT": "1", "VLLM_PLUGINS": "samebits"},
    "samebits-fused": {
        "VLLM_BATCH_INVARIANT": "1",
        "VLLM_PLUGINS": "samebits",
        "SAMEBITS_VLLM_QUANTIZER": "samebits",
    },
}
"""default: vLLM's own choice, not invariant. fallback: BF16 GEMM on dequantized weights. vllm: vLLM's batch-invariant
FP8 kernel. samebits-fp8: the plugin's FP8 linears alone. samebits: the plugin. samebits-fused: with its quantizer, norms
and activations fused into it (other tokens)."""

DETERMINISTIC = {"deterministic": True, "combo_kernels": True, "benchmark_combo_kernel": False}
"""Inductor's options for the invariant arms. By default it times several ways to sum a norm and keeps the fastest, so that
two processes that compile the same model can differ in bits; and it refuses to time vLLM's combined kernels with this."""
FUSED = {"post_grad_custom_post_pass": "samebits.fuse_vllm"}
SAMEBITS = ("SamebitsFP8ScaledMMLinearKernel", "SamebitsFp8BlockScaledMMKernel")
EXPECTED = {"vllm": ("CutlassFP8ScaledMMLinearKernel",)} | {arm: SAMEBITS for arm in ARMS if arm.startswith("samebits")}
SAME_TOKENS = ("samebits-fp8", "samebits")
"""Arms that must have the tokens and logprobs of arm vllm, bit for bit."""
EVIDENCE = {
    "samebits": ("samebits computes unquantized linears",),
    "samebits-fused": ("samebits computes unquantized linears", "(quantized by samebits)"),
}
"""What else an arm's log must say."""
ARM = "{arm}"
"""Stands for the arm's name in the arguments of its engine."""
# A fixed cache leaves out the profiling of free memory, which other arms on the same GPU would disturb.
SHARED_GPU = ["--gpu-memory-utilization", "0.05", "--kv-cache-memory-bytes", "10000000000"]


def engine_command(model: str) -> list[str]:
    """What every arm's engine is started with."""
    return ["--model", model, "--quantization", "fp8", "--attention-backend", "TRITON_ATTN"]


def compilation(arm: str) -> list[str]:
    """The arguments of an arm's engine for torch.compile."""
    if arm == "default":
        return []
    config: dict[str, Any] = {"inductor_compile_config": DETERMINISTIC}
    if arm == "samebits-fused":
        config["inductor_passes"] = FUSED
    return ["--compilation-config", json.dumps(config)]


def environment(arm: str) -> dict[str, str]:
    """The environment of a subprocess for the arm, with a compile cache of its own."""
    env = {key: value for key, value in os.environ.items() if key != "VLLM_DISABLED_KERNELS" and "SAMEBITS_VLLM" not in key}
    cache = env.get("VLLM_CACHE_ROOT", os.path.expanduser("~/.cache/vllm"))
    return env | ARMS[arm] | {"VLLM_CACHE_ROOT": os.path.join(cache, f"arm-{arm}"), "VLLM_LOGGING_LEVEL": "INFO"}


def selected_kernels(arm: str, log: str) -> list[str]:
    """Classes of FP8 kernels that vLLM's log names.

    Raises:
        SystemExit: the arm did not take the kernel that it stands for.
    """
    found = sorted(set(re.findall(r"Selected (\w+) for \w+", log)))
    expected = EXPECTED.get(arm)
    if not found or (expected and not set(found) <= set(expected)):
        raise SystemExit(f"arm {arm}: vLLM's log names the kernels {found}, expected {' or '.join(expected or ['any'])}")
    missing = [text for text in EVIDENCE.get(arm, ()) if text not in log]
    if missing:
        raise SystemExit(f"arm {arm}: vLLM's log does not say {missing}")
    if arm == "fallback" and any("Cutlass" in name or "Samebits" in name for name in found):
        raise SystemExit(f"arm fallback: vLLM's log names the kernels {found}, expected none that multiplies in FP8")
    return found


class Engine:
    """A process of vllm_engine.py for one arm; its log is OUT/ARM.log. Starts at once; the first `ask` waits for it."""

    def __init__(self, arm: str, out: Path, arguments: list[str]) -> None:
        self.arm, self.log = arm, out / f"{arm}.log"
        reply, for_process = os.pipe()
        command = [sys.executable, str(Path(__file__).with_name("vllm_engine.py")), str(for_process)]
        command += [argument.replace(ARM, arm) for argument in arguments]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, env=environment(arm), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                pass_fds=(for_process,), text=True, start_new_session=True,
            )  # fmt: skip
        os.close(for_process)
        self.replies = os.fdopen(reply)
        self.kernels: list[str] = []

    def wait(self) -> None:
        """Until the engine has started and is known to run the arm's kernel."""
        if not self.kernels:
            self._reply()
            self.kernels = selected_kernels(self.arm, self.log.read_text(errors="replace"))

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer of vllm_engine's function of that name."""
        self.wait()
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def signal(self, number: int) -> None:
        """To all processes of the engine; nothing where it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _reply(self) -> Any:
        line = self.replies.readline()
        if not line:
            code, text = self.process.wait(), self.log.read_text(errors="replace")
            raise SystemExit(f"arm {self.arm}: exit code {code}, end of {self.log}:\n{text[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()
        self.replies.close()


@contextmanager
def engines(arms: list[str], out: Path, arguments: list[str], parallel: bool) -> Iterator[Iterator[Engine]]:
    """Engines one after another, each closed before the next starts; `parallel`: all start at once and stay, those that
    are not asked stopped (an idle engine still takes CPU time, and latencies are seconds of the CPU as well)."""
    with ExitStack() as stack:

        def start(arm: str) -> Engine:
            engine = Engine(arm, out, arguments + compilation(arm) + SHARED_GPU * parallel)
            stack.callback(engine.close)
            return engine

        def one_by_one() -> Iterator[Engine]:
            for arm in arms:
                yield start(arm)
                stack.close()

        def each_alone(started: list[Engine]) -> Iterator[Engine]:
            for engine in started:
                engine.signal(signal.SIGSTOP)
            for engine in started:
                engine.signal(signal.SIGCONT)
                yield engine
                engine.signal(signal.SIGSTOP)

        if parallel:
            started = [start(arm) for arm in arms]
            for engine in started:
                engine.wait()  # a start beside a measurement would disturb it
            yield each_alone(started)
        else:
            yield one_by_one()
