"""A norm or SiLU * mul and the quantizer after it as one op, in the graphs that vLLM compiles: the work behind
:func:`samebits.fuse_vllm`. Knows vLLM's ops by their names and imports nothing of it."""

import functools
import operator

import torch
from torch import Tensor, fx
from torch._inductor import pattern_matcher as pm
from torch.nn import functional

OPS = torch.ops.samebits


def fuse(graph: fx.Graph) -> int:
    """Rewrites each quantize_per_token whose input is nothing but a norm's or SiLU * mul's output. Returns how many."""
    quantizers = graph.find_nodes(op="call_function", target=OPS.quantize_per_token.default)
    return sum(_fuse_norm(graph, node) for node in quantizers) + _silu_patterns().apply(graph)


def _is(node: fx.Node, op: str) -> bool:
    """Whether the node calls an op of vLLM's intermediate language."""
    return isinstance(node.target, torch._ops.OpOverload) and str(node.target) == f"vllm_ir.{op}.default"


def _fuse_norm(graph: fx.Graph, quantize: fx.Node) -> bool:
    y, bound = quantize.args[0], quantize.args[1] if len(quantize.args) > 1 else None
    if len(y.users) != 1 or (bound is not None and bound.op not in ("placeholder", "get_attr")):
        return False
    add = y.target is operator.getitem and y.args[1] == 0 and _is(y.args[0], "fused_add_rms_norm")
    norm = y.args[0] if add else y
    if not add and not _is(norm, "rms_norm"):
        return False
    *inputs, weight, epsilon = norm.args[: 4 if add else 3]
    whole = len(norm.args) <= 3 + add or norm.args[3 + add] is None  # not the variance of some columns only
    if not whole or weight is None or weight.meta["val"].dtype != y.meta["val"].dtype or y.meta["val"].dim() != 2:
        return False
    if add and sum(item.args[1] == 0 for item in norm.users) != 1:
        return False
    op = OPS.add_rms_norm_quantize if add else OPS.rms_norm_quantize
    outputs = list(quantize.meta["val"])
    with graph.inserting_before(norm):
        fused = graph.call_function(op.default, (*inputs, weight, epsilon, bound))
        parts = [graph.call_function(operator.getitem, (fused, i)) for i in range(2 + add)]
    if add:
        outputs.append(norm.meta["val"][1])
        _replace_items(graph, norm, {0: None, 1: parts[2]})
    _replace_items(graph, quantize, dict(enumerate(parts[:2])))
    fused.meta["val"] = tuple(outputs)
    for part, value in zip(parts, outputs, strict=True):
        part.meta["val"] = value
    for node in dict.fromkeys((quantize, y, norm)):
        graph.erase_node(node)
    return True


def _replace_items(graph: fx.Graph, node: fx.Node, items: dict[int, fx.Node | None]) -> None:
    for item in list(node.users):
        if (new := items[item.args[1]]) is not None:
            item.replace_all_uses_with(new)
            graph.erase_node(item)


def _silu_mul(x: Tensor) -> Tensor:
    """vLLM's SiluAndMul as its graphs have it when it is no custom op."""
    d = x.shape[-1] // 2
    return functional.silu(x[..., :d]) * x[..., d:]


@functools.cache
def _silu_patterns() -> pm.PatternMatcherPass:
    patterns = pm.PatternMatcherPass(pass_name="samebits_silu_mul_quantize")
    for dtype in (torch.bfloat16, torch.float16):
        pm.register_replacement(
            lambda x: OPS.quantize_per_token(_silu_mul(x)),
            lambda x: OPS.silu_mul_quantize(x),
            [torch.empty(5, 4, dtype=dtype)],
            pm.fwd_only,
            patterns,
        )
    return patterns
