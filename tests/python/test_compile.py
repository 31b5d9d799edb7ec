"""torch.compile without graph breaks and with any M from one graph; CUDA graphs; streams."""

import pytest
import torch
from torch import nn

import samebits
from helpers import DEVICES, operands, same_bits
from samebits import Fp8Linear


class CountingBackend:
    """Runs the captured graph as it is and counts how often torch.compile had to capture one."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, _):
        self.graphs += 1
        return graph


def test_ops_compile_once_for_every_m(device):
    def f(x, b, scale_b, static):
        q, scale = samebits.quantize_per_token(x)
        dynamic = samebits.scaled_mm(q, b, scale, scale_b)
        out = torch.empty_like(dynamic)
        samebits.cutlass_scaled_mm(out, samebits.quantize_static(x, static), b, static, scale_b)
        return dynamic, out, samebits.dequantize(q, scale)

    _, b, _, scale_b = operands(1, 64, 96, device)
    backend = CountingBackend()
    compiled = torch.compile(f, backend=backend, fullgraph=True, dynamic=True)
    static = torch.tensor([0.02], device=device)
    for m in (5, 17, 64, 33):
        x = torch.randn(m, 96, device=device).bfloat16()
        for got, want in zip(compiled(x, b, scale_b, static), f(x, b, scale_b, static), strict=True):
            assert same_bits(got, want)
    assert backend.graphs == 1


LAYERS = {
    "direct": lambda source: Fp8Linear.from_linear(source),
    "static": lambda source: Fp8Linear.from_linear(source, input_scale=0.02),
    "weight-only": lambda source: Fp8Linear.from_linear(source, weight_only=True),
    "blocks": lambda source: Fp8Linear.from_fp8(source.weight.detach().to(torch.float8_e4m3fn), torch.rand(2, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_compile_once_for_every_m(device, kind):
    layer = LAYERS[kind](nn.Linear(200, 150).bfloat16().to(device)).to(device)
    backend = CountingBackend()
    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=True)
    for m in (5, 17, 64, 33):
        x = torch.randn(m, 200, device=device).bfloat16()
        assert same_bits(compiled(x), layer(x))
    assert backend.graphs == 1


@pytest.mark.parametrize("trainable", [False, True])
def test_training_compiles(device, trainable):
    layer = Fp8Linear.from_linear(nn.Linear(64, 48).bfloat16().to(device), trainable=trainable)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    x = torch.randn(7, 64, device=device).bfloat16().requires_grad_()
    outs, grads = [], []
    for f in (layer, compiled):
        out = f(x)
        (grad,) = torch.autograd.grad(out.float().square().sum(), x)
        outs.append(out)
        grads.append(grad)
    assert same_bits(*outs) and same_bits(*grads)


def test_inductor(device):
    layer = Fp8Linear.from_linear(nn.Linear(96, 64).bfloat16().to(device))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for m in (3, 16):
        x = torch.randn(m, 96, device=device).bfloat16()
        assert same_bits(compiled(x), layer(x))


def on_cuda():
    return "cuda" in DEVICES


if on_cuda():  # nothing below can be stated about a CPU

    def capture(f):
        """f() in a CUDA graph: the graph and what f returned."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            f()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            return graph, f()

    def check_replays(f, x):
        """f(x) captured and replayed on new inputs has the bits of f; an output left as it was would be caught."""
        graph, out = capture(lambda: f(x))
        last = None
        for _ in range(3):
            fresh = torch.randn_like(x)
            x.copy_(fresh)
            graph.replay()
            assert same_bits(out, f(fresh))
            assert last is None or not same_bits(out, last)
            last = out.clone()

    def test_cuda_graph_replays_the_same_bits():
        layer = Fp8Linear.from_linear(nn.Linear(512, 256).bfloat16().cuda())
        check_replays(layer, torch.randn(33, 512, device="cuda").bfloat16())

    @pytest.mark.parametrize("m", [1, 17, 200])
    @pytest.mark.parametrize("overlap", ["none", "launch", "weight", "chain"])
    def test_cuda_graph_of_dependent_launches(overlap, m):
        """A chain of quantizers and products; a product may start before the kernel ahead of it ends."""
        weights = [operands(1, 512, 512, "cuda")[1::2] for _ in range(3)]
        static = torch.tensor([0.0125], device="cuda")

        def chain(x):
            for b, scale_b in weights:
                q, scale = samebits.quantize_per_token(x)
                first = samebits.scaled_mm(q, b, scale, scale_b, overlap=overlap)
                x = torch.empty_like(first)
                samebits.cutlass_scaled_mm(x, samebits.quantize_static(first, static), b, static, scale_b)
            return x

        check_replays(chain, torch.randn(m, 512, device="cuda").bfloat16())

    def test_ops_run_on_the_current_stream():
        """Behind a long wait on a side stream: an op on another stream would read the operand too early."""
        a, b, scale_a, scale_b = operands(64, 256, 512, "cuda")
        expected = samebits.scaled_mm(a, b, scale_a, scale_b)
        late = torch.zeros_like(a)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late.copy_(a)
            out = samebits.scaled_mm(late, b, scale_a, scale_b)
        stream.synchronize()
        assert same_bits(out, expected)
