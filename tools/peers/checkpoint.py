"""A jina-embeddings-v3 checkpoint for transformers, from either layout, its tasks' adapters merged or through PEFT.

The native layout has an `adapter_config.json` folder for each task; the hub's layout has all tasks' adapters stacked in
the one file, which transformers does not read.
"""

import copy
import json
from pathlib import Path

import torch
from race import Unavailable
from safetensors.torch import load_file

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
PARAMETRIZED = ".parametrizations.weight"


def folder_of(task):
    return task.replace(".", "_").replace("-", "_")


class Checkpoint:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.native = self.config.get("model_type") == "jina_embeddings_v3"
        if not self.native and self.config.get("position_embedding_type") != "rotary":
            raise Unavailable(f"{self.folder} is no jina-embeddings-v3 model, which is what the peers run")
        if self.native:
            self.tasks = [task for task in TASKS if (self.folder / folder_of(task) / "adapter_config.json").is_file()]
        else:
            self.tasks = self.config.get("lora_adaptations") or []
        self.vocabulary = self.config["vocab_size"]
        # Two rows of the position table are the padding's, which RoPE has no use for but the limit is counted so.
        self.most_tokens = self.config["max_position_embeddings"] - 2
        self._stacked = {}

    def model(self, device):
        """transformers' JinaEmbeddingsV3Model with the base weights in float32."""
        from transformers import JinaEmbeddingsV3Model

        if self.native:
            model = JinaEmbeddingsV3Model.from_pretrained(
                self.folder, dtype=torch.float32, attn_implementation="sdpa", add_pooling_layer=False
            )
        else:
            model = self._from_hub_layout()
        return model.eval().to(device)

    def updates(self, task):
        """Yields (name of a weight, what the task's adapter adds to it), in float32."""
        if task not in self.tasks:
            raise Unavailable(f"{self.folder} has no adapter '{task}'")
        yield from self._peft_updates(task) if self.native else self._stacked_updates(task)

    def merged(self, base, task):
        """A copy of `base`, a float32 model, with the task's adapter in its weights."""
        model = copy.deepcopy(base)
        if task:
            weights = dict(model.named_parameters())
            with torch.no_grad():
                for name, update in self.updates(task):
                    # The pooler is adapted too, and nobody here has one.
                    if name in weights:
                        weights[name].add_(update.to(weights[name].device))
        return model

    def with_peft(self, base, tasks, dtype):
        """A copy of `base` with the tasks' adapters beside its weights. The first is the active one."""
        if not self.native:
            raise Unavailable("PEFT reads adapters of the native layout only")
        from peft import PeftModel

        first, *others = tasks
        model = PeftModel.from_pretrained(
            copy.deepcopy(base), str(self.folder / folder_of(first)), adapter_name=folder_of(first),
            autocast_adapter_dtype=False,
        )  # fmt: skip
        for task in others:
            model.load_adapter(
                str(self.folder / folder_of(task)), adapter_name=folder_of(task), autocast_adapter_dtype=False
            )
        return cast(model.eval(), dtype)

    # ---- the native layout --------------------------------------------------------------------------------------

    def _peft_updates(self, task):
        folder = self.folder / folder_of(task)
        config = json.loads((folder / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        tensors = load_file(folder / "adapter_model.safetensors")
        for name, down in tensors.items():
            stem = name.removeprefix("base_model.model.")
            if stem.endswith(".lora_A.weight"):
                up = tensors[name.replace(".lora_A.", ".lora_B.")]
                yield stem.replace(".lora_A.weight", ".weight"), scale * (up.float() @ down.float())
            elif stem.endswith(".lora_embedding_A"):
                # [rank, rows of the table] and [hidden, rank]
                up = tensors[name.replace("_A", "_B")]
                yield stem.replace(".lora_embedding_A", ".weight"), scale * (up.float() @ down.float()).T

    # ---- the hub's layout ---------------------------------------------------------------------------------------

    def _tensors(self):
        if not self._stacked:
            for file in sorted(self.folder.glob("*.safetensors")):
                self._stacked |= {name.removeprefix("roberta."): tensor for name, tensor in load_file(file).items()}
        return self._stacked

    def _from_hub_layout(self):
        from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

        same = (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
        )  # fmt: skip
        rope = {"rope_type": "default", "rope_theta": self.config["rotary_emb_base"]}
        config = JinaEmbeddingsV3Config(
            **{key: self.config[key] for key in same}, rope_parameters=rope, attn_implementation="sdpa"
        )
        model = JinaEmbeddingsV3Model(config, add_pooling_layer=False)
        state = {}
        for name, tensor in self._tensors().items():
            if ".lora_" not in name and not name.startswith(("pooler.", "lm_head.")):
                plain = name.replace(f"{PARAMETRIZED}.original", ".weight")
                state |= {native: part.float() for native, part in native_names(plain, tensor)}
        model.load_state_dict(state, strict=True)
        return model

    def _stacked_updates(self, task):
        scale = self.config["lora_alpha"] / self.config["lora_rank"]
        place = self.tasks.index(task)
        tensors = self._tensors()
        for name, stacked in tensors.items():
            if not name.endswith(".lora_A"):
                continue
            down, up = stacked[place].float(), tensors[name.replace(".lora_A", ".lora_B")][place].float()
            stem = name[: name.index(PARAMETRIZED)]
            # The embedding's factors stand the other way round: [rows, rank] and [rank, hidden].
            update = down @ up if "embeddings" in stem else up @ down
            yield from native_names(f"{stem}.weight", scale * update)


def native_names(name, tensor):
    """A tensor of the hub's layout under transformers' names: the fused q, k and v become three."""
    for theirs, ours in (
        ("emb_ln.", "embeddings.LayerNorm."),
        ("encoder.layers.", "layers."),
        ("norm1.", "post_attention_layernorm."),
        ("norm2.", "post_mlp_layernorm."),
        ("mixer.out_proj.", "self_attn.o_proj."),
    ):
        name = name.replace(theirs, ours)
    if "mixer.Wqkv." not in name:
        return [(name, tensor)]
    return [
        (name.replace("mixer.Wqkv.", f"self_attn.{part}_proj."), rows)
        for part, rows in zip("qkv", tensor.chunk(3, dim=0))
    ]


def cast(model, dtype):
    """The weights in another precision; in place. `model.to` would round the rotary frequencies as well, and with them
    the angles of late positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
