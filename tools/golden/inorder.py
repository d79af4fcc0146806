"""A second reference: the jina-v3 forward in numpy float32, every sum taken in index order.

It shares no code with transformers, so agreement of the two is evidence for both. And its rounding is
that of the plainest float32 implementation (a running sum over k), where transformers' comes from a
blocked BLAS; an engine that is right errs about as much as one of them, and tolerances are made from
the larger error of the two (see README.md).
"""

import numpy as np
import torch

F32 = np.float32


def running_sum(values):
    """Sum over the last axis, one addend after the other (numpy's own sum works in pairs)."""
    return np.add.accumulate(values, axis=-1, dtype=F32)[..., -1]


def matmul(a, b):
    """[..., M, K] · [..., K, N], added up over k in order."""
    out = np.zeros((*a.shape[:-1], b.shape[-1]), F32)
    for k in range(a.shape[-1]):
        out += a[..., :, k, None] * b[..., None, k, :]
    return out


def linear(x, weights, name):
    return matmul(x, weights[f"{name}.weight"].T) + weights[f"{name}.bias"]


def layer_norm(x, weights, name, eps):
    count = F32(x.shape[-1])
    centred = x - (running_sum(x) / count)[..., None]
    variance = running_sum(centred * centred) / count
    return centred / np.sqrt(variance + F32(eps))[..., None] * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    erf = torch.erf(torch.from_numpy(x * F32(np.sqrt(0.5)))).numpy()
    return F32(0.5) * x * (F32(1) + erf)


def rotate(x, base):
    """RoPE over [heads, tokens, head_dim]: dimension i pairs with i + head_dim / 2; angles in float32."""
    half = x.shape[-1] // 2
    frequencies = (1.0 / float(base) ** (np.arange(half) / half)).astype(F32)
    angles = np.arange(x.shape[1], dtype=F32)[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attention(x, weights, name, heads, base):
    tokens, hidden = x.shape
    packed = linear(x, weights, f"{name}.Wqkv").reshape(tokens, 3, heads, hidden // heads)
    q, k, v = packed.transpose(1, 2, 0, 3)
    q, k = rotate(q, base), rotate(k, base)
    scores = matmul(q, k.transpose(0, 2, 1)) * F32((hidden // heads) ** -0.5)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = matmul(weight, v) / running_sum(weight)[..., None]
    return linear(mixed.transpose(1, 0, 2).reshape(tokens, hidden), weights, f"{name}.out_proj")


def hidden_states(oracle, ids, mixture):
    """[layers + 1, tokens, hidden], as `JinaOracle.hidden_states` has it."""
    config = oracle.config
    weights = {name: tensor.numpy() for name, tensor in oracle.merged(mixture, torch.float32).items()}
    eps, heads, base = config["layer_norm_eps"], config["num_attention_heads"], config["rotary_emb_base"]

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, weights, "emb_ln", eps)
    states = [x]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layers.{layer}"
        x = layer_norm(x + attention(x, weights, f"{at}.mixer", heads, base), weights, f"{at}.norm1", eps)
        inner = linear(gelu(linear(x, weights, f"{at}.mlp.fc1")), weights, f"{at}.mlp.fc2")
        x = layer_norm(x + inner, weights, f"{at}.norm2", eps)
        states.append(x)
    return np.stack(states)


def mean(tokens):
    return running_sum(np.ascontiguousarray(tokens.T)) / F32(len(tokens))
