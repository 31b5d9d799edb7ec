"""Hugging Face transformers: ``from_pretrained(..., quantization_config=SamebitsConfig())``.

Registers the quantization method "samebits", also when only ``samebits`` is imported, before transformers or after: a
folder that was saved with it then loads without a SamebitsConfig. The names "fp8" and "compressed-tensors" belong to
transformers, and "modelopt" is unknown to it: where a folder says so and the caller passes a :class:`SamebitsConfig`,
samebits replaces the stock quantizer for that one call and logs a line about it (after transformers' own, of an unknown
type, for "modelopt"). Without a SamebitsConfig transformers works as it always does.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from .convert import call_linears, convert, replace
from .linear import Fp8Linear
from .weights import normal_scale

if int(transformers.__version__.partition(".")[0]) < 5:
    raise ImportError(f"SamebitsConfig needs transformers >= 5, this is {transformers.__version__}")

logger = logging.get_logger(__name__)

MODELOPT = {"FP8": "static", "FP8_PER_CHANNEL_PER_TOKEN": "dynamic"}
"""How ModelOpt's quant_algo treats activations, of those whose weights and scales are in a form that layers take."""


@register_quantization_config("samebits")
class SamebitsConfig(QuantizationConfigMixin):
    """How ``from_pretrained`` puts a model on :class:`samebits.Fp8Linear`.

    A folder with FP8 weights (vLLM fp8, compressed-tensors, ModelOpt, DeepSeek blocks) keeps its weights and scales:
    the layers that are FP8 in the files are the ones replaced, so its ignored layers stay as they are. A folder that is
    not quantized is loaded in its dtype and then converted, see :func:`samebits.convert`.

    Args:
        ignore: layers to leave when converting (names, globs, "re:..."); refused for a folder with FP8 weights.
        scales: "channel", "tensor" or "block", when converting; others than "channel" refused likewise.
        heads: also convert output and task heads; refused likewise.
        order: one of ``samebits.ORDERS`` or, for 16-bit activations, of ``samebits.HALF_ORDERS``; None: that of the
            device where each weight lies. A saved folder keeps what was asked for.
        weight_only: keep the activations in BF16.
        source: the quantization_config that the folder came with; filled in by loading.

    Raises (``from_pretrained``):
        ValueError: a folder that is quantized without FP8 weights in safetensors files, dynamic per-tensor activations,
            groups that disagree, an unknown activation_scheme or quant_algo, or an option above that is refused.
    """

    def __init__(
        self,
        ignore: Sequence[str] = (),
        scales: str = "channel",
        heads: bool = False,
        order: str | None = None,
        weight_only: bool = False,
        source: dict[str, Any] | None = None,
        quant_method: str = "samebits",
    ) -> None:
        self.quant_method = quant_method
        self.ignore = list(ignore)
        self.scales = scales
        self.heads = heads
        self.order = order
        self.weight_only = weight_only
        self.source = source


@dataclass
class StoredLayer:
    """An FP8 layer as the files of a folder hold it: tensor name without the layer -> shape and safetensors dtype."""

    tensors: dict[str, tuple[list[int], str]]


def stored_layers(files: Sequence[str]) -> dict[str, StoredLayer]:
    """The layers of the safetensors ``files`` whose weight is e4m3, by name."""
    found: dict[str, dict[str, tuple[list[int], str]]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                layer, _, tensor = key.rpartition(".")
                part = file.get_slice(key)
                found.setdefault(layer, {})[tensor] = (part.get_shape(), part.get_dtype())
    return {name: StoredLayer(t) for name, t in found.items() if t.get("weight", ([], ""))[1] == "F8_E4M3"}


def folder_source(files: Sequence[str]) -> dict[str, Any] | None:
    """The quantization_config of a folder whose method transformers does not know, from beside its weights.

    ModelOpt writes quant_algo flat or in "quantization", into config.json or a file of its own.
    """
    if not files:
        return None

    def read(name: str) -> dict[str, Any]:
        path = Path(files[0]).with_name(name)
        return json.loads(path.read_text()) if path.is_file() else {}

    key, config = "quantization_config", read("config.json")
    found = config.get(key) or (config.get("text_config") or {}).get(key) or read("hf_quant_config.json")
    return {"quant_method": "modelopt"} | found | (found.get("quantization") or {}) if found else None


def _inputs_scheme(inputs: dict[str, Any] | None) -> str:
    if inputs is None:
        return "none"
    if inputs.get("dynamic") and inputs.get("strategy") == "tensor":
        raise ValueError(
            "dynamic per-tensor activations: their scale depends on the whole batch, so no row has one value"
        )
    return "dynamic" if inputs.get("dynamic") else "static"


def _weight_groups(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups = source.get("config_groups") or {}
    return {name: group for name, group in groups.items() if isinstance(group, dict) and group.get("weights")}


def activation_scheme(source: dict[str, Any] | None) -> str | None:
    """ "static", "dynamic", "none" (weight-only) or None (unsaid) from a folder's quantization_config.

    Raises:
        ValueError: dynamic per-tensor activations, whose scale depends on the whole batch; groups of
            compressed-tensors that differ in the type of their weights or in this; an unknown scheme.
    """
    if not source:
        return None
    algorithm = source.get("quant_algo")
    if algorithm is not None:
        if algorithm not in MODELOPT:
            raise ValueError(f"quant_algo={algorithm!r}: it must be one of {', '.join(MODELOPT)}")
        return MODELOPT[algorithm]
    kinds = {}
    for name, group in _weight_groups(source).items():
        weights = group["weights"]
        kinds[name] = (weights.get("num_bits"), weights.get("type"), _inputs_scheme(group.get("input_activations")))
    if len(set(kinds.values())) > 1:
        told = "; ".join(
            f"{name}: {bits} bit {kind} weights, {scheme} inputs"
            for name, (bits, kind, scheme) in kinds.items()
        )
        raise ValueError(f"config_groups differ, and samebits computes all FP8 layers of a folder alike: {told}")
    if kinds:
        return next(iter(kinds.values()))[2]
    scheme = source.get("activation_scheme")
    if scheme not in (None, "static", "dynamic"):
        raise ValueError(f"activation_scheme={scheme!r}: it must be static or dynamic")
    return scheme


def says_blocks(stored: StoredLayer, config: SamebitsConfig) -> bool:
    """Whether a scale [1, 1] of the folder is that of a block: by its name, or by what the folder says of weights."""
    source = config.source
    if "weight_scale_inv" in stored.tensors:
        return True
    if not source:
        return config.scales == "block"
    strategies = {group["weights"].get("strategy") for group in _weight_groups(source).values()}
    return bool(source.get("weight_block_size")) or "block" in strategies


def refuse_conversion(config: SamebitsConfig) -> None:
    """Raises ValueError where options say how to convert a folder that is quantized already."""
    default = SamebitsConfig()
    said = [
        f"{key}={getattr(config, key)!r}"
        for key in ("ignore", "scales", "heads")
        if getattr(config, key) != getattr(default, key)
    ]
    if said:
        raise ValueError(f"{', '.join(said)}: for converting, but this folder is quantized and keeps what it has")


def fused_widths(name: str, rows: int, config: Any) -> list[int] | None:
    """Rows of each part of a fused layer of the model: gate_up_proj in halves, qkv_proj by the heads."""
    last = name.rpartition(".")[2]
    if last == "gate_up_proj" and rows % 2 == 0:
        return [rows // 2, rows // 2]
    heads = getattr(config, "num_attention_heads", None)
    if last != "qkv_proj" or not heads:
        return None
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [heads * width, kv_heads * width, kv_heads * width] if (heads + 2 * kv_heads) * width == rows else None


@register_quantizer("samebits")
class SamebitsQuantizer(HfQuantizer):
    """Replaces the FP8 layers of a folder before loading, or all linears after it."""

    requires_calibration = False

    def __init__(self, quantization_config: SamebitsConfig, **kwargs: Any) -> None:
        super().__init__(SamebitsConfig(**quantization_config.to_dict()), **kwargs)  # the caller's stays as it is
        self.found = False
        self.blocks: set[str] = set()

    def _process_model_before_weight_loading(
        self,
        model: nn.Module,
        checkpoint_files: Sequence[str] | None = None,
        **_: Any,
    ) -> nn.Module:
        files = [str(file) for file in checkpoint_files or []]
        readable = [file for file in files if file.endswith(".safetensors")]
        stored = stored_layers(readable)
        self.found = bool(stored)
        config = self.quantization_config
        if not self.pre_quantized:  # or transformers does not know the method of the folder
            config.source = folder_source(files)
            if config.source:
                _say_replaced(config.source)
            if config.source or stored:
                refuse_conversion(config)
        if config.source and not stored:
            raise ValueError(
                f"{_method(config.source)}, but none of {len(readable)} safetensors files (of {len(files)} weight "
                "files) holds a float8_e4m3fn weight: samebits takes FP8 weights from safetensors, and converts only "
                "folders that are not quantized"
            )
        scheme = activation_scheme(config.source)
        left = dict(stored)
        for name, module in list(model.named_modules()):
            key = self._stored_name(name, model, stored)
            if type(module) is nn.Linear and key is not None:
                replace(model, [name], self._empty_layer(key, module, stored[key], scheme))
                if says_blocks(stored[key], config):
                    self.blocks.add(name)
                del left[key]
        if left:
            raise ValueError(
                f"{len(left)} FP8 layers of the checkpoint are no nn.Linear of {type(model).__name__} (experts are not "
                f"covered): {', '.join(sorted(left)[:5])}"
            )
        return model

    def _stored_name(self, name: str, model: nn.Module, stored: dict[str, StoredLayer]) -> str | None:
        prefix = getattr(model, "base_model_prefix", "") + "."
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in stored:
                return candidate
        return None

    def _empty_layer(self, name: str, linear: nn.Linear, stored: StoredLayer, scheme: str | None) -> Fp8Linear:
        """In the dtype of ``linear``, on the meta device, tensors shaped as in the file: the loader compares them."""
        scale = stored.tensors.get("weight_scale") or stored.tensors.get("weight_scale_inv")
        if scale is None:
            shape = [linear.out_features, linear.in_features]
            raise ValueError(f"{name}: an FP8 weight {shape} without weight_scale or weight_scale_inv")
        static = "input_scale" in stored.tensors and scheme in (None, "static")
        if scheme == "static" and not static:
            raise ValueError(f"the checkpoint says static activations, but {name} has no input_scale")
        layer = Fp8Linear(
            linear.in_features, linear.out_features, linear.bias is not None, static_input=static,
            out_dtype=linear.weight.dtype, order=self.quantization_config.order, device="meta",
            weight_only=self.quantization_config.weight_only or scheme == "none",
        )  # fmt: skip
        layer.weight_scale = torch.empty(scale[0], dtype=torch.float32, device="meta")
        if static:
            layer.input_scale = torch.empty(stored.tensors["input_scale"][0], dtype=torch.float32, device="meta")
        return layer

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        config = self.quantization_config
        if not self.found:
            return convert(
                model, ignore=config.ignore, heads=config.heads, scales=config.scales, order=config.order,
                weight_only=config.weight_only,
            )  # fmt: skip
        for name, module in model.named_modules():
            if not isinstance(module, Fp8Linear):
                continue
            n, k = module.weight.shape
            widths = fused_widths(name, n, model.config)
            what, blocks = f"{name}.weight_scale", name in self.blocks
            module.weight_scale = normal_scale(module.weight_scale, n, k, widths, what, blocks)
            if module.input_scale is not None:
                module.set_input_scale(module.input_scale, f"{name}.input_scale")
            module.requires_grad_(False)
            module.prepare()
        call_linears(model)
        return model

    def update_weight_conversions(self, weight_conversions: list[Any], *model: nn.Module) -> list[Any]:
        # transformers 5.17 passes the conversions only, 5.23 the model too.
        from transformers.core_model_loading import WeightRenaming

        rename = WeightRenaming(source_patterns=r"weight_scale_inv", target_patterns="weight_scale")
        return [rename] + super().update_weight_conversions(weight_conversions, *model)

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def _method(source: dict[str, Any]) -> str:
    """ "quant_method='modelopt', quant_algo='FP8'" for messages."""
    return ", ".join(f"{key}={source[key]!r}" for key in ("quant_method", "quant_algo") if key in source)


def _say_replaced(source: dict[str, Any]) -> None:
    logger.warning(f"samebits replaces the stock quantizer for {_method(source)}")


_stock_merge = AutoHfQuantizer.merge_quantization_configs


def _merge(cls: type, quantization_config: Any, quantization_config_from_args: Any) -> Any:
    """The stock one raises where the caller's class is not the folder's; a SamebitsConfig wins instead, and says so."""
    if not isinstance(quantization_config_from_args, SamebitsConfig):
        return _stock_merge(quantization_config, quantization_config_from_args)
    stored = quantization_config if isinstance(quantization_config, dict) else quantization_config.to_dict()
    refuse_conversion(quantization_config_from_args)
    merged = SamebitsConfig(**quantization_config_from_args.to_dict())
    if stored.get("quant_method") == "samebits":  # what it was made with is told, not asked for
        for key in ("source", "ignore", "scales", "heads"):
            setattr(merged, key, stored.get(key, getattr(merged, key)))
    else:
        _say_replaced(stored)
        merged.source = stored
    return merged


AutoHfQuantizer.merge_quantization_configs = classmethod(_merge)
