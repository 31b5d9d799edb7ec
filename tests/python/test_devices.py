"""More than one GPU in a process: the bits of the CPU on each, whichever of them is torch's current device."""

import threading

import pytest
import torch
from torch import nn

import samebits
from helpers import DEVICES, operands, same_bits
from samebits import Fp8Linear

pytestmark = pytest.mark.skipif(
    "cuda" not in DEVICES or torch.cuda.device_count() < 2, reason="needs two GPUs that samebits has kernels for"
)
GPUS = ("cuda:0", "cuda:1")


def on(device: str, tensors):
    return [t.to(device) for t in tensors]


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("order", samebits.ORDERS[:2])
def test_ops_run_where_their_tensors_are(current, order):
    problem = operands(65, 256, 512)
    x = torch.randn(65, 512).bfloat16()
    expected = samebits.scaled_mm(*problem, None, torch.bfloat16, order)
    q, scale = samebits.quantize_per_token(x)
    with torch.cuda.device(current):
        for device in GPUS:
            out = samebits.scaled_mm(*on(device, problem), None, torch.bfloat16, order)
            assert str(out.device) == device and same_bits(out, expected)
            there = samebits.quantize_per_token(x.to(device))
            assert str(there[0].device) == device and same_bits(there[0], q) and same_bits(there[1], scale)
        assert torch.cuda.current_device() == current


def test_a_layer_moves_to_the_other_gpu():
    torch.manual_seed(0)
    layer = Fp8Linear.from_linear(nn.Linear(200, 100).bfloat16())
    x = torch.randn(33, 200).bfloat16()
    expected = layer(x)
    for device in GPUS:
        layer = layer.to(device)
        assert same_bits(layer(x.to(device)), expected)
    with pytest.raises(RuntimeError, match=r"is not on the device of the first operand: cuda:1 and cuda:0"):
        layer(x.to("cuda:0"))


def test_a_graph_on_the_gpu_that_is_not_current():
    problem = operands(17, 256, 512)
    expected = samebits.scaled_mm(*problem)
    there = on("cuda:1", problem)
    samebits.scaled_mm(*there)  # loads the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(1), torch.cuda.graph(graph):
        out = samebits.scaled_mm(*there)
    out.zero_()
    graph.replay()
    torch.cuda.synchronize(1)
    assert same_bits(out, expected)


def test_both_at_once_from_two_threads():
    problems = [operands(m, 4096, 2048) for m in (1, 64, 257)]
    expected = [samebits.scaled_mm(*problem) for problem in problems]
    differ: dict[str, int] = {}

    def work(device: str) -> None:
        there = [on(device, problem) for problem in problems]
        outs = [samebits.scaled_mm(*there[i % 3]) for i in range(300)]
        differ[device] = sum(not same_bits(out, expected[i % 3]) for i, out in enumerate(outs))

    threads = [threading.Thread(target=work, args=(device,)) for device in GPUS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differ == dict.fromkeys(GPUS, 0)
