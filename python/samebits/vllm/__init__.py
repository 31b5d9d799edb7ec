"""The vLLM plugin: FP8 and unquantized linear layers of vLLM on samebits' kernels.

Installing samebits registers :func:`register` under the entry point group ``vllm.general_plugins``; vLLM calls it in
each of its processes. With ``VLLM_BATCH_INVARIANT=1`` it puts samebits' kernel first in vLLM's list of FP8 linear
kernels, and its own function where unquantized linears and lm_head call vLLM's. Without that switch vLLM stays as it
is. ``python -m samebits.vllm check`` says what is in use.

Environment:
    SAMEBITS_VLLM: ``auto`` (the default: with VLLM_BATCH_INVARIANT=1), ``always`` or ``never``.
    SAMEBITS_VLLM_QUANTIZER: who quantizes activations: ``vllm`` (the default: FP8 linears with the bits of vLLM's own
        batch-invariant kernel) or ``samebits`` (the quantizer of ``docs/contract.md``, the same bits compiled or not).
    SAMEBITS_VLLM_LINEAR: who computes unquantized linears and lm_head with VLLM_BATCH_INVARIANT=1: ``samebits`` (the
        default, on GPUs that have the kernels: in an Order, as invariant) or ``vllm`` (with vLLM's quantizer
        all tokens are then those of vLLM's own batch-invariant mode).
    SAMEBITS_RULES: a rules file of ``samebits tune``, read when samebits is imported. It chooses kernels, never bits.
"""

import os

import samebits

TESTED = ("0.22.1",)
"""Versions of vLLM that the plugin was run with. It refuses others: the lists it edits are no public interface."""

NOT_COVERED = (
    "FP8 MoE experts",
    "MXFP8, NVFP4 and INT8 linears",
    "weight-only FP8",
    "activations with one dynamic scale for the whole batch",
    "FP8 KV cache",
)
"""What keeps vLLM's own kernels."""


def not_covered(linears: bool) -> tuple[str, ...]:
    """NOT_COVERED, and the unquantized linears unless samebits computes them."""
    return NOT_COVERED if linears else (*NOT_COVERED, "unquantized linears and lm_head")


def option(name: str, choices: tuple[str, ...]) -> str:
    """The environment variable ``name``, the first of ``choices`` where it is unset.

    Raises:
        ValueError: any other value, by name.
    """
    value = os.environ.get(name, choices[0])
    if value not in choices:
        raise ValueError(f"{name}={value!r}: it must be one of {', '.join(choices)}")
    return value


def why_no_kernel(order: str) -> str | None:
    """Why samebits has no kernel of the Order on this machine, or None."""
    try:
        samebits.kernel("cuda", order, 16, 16, 16)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def off() -> str | None:
    """Why the switches leave vLLM as it is, or None where they ask for samebits."""
    import vllm.envs as envs

    mode = option("SAMEBITS_VLLM", ("auto", "always", "never"))
    if mode == "never":
        return "SAMEBITS_VLLM=never"
    if mode == "auto" and not envs.VLLM_BATCH_INVARIANT:
        return "VLLM_BATCH_INVARIANT is not 1 and SAMEBITS_VLLM is not 'always'"
    return None


def linears_off() -> str | None:
    """Why the switches leave unquantized linears to vLLM, or None where they ask for samebits."""
    if option("SAMEBITS_VLLM_LINEAR", ("samebits", "vllm")) == "vllm":
        return "SAMEBITS_VLLM_LINEAR=vllm"
    import vllm.envs as envs

    return None if envs.VLLM_BATCH_INVARIANT else "VLLM_BATCH_INVARIANT is not 1"


def refusal() -> str | None:
    """A sentence if this version of vLLM is not one of TESTED."""
    import vllm

    if vllm.__version__.split("+")[0] in TESTED:
        return None
    return f"samebits was tested with vLLM {', '.join(TESTED)} and does not touch vLLM {vllm.__version__}"


def register() -> None:
    """Puts samebits' kernel first in vLLM's list of FP8 linear kernels, if the switches ask for it. Safe to run again.

    FP8 linears keep the bits of vLLM's own batch-invariant kernel. With VLLM_BATCH_INVARIANT=1 unquantized linears and
    lm_head become samebits' too, in an Order; SAMEBITS_VLLM_LINEAR=vllm leaves them to vLLM.

    Raises:
        RuntimeError: SAMEBITS_VLLM=always with a version of vLLM that is not one of TESTED. Under
            VLLM_BATCH_INVARIANT=1 alone that is a warning, and vLLM keeps its own kernel.
        ValueError: an unknown value of an option.
    """
    if off():
        return
    reason = refusal()
    if reason is None:
        from .kernel import install

        install(option("SAMEBITS_VLLM_QUANTIZER", ("vllm", "samebits")), linears_too=linears_off() is None)
    elif os.environ.get("SAMEBITS_VLLM") == "always":
        raise RuntimeError(reason)
    else:
        from vllm.logger import init_logger

        init_logger("vllm.samebits").warning("%s: its own kernels stay.", reason)
