"""The reference forwards: transformers' models with adapters merged into their weights, and the
pooling that turns token vectors into embeddings, in whichever precision is asked for."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model


class JinaOracle:
    """A jina-embeddings-v3 checkpoint in the hub's layout, run by transformers' JinaEmbeddingsV3Model.

    transformers does not read the hub's stacked adapters, so they are merged here:
    linear `W + Σ weight·(alpha/rank)·B[t]·A[t]`, embedding `W + Σ weight·(alpha/rank)·A[t]·B[t]`.
    """

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.tensors = {
            name.removeprefix("roberta."): tensor
            for name, tensor in load_file(Path(folder) / "model.safetensors").items()
        }
        self.tasks = self.config["lora_adaptations"]
        self.prefixes = self.config["task_instructions"]
        self.scale = self.config["lora_alpha"] / self.config["lora_rank"]
        self._models = {}

    def merged(self, mixture, dtype):
        """Weights without the `parametrizations` level, with the adapters of `mixture` ({task: weight}) added.

        The checkpoint is upcast before the merge, so the merge is as exact as `dtype` allows.
        """
        merged = {}
        for name, tensor in self.tensors.items():
            if ".lora_" in name:
                continue
            weight = tensor.to(dtype)
            if name.endswith(".parametrizations.weight.original"):
                stem = name.removesuffix(".original")
                for task, share in mixture.items():
                    index = self.tasks.index(task)
                    a = self.tensors[f"{stem}.0.lora_A"][index].to(dtype)
                    b = self.tensors[f"{stem}.0.lora_B"][index].to(dtype)
                    update = a @ b if "embeddings" in stem else b @ a
                    weight = weight + share * self.scale * update
                name = stem.replace(".parametrizations.weight", ".weight")
            merged[name] = weight
        return merged

    def _native_state(self, mixture, dtype):
        """The same weights under the names of transformers' module tree."""
        state = {}
        for name, tensor in self.merged(mixture, dtype).items():
            name = name.replace("emb_ln.", "embeddings.LayerNorm.").replace("encoder.layers.", "layers.")
            name = name.replace("norm1.", "post_attention_layernorm.").replace("norm2.", "post_mlp_layernorm.")
            name = name.replace("mixer.out_proj.", "self_attn.o_proj.")
            if "mixer.Wqkv." in name:
                for part, rows in zip("qkv", tensor.chunk(3, dim=0), strict=True):
                    state[name.replace("mixer.Wqkv.", f"self_attn.{part}_proj.")] = rows
            else:
                state[name] = tensor
        return state

    def model(self, mixture, dtype, rope_base=None, attention="eager"):
        key = (tuple(mixture.items()), dtype, rope_base, attention)
        if key not in self._models:
            config = JinaEmbeddingsV3Config(
                vocab_size=self.config["vocab_size"],
                hidden_size=self.config["hidden_size"],
                num_hidden_layers=self.config["num_hidden_layers"],
                num_attention_heads=self.config["num_attention_heads"],
                intermediate_size=self.config["intermediate_size"],
                max_position_embeddings=self.config["max_position_embeddings"],
                type_vocab_size=self.config["type_vocab_size"],
                layer_norm_eps=self.config["layer_norm_eps"],
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": rope_base or self.config["rotary_emb_base"],
                },
                attn_implementation=attention,
            )
            model = JinaEmbeddingsV3Model(config).to(dtype).eval()
            model.load_state_dict(self._native_state(mixture, dtype), strict=True)
            # `.to(float64)` has to leave the rotary frequencies what they were in float32.
            assert torch.equal(model.rotary_emb.inv_freq.float(), model.rotary_emb.original_inv_freq.float())
            self._models[key] = model
        return self._models[key]

    def hidden_states(self, ids, mixture, dtype, **options):
        """[layers + 1, tokens, hidden]: after the embedding's LayerNorm, then after every layer."""
        return forward(self.model(mixture, dtype, **options), ids)


def forward(model, ids):
    """All hidden states of one sequence, [layers + 1, tokens, hidden], as numpy in the model's dtype."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    states = output.hidden_states
    assert torch.equal(states[-1], output.last_hidden_state)
    return torch.stack(states)[:, 0].numpy()


def windowed(run, ids, size, overlap):
    """Token vectors of a document that is longer than `size`: windows of `size` ids every
    `size - overlap`, of which every one but the first loses its first `overlap` outputs.
    `run` maps ids to [tokens, hidden]; positions start at 0 in each window."""
    if len(ids) <= size:
        return run(ids)
    pieces = []
    for start in range(0, len(ids), size - overlap):
        vectors = run(ids[start : start + size])
        pieces.append(vectors if start == 0 else vectors[overlap:])
    return np.concatenate(pieces)


def normalise(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def pool(tokens, case):
    """[tokens, hidden] → what a case expects, in the order of the model: pool, truncate, normalise."""
    if case["pooling"] == "mean":
        vectors = tokens.mean(axis=0)
    elif case["pooling"] == "cls":
        vectors = tokens[0]
    elif case["pooling"] == "chunks":
        vectors = np.stack([tokens[start:end].mean(axis=0) for start, end in case["chunks"]["spans"]])
    else:
        assert case["pooling"] == "tokens"
        vectors = tokens
    if case["dimensions"]:
        vectors = vectors[..., : case["dimensions"]]
    return normalise(vectors) if case["normalize"] else vectors
