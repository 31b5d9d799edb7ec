"""``python -m samebits.vllm check``: whether vLLM would run samebits' kernel here and now, and why not."""

import argparse
import sys
from importlib.metadata import entry_points

from . import linears_off, not_covered, off, refusal, why_no_kernel


def why_not_loaded() -> str | None:
    """Everything between an installed vLLM and the class being first in its list; loads vLLM's plugins as vLLM does."""
    try:
        import vllm.envs as envs
        from vllm.plugins import DEFAULT_PLUGINS_GROUP, load_general_plugins
    except ImportError as error:
        return f"vLLM cannot be imported: {error}"
    reason = off() or refusal()
    if reason:
        return reason
    if "samebits" not in {plugin.name for plugin in entry_points(group=DEFAULT_PLUGINS_GROUP)}:
        return f"no entry point 'samebits' in the group {DEFAULT_PLUGINS_GROUP}: install the wheel with its .dist-info"
    if envs.VLLM_PLUGINS is not None and "samebits" not in envs.VLLM_PLUGINS:
        return f"VLLM_PLUGINS={','.join(envs.VLLM_PLUGINS)} leaves samebits out"
    load_general_plugins()
    import vllm.model_executor.kernels.linear as linear
    from vllm.platforms import PlatformEnum

    kernels = [kernel.__name__ for kernel in linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CUDA]]
    if kernels[0] != "SamebitsFP8ScaledMMLinearKernel":
        return f"vLLM's list of FP8 kernels is {', '.join(kernels)}: did the plugin fail to load? vLLM's log says why"
    return None


def why_not_chosen() -> tuple[str | None, list[str]]:
    """Asks vLLM itself which kernel each type of FP8 linear layer gets; the reason, or one line for each type."""
    import torch
    import vllm.envs as envs
    import vllm.model_executor.kernels.linear as linear
    from vllm.model_executor.layers.quantization.utils import quant_utils as keys

    from .kernel import SamebitsFp8BlockScaledMMKernel as BlockKernel
    from .kernel import SamebitsFP8ScaledMMLinearKernel as Kernel

    for kernel in (Kernel, BlockKernel):
        if kernel.__name__ in envs.VLLM_DISABLED_KERNELS:
            return f"VLLM_DISABLED_KERNELS names {kernel.__name__}", []
        supported, reason = kernel.is_supported()
        if not supported:
            return f"this machine: {reason}", []
    plain = [
        (weight, activation, linear._POSSIBLE_FP8_KERNELS, Kernel)
        for activation in (keys.kFp8StaticTensorSym, keys.kFp8DynamicTokenSym)
        for weight in (keys.kFp8StaticTensorSym, keys.kFp8StaticChannelSym)
    ]
    blocks = (keys.kFp8Static128BlockSym, keys.kFp8Dynamic128Sym, linear._POSSIBLE_FP8_BLOCK_KERNELS, BlockKernel)
    lines = []
    for weight, activation, kernels, ours in [*plain, blocks]:
        config = linear.FP8ScaledMMLinearLayerConfig(
            weight_quant_key=weight,
            activation_quant_key=activation,
            weight_shape=(1024, 1024),
            input_dtype=torch.bfloat16,
            out_dtype=torch.bfloat16,
        )
        chosen = linear.choose_scaled_mm_linear_kernel(config, kernels)
        line = f"weights {weight.scale}, activations {activation.scale}: {chosen.__name__}"
        if chosen is not ours:
            return line, []
        lines.append(line)
    return None, lines


def why_not_linears() -> str | None:
    """Why unquantized linears and lm_head are vLLM's own, or None."""
    reason = linears_off()
    if reason:
        return reason
    from .linear import ORDER, installed

    return why_no_kernel(ORDER) or (None if installed() else "the plugin did not put its function there")


def main(arguments: list[str] | None = None) -> int:
    """0: in use. 1: not in use, with the reason."""
    parser = argparse.ArgumentParser(prog="python -m samebits.vllm", description=__doc__)
    parser.add_argument("command", choices=["check"])
    parser.parse_args(arguments)
    reason, lines = why_not_loaded(), []
    if reason is None:
        reason, lines = why_not_chosen()
    for line in lines:
        print(line)
    if lines:
        vllms = why_not_linears()
        print(f"unquantized linears and lm_head: {f'vLLM ({vllms})' if vllms else 'samebits'}")
        print(f"not covered: {'; '.join(not_covered(vllms is None))}")
    print(f"samebits is not in use: {reason}" if reason else "samebits is in use for FP8 linears")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
