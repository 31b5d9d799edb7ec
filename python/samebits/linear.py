"""Fp8Linear: a linear layer in FP8 whose rows have the same bits in every batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import ops, routes, weights
from .weights import BLOCK, normal_scale, round_up

_INTEGER = {1: torch.uint8, 4: torch.int32}


class Fp8Linear(nn.Module):
    """``y = cast(scale_w[n] * (scale_x[m] * (q(x) . q(w))) [+ bias[n], fused])``, the bits of ``docs/contract.md``.

    With block scales :func:`samebits.block_scaled_mm` of activations in groups of 128, in Order hopper-block128.

    Made by :meth:`from_linear` (online, from bf16 / fp16 / fp32) or :meth:`from_fp8` (offline, from a checkpoint's
    tensors), or empty and then filled by ``load_state_dict``. :meth:`prepare` chooses the route once, from the weight,
    the device and the Order; :meth:`explain` says which and why. Moving the layer prepares it again.

    State (``state_dict``; logical shapes, never padded):
        weight: [N, K] float8_e4m3fn. weight_scale: float32 [1], [N] or blocks [ceil(N / 128), ceil(K / 128)].
        input_scale: float32 [1] for static activations; absent for dynamic per-token ones.
        bias: [N] of ``out_dtype``, or absent. master: [N, K], only of a trainable layer.

    Input: [..., K] bfloat16, float16 or float32, any of them. Output: [..., N] of ``out_dtype``.

    Gradients: to the input, in BF16 through the dequantized weight, straight through the quantizers; of a layer made
    with ``trainable=True`` also to ``master`` and ``bias``, and then every forward quantizes ``master`` as it is.

    ``.to(dtype)``, ``.half()`` and the like change ``out_dtype`` and the bias; FP8 weight and scales keep their bits.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor | None
    master: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scales: str = "channel",
        static_input: bool = False,
        out_dtype: torch.dtype = torch.bfloat16,
        order: str | None = None,
        weight_only: bool = False,
        cache: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        """An empty layer, to be loaded.

        Args:
            in_features: K. out_features: N. bias: whether there is one.
            scales: "tensor", "channel" or "block", the form of weight_scale.
            static_input: whether activations have a static scale; not with block scales.
            out_dtype: dtype of the output: bfloat16, float16 or float32.
            order: one of ``samebits.ORDERS``; None: the device's, see ``samebits.fp8_order``. Block scales have their
                own. One of ``samebits.HALF_ORDERS`` asks for weight_only in it; else 16 bits are in the device's.
            weight_only: keep the activations in BF16.
            cache: where the activations stay in BF16, keep the weight in 16 bits as well (three times the memory)
                instead of widening it in every call. Never changes a bit.

        Raises:
            ValueError: an unknown order or form of scales, or block scales with static activations.
        """
        super().__init__()
        if order is not None and order not in ops.ORDERS + ops.HALF_ORDERS:
            raise ValueError(f"unknown order {order!r}; there are: {', '.join(ops.ORDERS + ops.HALF_ORDERS)}")
        n, k = out_features, in_features
        shapes = {"tensor": (1,), "channel": (n,), "block": (-(-n // BLOCK), -(-k // BLOCK))}
        if scales not in shapes:
            raise ValueError(f"scales={scales!r}: it must be one of {', '.join(shapes)}")
        if static_input and scales == "block":
            raise ValueError(weights.no_static_scale(shapes["block"]))
        self.in_features, self.out_features = k, n
        self.out_dtype, self.order, self.cache = out_dtype, order, cache
        self.weight_only = weight_only or order in ops.HALF_ORDERS
        self.route: str | None = None
        self.reason = "not prepared: call prepare() after loading"
        self._widen: torch.dtype | None = None
        self._computes_in: str | None = None  # the Order, once there is a route
        self._prepared = False  # with or without a route: another device may have one
        self.register_buffer("weight", torch.empty((n, k), dtype=torch.float8_e4m3fn, device=device))
        self.register_buffer("weight_scale", torch.empty(shapes[scales], dtype=torch.float32, device=device))
        input_scale = torch.empty(1, dtype=torch.float32, device=device) if static_input else None
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("_first", None, persistent=False)
        self.register_buffer("_second", None, persistent=False)
        empty_bias = nn.Parameter(torch.empty(n, dtype=out_dtype, device=device), requires_grad=False) if bias else None
        self.register_parameter("bias", empty_bias)
        self.register_parameter("master", None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        scales: str = "channel",
        input_scale: float | Tensor | None = None,
        order: str | None = None,
        weight_only: bool = False,
        cache: bool = False,
        trainable: bool = False,
        name: str = "weight",
    ) -> "Fp8Linear":
        """Quantizes the weight of an ``nn.Linear`` in bf16, fp16 or fp32, with one scale for each row, block or all.

        Args:
            linear: the layer; not changed. Its dtype becomes ``out_dtype``.
            scales: "channel", "tensor" or "block" (128 x 128).
            input_scale: a static activation scale, not with block scales; None: dynamic per token. The routes that
                keep the activations in 16 bits do not use it.
            order, cache: see the constructor.
            trainable: keep the weight as the parameter ``master`` (shared, not copied) and train it.
            name: how errors call the weight.

        Raises:
            ValueError: NaN or infinity in the weight, by name and coordinate, a weight of another dtype, or block
                scales with an input_scale.
        """
        if scales not in ("channel", "tensor", "block"):
            raise ValueError(f"scales={scales!r}: a weight is quantized per channel, per tensor or per block")
        source = linear.weight.detach()
        n, k = source.shape
        layer = cls(
            k, n, linear.bias is not None, scales=scales, static_input=input_scale is not None,
            out_dtype=source.dtype, order=order, weight_only=weight_only, cache=cache, device="meta",
        )  # fmt: skip
        weights.check_weight(source, name)
        layer.weight, layer.weight_scale = weights.quantize(source, scales)
        if trainable:
            layer.master = linear.weight
        if linear.bias is not None:
            layer.bias = linear.bias if trainable else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        if input_scale is not None:
            layer.set_input_scale(input_scale)
        layer.train(linear.training)
        return layer.prepare()

    @classmethod
    def from_fp8(
        cls,
        weight: Tensor,
        weight_scale: Tensor,
        input_scale: float | Tensor | None = None,
        bias: Tensor | None = None,
        *,
        widths: Sequence[int] | None = None,
        requantize: bool = False,
        blocks: bool = False,
        out_dtype: torch.dtype = torch.bfloat16,
        order: str | None = None,
        weight_only: bool = False,
        cache: bool = False,
    ) -> "Fp8Linear":
        """A layer of the tensors that vLLM fp8, compressed-tensors, ModelOpt or DeepSeek checkpoints store.

        Args:
            weight: [N, K] float8_e4m3fn; kept, not copied. The layer lives on its device.
            weight_scale: a scalar, [1], [N], [N, 1], blocks, or one value for each part of a fused layer.
            input_scale: a static activation scale, not with block scales; several (fused parts) count as the largest.
                None: dynamic.
            bias: [N].
            widths: rows of each part of a fused layer, needed where it has several scales. They become a per-channel
                vector, which is exact.
            requantize: vLLM's bits instead: every part quantized again with the largest scale.
            blocks: a weight_scale [1, 1] is that of one block, with activations in groups of 128, not of the tensor.
            order, cache: see the constructor.

        Raises:
            ValueError: another dtype or shape, a scale that is NaN, infinite or negative, or block scales with an
                input_scale, with the numbers.
        """
        if weight.dim() != 2 or weight.dtype != torch.float8_e4m3fn:
            raise ValueError(f"weight is {weight.dtype} {list(weight.shape)}; it must be float8_e4m3fn [N, K]")
        n, k = weight.shape
        weight_scale = weight_scale.to(weight.device)
        if requantize:
            if widths is None or weight_scale.numel() != len(widths):
                raise ValueError(f"requantize needs a width for each of {weight_scale.numel()} scales: {widths}")
            normal_scale(weight_scale, n, k, widths)  # its checks
            weight, weight_scale = weights.requantize(weight, weight_scale, widths)
        layer = cls(
            k, n, bias is not None, static_input=input_scale is not None, out_dtype=out_dtype, order=order,
            weight_only=weight_only, cache=cache, device="meta",
        )  # fmt: skip
        layer.weight = weight.contiguous()
        layer.weight_scale = normal_scale(weight_scale, n, k, widths, blocks=blocks)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().to(weight.device, out_dtype), requires_grad=False)
        if input_scale is not None:
            layer.set_input_scale(input_scale)
        return layer.prepare()

    def prepare(self) -> "Fp8Linear":
        """Chooses the route and pads or dequantizes what it needs. Called by the constructors and after every move."""
        self._first = self._second = None
        self._prepared = not self.weight.is_meta
        if self.weight.is_meta:
            self.route, self.reason = None, "the weight is on the meta device: chosen when it gets memory"
            return self
        if self.master is not None:
            self.weight, self.weight_scale = weights.quantize(self.master.detach(), self._form())
        self.route, self.reason, self._widen = self._choose()
        self._computes_in = self._order()
        if self.route is not None:
            self._first, self._second = routes.operands_of(self.route, self.weight, self.weight_scale, self._widen)
        return self

    def _choose(self) -> tuple[str | None, str, torch.dtype | None]:
        """The route, why, and the dtype that the weight is widened to beforehand."""
        n, k = round_up(self.out_features, 16), round_up(self.in_features, 16)
        blocks = self.weight_scale.dim() == 2
        if self.order in ops.BLOCK_ORDERS and not blocks:
            shape = list(self.weight_scale.shape)
            raise ValueError(f"order {self.order!r} is for block scales; weight_scale is {shape}")
        if self.weight_only:
            return self._choose_half(routes.WEIGHT_ONLY, "asked for", n, k)
        try:
            name = ops.kernel(self.weight.device, self._fp8_order(), 1, n, k, self.out_dtype)
        except RuntimeError as error:
            return self._choose_half(routes.FALLBACK, str(error).partition("\n")[0], n, k)
        if blocks:
            return routes.BLOCK_SCALED, f"e4m3 weight with 128 x 128 scales, by kernel {name} at M = 1", None
        return routes.DIRECT, f"e4m3 weight and activations, by kernel {name} at M = 1", None

    def _choose_half(self, route: str, why: str, n: int, k: int) -> tuple[str | None, str, torch.dtype | None]:
        blocks = self.weight_scale.dim() == 2
        out = torch.float32 if blocks else self.out_dtype
        dtype = routes.half_dtype(self.out_dtype)

        def kernel(weight_only: bool) -> str:
            return ops.kernel(self.weight.device, self._half_order(), 1, n, BLOCK if blocks else k, out, weight_only)

        if blocks:
            why += f"; 128 x 128 scales: {-(-self.in_features // BLOCK)} products in FP32, added in the order of K"
        if not self.cache:
            try:
                return route, f"{why}; e4m3 weight widened in the main loop, by kernel {kernel(True)} at M = 1", None
            except RuntimeError:  # no such kernel: what a cache does
                pass
        try:
            name = kernel(False)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            return None, reason if reason == why else f"{why}; {reason}", None
        return route, f"{why}; e4m3 weight kept in {dtype}, by kernel {name} at M = 1".replace("torch.", ""), dtype

    def _form(self) -> str:
        return "block" if self.weight_scale.dim() == 2 else "channel" if self.weight_scale.numel() > 1 else "tensor"

    def _fp8_order(self) -> str:
        return ops.BLOCK_ORDERS[0] if self.weight_scale.dim() == 2 else self.order or ops.fp8_order(self.weight.device)

    def _half_order(self) -> str:
        return self.order if self.order in ops.HALF_ORDERS else ops.half_order(self.weight.device)

    def _order(self) -> str:
        """That of the route."""
        return self._half_order() if self.route in (routes.FALLBACK, routes.WEIGHT_ONLY) else self._fp8_order()

    def explain(self) -> str:
        """One line: the route, why, and what it computes with."""
        n, k = self.out_features, self.in_features
        form = {"block": "blocks", "channel": "per channel", "tensor": "per tensor"}[self._form()]
        half = self.weight_only or self.route == routes.FALLBACK
        if half:
            activations = "FP16 activations" if self.out_dtype == torch.float16 else "BF16 activations"
        elif self.weight_scale.dim() == 2:
            activations = "dynamic activations in groups of 128"
        else:
            activations = "dynamic per-token activations" if self.input_scale is None else "static activations"
        parts = [f"weight [{n}, {k}] {form}", activations, f"order {self._order()}", f"output {self.out_dtype}"]
        if self._first is not None and tuple(self._first.shape) != (n, k):
            parts.append(f"padded to {list(self._first.shape)}")
        if half and self.input_scale is not None:
            parts.append("input_scale not used")
        if self.master is not None:
            parts.append("trainable: quantized in every forward")
        return f"{self.route or 'no route'}: {self.reason}; {', '.join(parts)}"

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, route={self.route!r}"

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]. A row's bits do not depend on the other rows."""
        if self.route is None or self._first is None:
            raise RuntimeError(f"Fp8Linear [{self.out_features}, {self.in_features}] cannot run: {self.reason}")
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"input is {list(x.shape)}; the layer takes [..., {self.in_features}]")
        first, second = self._first, self._second
        if self.master is not None:
            weight, scale = weights.quantize(self.master.detach(), self._form())
            first, second = routes.operands_of(self.route, weight, scale, self._widen)
        rows = ops.rows_of(x)
        learns = self.master is not None or (self.bias is not None and self.bias.requires_grad) or rows.requires_grad
        if torch.is_grad_enabled() and learns:
            out = routes.StraightThrough.apply(
                rows, self.master, self.bias, first, second, self.input_scale, self.route, self.out_features,
                self._computes_in, self.out_dtype,
            )  # fmt: skip
        else:
            out = routes.compute(
                self.route, rows, (first, second), self.input_scale, self.bias, self.out_features, self._computes_in,
                self.out_dtype,
                overlap="weight" if self.master is None else "launch",  # a trainable layer has just quantized it
            )  # fmt: skip
        return out.reshape(*x.shape[:-1], self.out_features)

    def set_input_scale(self, scale: float | Tensor, name: str = "input_scale") -> None:
        """Makes the activations static with this scale (of several, the largest). ``name``: how errors call it.

        Raises:
            ValueError: a scale that is not finite and positive, or a layer with block scales.
        """
        if self.weight_scale.dim() == 2:
            raise ValueError(f"{name}: {weights.no_static_scale(self.weight_scale.shape)}")
        value = torch.as_tensor(scale, dtype=torch.float32).detach().reshape(-1).max().reshape(1)
        if not value.is_meta and not (bool(torch.isfinite(value).all()) and bool((value > 0).all())):
            raise ValueError(f"{name} is {value.item()}; it must be finite and positive")
        self.input_scale = value.to(self.weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fp8Linear":
        """`.to`, `.cuda`, `.half`, `to_empty`: a change of dtype is for bias, master and output, never for FP8 bits."""
        exact = [t for t in (self.weight, self.weight_scale, self.input_scale) if t is not None]
        prepared = self._prepared
        self._first = self._second = None

        def keep(t: Tensor) -> Tensor:
            if any(t is e for e in exact):
                return fn(t.view(_INTEGER[t.element_size()])).view(t.dtype)
            return fn(t)

        super()._apply(keep, recurse)
        self.out_dtype = fn(torch.empty(0, dtype=self.out_dtype, device=exact[0].device)).dtype
        return self.prepare() if prepared else self

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: without what prepare() rebuilds; the weight as bytes, float8 does not pickle."""
        buffers = self._buffers | {"_first": None, "_second": None, "weight": self.weight.view(torch.uint8)}
        return super().__getstate__() | {"_buffers": buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weight = self.weight.view(torch.float8_e4m3fn)
        if self._prepared:
            self.prepare()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.master is not None and not self.weight.is_meta:
            self.prepare()  # the optimizer may have moved master since
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Takes the scale shapes and names of the checkpoint formats, then prepares the layer.

        Of a trainable layer's state a layer that is not trainable takes the FP8 weight and leaves ``master``. A weight
        of another dtype, or static activations with block scales, is an error of ``load_state_dict`` by name.
        """
        weight = state_dict.get(prefix + "weight")
        if weight is not None and weight.dtype != torch.float8_e4m3fn:
            error_msgs.append(f"{prefix}weight is {weight.dtype} {list(weight.shape)}; it must be torch.float8_e4m3fn")
            return
        if self.master is None:
            state_dict.pop(prefix + "master", None)
        inverse = state_dict.pop(prefix + "weight_scale_inv", None)
        if inverse is not None:
            state_dict[prefix + "weight_scale"] = inverse
        scale = state_dict.get(prefix + "weight_scale")
        static = state_dict.get(prefix + "input_scale")
        if scale is not None:
            blocks = inverse is not None or self.weight_scale.dim() == 2
            scale = normal_scale(
                scale, self.out_features, self.in_features, what=prefix + "weight_scale", blocks=blocks
            )  # fmt: skip
            if scale.dim() == 2 and (static is not None or self.input_scale is not None):
                error_msgs.append(f"{prefix}input_scale: {weights.no_static_scale(scale.shape)}")
                return
            state_dict[prefix + "weight_scale"] = scale
            if scale.shape != self.weight_scale.shape:
                self.weight_scale = torch.empty_like(scale, device=self.weight_scale.device)
        if static is not None:
            state_dict[prefix + "input_scale"] = static.to(torch.float32).reshape(-1).max().reshape(1)
            if self.input_scale is None:
                self.input_scale = torch.empty(1, dtype=torch.float32, device=self.weight.device)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not error_msgs:
            self.prepare()
