"""pip install . ; python examples/quickstart.py: an FP8 layer whose rows do not see the batch. Runs without a GPU."""

import torch

import samebits

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

# Online: an nn.Linear becomes FP8, one weight scale for each output channel, one activation scale for each token.
linear = torch.nn.Linear(2048, 1024, dtype=torch.bfloat16, device=device)
layer = samebits.Fp8Linear.from_linear(linear)
print(layer.explain())

# One row alone and in batches: the same bits. With plain BF16 or split-K FP8 GEMMs they may differ.
x = torch.randn(256, 2048, dtype=torch.bfloat16, device=device)
alone = layer(x[:1])
for m in (2, 16, 17, 64, 65, 256):
    assert torch.equal(layer(x[:m])[:1].view(torch.int16), alone.view(torch.int16)), m
print("row 0 has the same bits in batches of 1, 2, 16, 17, 64, 65 and 256")

# The same through the op, b as torch._scaled_mm takes it.
q, scale = samebits.quantize_per_token(x)
out = samebits.scaled_mm(q, layer.weight.t(), scale, layer.weight_scale, layer.bias.detach())
assert torch.equal(out, layer(x))

# A whole model, calibrated to static activation scales.
model = torch.nn.Sequential(torch.nn.Linear(2048, 512), torch.nn.GELU(), torch.nn.Linear(512, 2048)).to(device)
expected = model(x.float())
samebits.convert(model)
similarity = torch.cosine_similarity(model(x.float()), expected).min().item()
print(f"cosine similarity of the converted model to FP32, worst row: {similarity:.4f}")
samebits.calibrate(model, [x.float()])
print(samebits.explain(model))
