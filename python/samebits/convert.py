"""Whole models: put their linears on FP8, calibrate static scales, and say which layer computes how."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from .invariant import InvariantLinear
from .linear import Fp8Linear
from .ops import HALF_ORDERS
from .weights import check_weight

_HALVES = (torch.bfloat16, torch.float16)
LAST = ("lm_head", "embed_out", "output", "gate", "shared_expert_gate")
ANYWHERE = ("router", "pooler", "classifier", "score", "cls", "qa_outputs", "v_head")
"""Layers whose name ends in one of LAST or has a part in ANYWHERE stay as they are: output heads, routers and task
heads, as `samebits quantize` leaves them."""


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Whether ``ignore`` names the layer: its full name, a parent's, a glob over the full name, or "re:" + a regex."""
    for pattern in ignore:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], name):
                return True
        elif fnmatchcase(name, pattern) or name.startswith(pattern + ".") or name.endswith("." + pattern):
            return True
        elif f".{pattern}." in name:
            return True
    return False


def is_head(name: str) -> bool:
    """Whether the name is that of an output head, a router or a task head."""
    parts = name.lower().split(".")
    return parts[-1] in LAST or any(part in ANYWHERE for part in parts)


def convert(
    model: nn.Module,
    *,
    ignore: Sequence[str] = (),
    heads: bool = False,
    scales: str = "channel",
    order: str | None = None,
    weight_only: bool = False,
    cache: bool = False,
    trainable: bool = False,
    invariant_rest: bool = False,
) -> nn.Module:
    """Replaces every ``nn.Linear`` of a bf16, fp16 or fp32 model by an :class:`Fp8Linear`, in place.

    Every weight is checked before the first layer is replaced, so a model that is refused is as it was. A linear that
    the model holds under several names stays one layer under all of them, and is left if one of them is.
    ``nn.TransformerEncoder`` and its layers lose their fast path, which reads the weights of its linears itself.

    Args:
        model: on any device; layers stay where they are.
        ignore: names (full, a parent's or the last part), globs or "re:..." of layers to leave.
        heads: also convert output heads, task heads and routers.
        scales: "channel", "tensor" or "block". order: one of ``samebits.ORDERS`` or, for 16-bit
            activations, of ``samebits.HALF_ORDERS``; None: that of the device where each weight lies.
        weight_only: keep the activations in 16 bits. cache: see :class:`Fp8Linear`.
        trainable: keep each weight as a parameter and train it through the quantizers.
        invariant_rest: the layers that are left (heads, ignored ones, tied weights) become :class:`InvariantLinear`
            where they are bf16 or fp16, so that their rows do not depend on the batch either. With ``ignore=["*"]``
            that is every linear.

    Returns:
        ``model``. Weights shared between layers (tied) are not quantized: :func:`explain` lists what was left.

    Raises:
        ValueError: NaN or infinity in a weight, or another dtype, by name; or no layer left to convert.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    linears: dict[nn.Linear, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear and name:
            linears.setdefault(module, []).append(name)
    chosen = {
        module: names
        for module, names in linears.items()
        if owners[id(module.weight)] == 1
        and not any(is_ignored(name, ignore) or (is_head(name) and not heads) for name in names)
    }
    rest = {
        module: names
        for module, names in linears.items()
        if invariant_rest and module not in chosen and module.weight.dtype in _HALVES
    }
    if not chosen and not rest:
        raise ValueError(f"no nn.Linear to convert in {type(model).__name__} with ignore={list(ignore)}, heads={heads}")
    for module, names in chosen.items():
        check_weight(module.weight.detach(), f"{names[0]}.weight")
    for module, names in chosen.items():
        layer = Fp8Linear.from_linear(
            module, scales=scales, order=order, weight_only=weight_only, cache=cache, trainable=trainable,
            name=f"{names[0]}.weight",
        )  # fmt: skip
        replace(model, names, layer)
    for module, names in rest.items():
        replace(model, names, InvariantLinear.from_linear(module, order=order if order in HALF_ORDERS else None))
    call_linears(model)
    return model


def replace(model: nn.Module, names: Iterable[str], layer: nn.Module) -> None:
    """Puts ``layer`` where the submodule ``names`` (all its names) of ``model`` is."""
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)


def call_linears(model: nn.Module) -> None:
    """Takes the fast path of torch's encoders away where a linear was replaced: it reads weights and calls no layer."""
    for module in model.modules():
        if not isinstance(module, (nn.TransformerEncoder, nn.TransformerEncoderLayer)):
            continue
        if any(isinstance(part, (Fp8Linear, InvariantLinear)) for part in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # "neither": a condition of the fast path
            else:
                module.use_nested_tensor = False  # what the fast path of its layers would take


def explain(model: nn.Module) -> str:
    """One line for each FP8 layer, each invariant one, and each nn.Linear that is neither."""
    lines = []
    for name, module in model.named_modules():
        if isinstance(module, (Fp8Linear, InvariantLinear)):
            lines.append(f"{name or '(model)'}: {module.explain()}")
        elif isinstance(module, nn.Linear):
            n, k = module.out_features, module.in_features
            lines.append(f"{name or '(model)'}: not FP8: {type(module).__name__} [{n}, {k}] in {module.weight.dtype}")
    return "\n".join(lines)


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """Gives every :class:`Fp8Linear` of ``model`` a static activation scale, ``max(absmax / 448, 1 / (448 * 512))``.

    Args:
        model: run once on each batch as it computes now.
        batches: inputs: a mapping (keyword arguments), a tuple or list (arguments), or one argument.

    Returns:
        The scale of each layer by name. A layer that saw no input keeps dynamic scales, with a warning that names it.

    Raises:
        ValueError: NaN or infinity in the input of a layer, by name; no FP8 layer; no batch.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Fp8Linear) and module.weight_scale.dim() < 2 and not module.weight_only
    }
    if not layers:
        raise ValueError(f"no Fp8Linear with per-tensor or per-channel scales in {type(model).__name__}")
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].detach().abs().amax().to(torch.float32) if inputs[0].numel() else None
            if seen is not None:
                largest[name] = torch.maximum(largest[name], seen) if name in largest else seen

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    try:
        for batch in batches:
            if isinstance(batch, Mapping):
                model(**batch)
            elif isinstance(batch, (tuple, list)):
                model(*batch)
            else:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not largest:
        raise ValueError("no batch reached an Fp8Linear")
    scales = {}
    for name, value in largest.items():
        if not bool(torch.isfinite(value)):
            raise ValueError(f"the input of {name} holds {value.item()}: it cannot be calibrated")
        # On the CPU: torch's CUDA division by a number multiplies by its rounded reciprocal.
        scale = torch.maximum(value.cpu() / torch.tensor(448.0), torch.tensor(1.0) / torch.tensor(448.0 * 512.0))
        layers[name].set_input_scale(scale)
        scales[name] = scale.item()
    unseen = sorted(set(layers) - set(scales))
    if unseen:
        warnings.warn(f"no input reached {', '.join(unseen)}: dynamic scales stay there", stacklevel=2)
    return scales
