"""The arms that bench/vllm_latency.py and bench/vllm_tokens.py compare: what each sets in vLLM's environment.

`selected_kernels` reads from vLLM's log which kernel an arm really took: an arm that took another one is an error.
"""

import os
import re

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
    "samebits": {"VLLM_BATCH_INVARIANT": "1", "VLLM_PLUGINS": "samebits"},
}
"""default: vLLM's own choice, not invariant. fallback: BF16 GEMM on dequantized weights. vllm: vLLM's batch-invariant
FP8 kernel. samebits: the plugin."""

EXPECTED = {"vllm": "CutlassFP8ScaledMMLinearKernel", "samebits": "SamebitsFP8ScaledMMLinearKernel"}


def environment(arm: str) -> dict[str, str]:
    """The environment of a subprocess for the arm, with a compile cache of its own."""
    env = {key: value for key, value in os.environ.items() if key not in ("VLLM_DISABLED_KERNELS", "SAMEBITS_VLLM")}
    cache = env.get("VLLM_CACHE_ROOT", os.path.expanduser("~/.cache/vllm"))
    return env | ARMS[arm] | {"VLLM_CACHE_ROOT": os.path.join(cache, f"arm-{arm}"), "VLLM_LOGGING_LEVEL": "INFO"}


def selected_kernels(arm: str, log: str) -> list[str]:
    """Classes of FP8 kernels that vLLM's log names.

    Raises:
        SystemExit: the arm did not take the kernel that it stands for.
    """
    found = sorted(set(re.findall(r"Selected (\w+) for \w+", log)))
    expected = EXPECTED.get(arm)
    if not found or (expected and expected not in found):
        raise SystemExit(f"arm {arm}: vLLM's log names the kernels {found}, expected {expected or 'any'}")
    if arm == "fallback" and any("Cutlass" in name or "Samebits" in name for name in found):
        raise SystemExit(f"arm fallback: vLLM's log names the kernels {found}, expected none that multiplies in FP8")
    return found
