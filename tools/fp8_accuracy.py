#!/usr/bin/env python3
"""What products of 8-bit numbers do to a model's vectors: a simulation in PyTorch, for cuda/NOTES.md.

    tools/python-env --install                 # once: torch and transformers
    tools/fetch-model minilm; tools/fetch-model e5-small
    target/python/bin/python tools/fp8_accuracy.py models/all-MiniLM-L6-v2

Weights and activations of some linear layers are rounded to float8_e4m3fn or to int8, scaled so that the largest number of
each row (of a weight: of each output), or of each block of columns, is the type's largest. All others are rounded to bf16.
Sums are float32. The vectors are means over tokens, of 60 sentences of this repository; the ranked lists are 20 of them
against the other 40.
"""

import random
import re
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent


def bf16(x):
    return x.to(torch.bfloat16).float()


def fp8(x):
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def int8(x):
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return (x / scale).round() * scale


def fp8_gelu(x):
    """GELU's output by one constant scale for all rows."""
    return (x * 16).clamp(-448, 448).to(torch.float8_e4m3fn).float() / 16


def blocks(of, columns):
    return lambda x: of(x.unflatten(-1, (-1, columns))).flatten(-2)


# Activations, weights, and where both are: QKV, fc1, fc2.
CASES = {
    "bf16": (bf16, bf16, "q12"),
    "fp8": (fp8, fp8, "q12"),
    "fp8, GELU by a constant": ((fp8, fp8_gelu), fp8, "q12"),
    "fp8, blocks of 128": (blocks(fp8, 128), blocks(fp8, 128), "q12"),
    "fp8 in QKV": (fp8, fp8, "q"),
    "fp8 in fc1": (fp8, fp8, "1"),
    "fp8 in fc2": (fp8, fp8, "2"),
    "fp8 activations, bf16 weights": (fp8, bf16, "q12"),
    "int8": (int8, int8, "q12"),
    "int8, blocks of 64": (blocks(int8, 64), blocks(int8, 64), "q12"),
}


def sentences(count):
    text = "\n\n".join((ROOT / name).read_text() for name in ("README.md", "CHANGELOG.md"))
    found = (part.strip().replace("\n", " ") for part in re.split(r"(?<=[.!?])\s+|\n\n", text))
    found = [part for part in found if 20 < len(part) < 600]
    random.Random(1).shuffle(found)
    return found[:count]


def site(name):
    """Of BERT's and XLM-RoBERTa's names."""
    if re.search(r"\.self\.(query|key|value)$", name):
        return "q"
    if name.endswith("intermediate.dense"):
        return "1"
    return "2" if name.endswith("output.dense") and "attention" not in name else "other"


@torch.no_grad()
def vectors(model, tokenizer, texts):
    def of(text):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        return F.normalize(model(**tokens).last_hidden_state[0].mean(0), dim=0)

    return torch.stack([of(text) for text in texts])


def with_rounding(layer, activations, weights):
    weight, bias = weights(layer.weight.data), layer.bias
    layer.forward = types.MethodType(lambda _, x: F.linear(activations(bf16(x)), weight, bias), layer)


def ranks(of):
    queries, passages = of[:20], of[20:]
    return (queries @ passages.T).argsort(1).argsort(1).float()


def main(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    texts = sentences(60)
    exact = vectors(model, tokenizer, texts)
    n = len(texts) - 20
    print("| | cosine, least | mean | Spearman, least |\n|---|---|---|---|")
    for name, (activations, weights, sites) in CASES.items():
        first, gelu = activations if isinstance(activations, tuple) else (activations, activations)
        for at, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear):
                there = site(at) if site(at) in sites else None
                with_rounding(layer, *((gelu if there == "2" else first, weights) if there else (bf16, bf16)))
        got = vectors(model, tokenizer, texts)
        cosine = (got * exact).sum(1)
        spearman = 1 - 6 * ((ranks(got) - ranks(exact)) ** 2).sum(1) / (n * (n * n - 1))
        print(f"| {name} | {cosine.min():.5f} | {cosine.mean():.5f} | {spearman.min():.4f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main(sys.argv[1])
