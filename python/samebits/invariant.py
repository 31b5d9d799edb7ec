"""An ``nn.Linear`` in bfloat16 or float16 whose rows have the same bits in every batch. Used by convert."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import ops
from .weights import round_up

_ALIGNMENT = 8  # N and K of a CUDA kernel


class InvariantLinear(nn.Linear):
    """:func:`samebits.invariant_linear` as a module: parameters, state and gradients are those of ``nn.Linear``.

    One rounding at the end, the bias fused: other bits than ``nn.Linear``'s, and the same in every batch. The input is
    cast to the dtype of the weight. On CUDA a weight whose N or K is no multiple of 8 is padded in every call.
    """

    order: str | None = None
    """One of ``samebits.HALF_ORDERS``; None: that of the device where the weight lies."""

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, order: str | None = None) -> "InvariantLinear":
        """A layer with the parameters of ``linear``, which are shared, not copied.

        Args:
            order: one of ``samebits.HALF_ORDERS``; None: that of the device where the weight lies.

        Raises:
            ValueError: a weight that is neither bfloat16 nor float16, or an unknown order.
        """
        if order is not None and order not in ops.HALF_ORDERS:
            raise ValueError(f"unknown order {order!r}; there are: {', '.join(ops.HALF_ORDERS)}")
        if linear.weight.dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(f"weight is {linear.weight.dtype}; it must be bfloat16 or float16")
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta", dtype=linear.weight.dtype)
        layer.weight = linear.weight
        layer.bias = linear.bias
        layer.order = order
        return layer.train(linear.training)

    def _order(self) -> str:
        return self.order or ops.half_order(self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of the weight. A row's bits do not depend on the other rows."""
        weight, bias, n, k = self.weight, self.bias, self.out_features, self.in_features
        if x.shape[-1] != k:
            raise RuntimeError(f"input is {list(x.shape)}; the layer takes [..., {k}]")
        x = ops.rows_of(x.to(weight.dtype)).reshape(x.shape)
        rows, columns = round_up(n, _ALIGNMENT), round_up(k, _ALIGNMENT)
        if x.is_cuda and (rows, columns) != (n, k):
            weight = functional.pad(weight, (0, columns - k, 0, rows - n))
            bias = None if bias is None else functional.pad(bias, (0, rows - n))
            out = ops.invariant_linear(functional.pad(x, (0, columns - k)), weight, bias, order=self._order())
            return out[..., :n].contiguous()
        # Not "weight": whatever wrote the weight may be the work right before this call.
        return ops.invariant_linear(x, weight, bias, order=self._order())

    def explain(self) -> str:
        """One line: what computes it, or why nothing can."""
        what = f"invariant {self.weight.dtype} [{self.out_features}, {self.in_features}], order {self._order()}"
        if self.weight.is_meta:
            return f"{what}: the weight is on the meta device"
        n, k = round_up(self.out_features, _ALIGNMENT), round_up(self.in_features, _ALIGNMENT)
        try:
            name = ops.kernel(self.weight.device, self._order(), 1, n, k, self.weight.dtype)
        except RuntimeError as error:
            return f"{what}: cannot run: {str(error).partition(chr(10))[0]}"
        return f"{what}, by kernel {name} at M = 1"
