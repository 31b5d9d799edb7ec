"""samebits.fuse_vllm on graphs of the real Inductor, with stand-ins for the two norms of vLLM's intermediate language."""

import pytest
import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.nn import functional

import samebits
from helpers import same_bits

IR = torch.ops.vllm_ir
OPS = torch.ops.samebits


def rms_norm(x, weight, epsilon, variance_size=None):
    wide = x.float()[..., :variance_size]
    normalized = x.float() * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return normalized.to(x.dtype) if weight is None else (normalized.to(weight.dtype) * weight).to(x.dtype)


def fused_add_rms_norm(x, x_residual, weight, epsilon, variance_size=None):
    total = (x.float() + x_residual.float()).to(x.dtype)
    return rms_norm(total, weight, epsilon, variance_size), total


@pytest.fixture(scope="module", autouse=True)
def vllm_ir():
    library = torch.library.Library("vllm_ir", "FRAGMENT")
    rest = "Tensor? weight, float epsilon, int? variance_size=None)"
    library.define(f"rms_norm(Tensor x, {rest} -> Tensor")
    library.define(f"fused_add_rms_norm(Tensor x, Tensor x_residual, {rest} -> (Tensor, Tensor)")
    for f in (rms_norm, fused_add_rms_norm):
        library.impl(f.__name__, f, "CompositeExplicitAutograd")
        library._register_fake(f.__name__, f)
    yield
    library._destroy()


class Pass(CustomGraphPass):
    """Finds the function as vLLM 0.22.1 finds "samebits.fuse_vllm", and notes the ops of the graph it leaves."""

    def __init__(self):
        self.ops = []

    def __call__(self, graph):
        __import__("samebits").__dict__["fuse_vllm"](graph)
        graph.lint()
        self.ops += [str(node.target) for node in graph.nodes if "samebits." in str(node.target)]

    def uuid(self):
        return None


def compiled(f, *args):
    """f's results in a graph with any number of rows, and the ops of samebits in it."""
    torch._dynamo.reset()
    for arg in args:
        if arg.dim() == 2:
            torch._dynamo.mark_dynamic(arg, 0)
    note = Pass()
    with config.patch(post_grad_custom_post_pass=note, force_disable_caches=True):
        out = torch.compile(f, fullgraph=True)(*args)
    return out, [name.removeprefix("samebits.").removesuffix(".default") for name in note.ops]


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def inputs(request, device):
    x, residual = torch.randn(2, 7, 96, device=device).to(request.param)
    return x, residual, torch.rand(96, device=device).to(request.param)


def test_a_layer_is_fused(inputs):
    def layer(x, residual, weight):
        y, h = IR.fused_add_rms_norm(x, residual, weight, 1e-6)
        gated = functional.silu(h[..., :48]) * h[..., 48:]
        return *OPS.quantize_per_token(y), h, *OPS.quantize_per_token(gated), *OPS.quantize_per_token(
            IR.rms_norm(h, weight, 1e-5)
        )

    got, ops = compiled(layer, *inputs)
    q, scale, h = samebits.add_rms_norm_quantize(*inputs)
    want = (q, scale, h, *samebits.silu_mul_quantize(h), *samebits.rms_norm_quantize(h, inputs[2], 1e-5))
    assert sorted(ops) == ["add_rms_norm_quantize", "rms_norm_quantize", "silu_mul_quantize"]
    for a, b in zip(got, want, strict=True):
        assert same_bits(a, b)


def test_the_upper_bound_goes_along(inputs):
    x, _, weight = inputs
    bound = torch.tensor([0.5], device=x.device)
    got, ops = compiled(lambda x, w, ub: OPS.quantize_per_token(IR.rms_norm(x, w, 1e-5), ub), x, weight, bound)
    assert ops == ["rms_norm_quantize"]
    for a, b in zip(got, samebits.rms_norm_quantize(x, weight, 1e-5, bound), strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w: (y := IR.rms_norm(x, w, 1e-5), y + 1),
        lambda x, w: (IR.rms_norm(x, w, 1e-5, 48), x),
        lambda x, w: (IR.rms_norm(x, None, 1e-5), x),
        lambda x, w: (IR.rms_norm(x, w.float(), 1e-5), x),
        lambda x, w: (IR.fused_add_rms_norm(x, x, w, 1e-5, 48)[0], x),
        lambda x, w: (functional.gelu(x), x),
    ],
    ids=["norm used twice", "part of the columns", "no weight", "weight of another dtype", "add, part", "no norm"],
)
def test_what_is_something_else_stays(inputs, norm):
    def f(x, weight):
        y, other = norm(x, weight)
        return *OPS.quantize_per_token(y), other

    got, ops = compiled(f, inputs[0], inputs[2])
    assert ops == ["quantize_per_token"]
    y, _ = norm(inputs[0], inputs[2])
    assert torch.allclose(got[1], samebits.quantize_per_token(y)[1], rtol=0.02)
