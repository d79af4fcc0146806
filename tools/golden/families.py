"""BERT and XLM-RoBERTa in small, by transformers' own models, with a user's PEFT adapter on top."""

import shutil

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModel

from fixture import case, largest, random_ids, rounded, write
from oracle import forward, pool

VOCAB, ROWS = 600, 130
SHAPE = f"--hidden 64 --layers 2 --heads 2 --ffn 128 --vocab {VOCAB} --max-positions {ROWS} --seed 21".split()

# The ids around a text, the options of make-model and of its adapter. XLM-RoBERTa's positions begin at
# pad_token_id + 1 = 2, so it takes two tokens less than its table has rows. One is stored as float32 in one
# file, the other as bf16 in two, so that both ways of storing are read.
FAMILIES = {
    "bert": {
        "ends": (2, 3),
        "longest": ROWS,
        "model": ["--dtype", "f32"],
        "adapter": "--rank 6 --alpha 9 --targets query,value,attention.output.dense".split(),
    },
    "xlm-roberta": {
        "ends": (0, 2),
        "longest": ROWS - 2,
        "model": ["--dtype", "bf16", "--shards", "2"],
        "adapter": "--rank 16 --alpha 32 --targets query,key,value,intermediate.dense,output.dense".split(),
    },
}


def load(folder, adapter, weight, dtype):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling = {name: scale * weight for name, scale in module.scaling.items()}
    return model.to(dtype).eval()


def write_fixture(name, family, out):
    rows = []
    for length in (1, 2, 7, 65, family["longest"]):
        ids = random_ids(length, VOCAB, seed=length, ends=family["ends"])
        rows.append(case(f"mean/{length}", ids, hidden_states=length == 7))
        rows.append(case(f"cls/{length}", ids, pooling="cls"))
        rows.append(case(f"user-adapter/{length}", ids, adapters=[{"name": "user", "weight": 1.0}]))
        if length == 65:
            rows.append(case(f"half-user-adapter/{length}", ids, adapters=[{"name": "user", "weight": 0.5}]))

    models, tensors, effect = {}, {}, np.inf
    for row in rows:
        weight = row["adapters"][0]["weight"] if row["adapters"] else 0.0
        for dtype in (torch.float32, torch.float64):
            if (weight, dtype) not in models:
                adapter = out / name / "user" if weight else None
                models[weight, dtype] = load(out / name, adapter, weight, dtype)
        single, exact = (forward(models[weight, dtype], row["ids"]) for dtype in (torch.float32, torch.float64))
        found, expected = pool(single[-1], row), pool(exact[-1], row)
        row["error"] = {"transformers": rounded(largest(found - expected))}
        row["expected"] = row["name"]
        tensors[row["name"]] = expected.astype(np.float32)
        if row["hidden_states"]:
            row["hidden_states_error"] = {"transformers": [rounded(largest(d)) for d in single - exact]}
        row["hidden_states"] = f"{row['name']}/hidden_states" if row["hidden_states"] else None
        if row["hidden_states"]:
            tensors[row["hidden_states"]] = exact.astype(np.float32)
        if weight:
            effect = min(effect, largest(expected - pool(forward(models[0.0, torch.float64], row["ids"])[-1], row)))

    # There is one float32 reference here, so twice the error of two becomes four times the error of one.
    normalized = rounded(4 * max(row["error"]["transformers"] for row in rows))
    shown = [row["hidden_states_error"]["transformers"] for row in rows if row["hidden_states"]]
    for row in rows:
        row["tolerance"] = normalized
    if effect < 100 * normalized:
        raise SystemExit(f"make: the adapter of {name} moves a case by {effect:.1e} only")
    head = {
        "models": [name],
        "adapter_folders": {"user": f"{name}/user"},
        "tolerance": {
            "rule": "4 x the max-abs error against float64 of the float32 reference, over all cases",
            "normalized": normalized,
            "hidden_states": [rounded(4 * error) for error in np.max(shown, axis=0)],
        },
        "controls": {"adapter_off": {"least": rounded(effect), "times_tolerance": round(effect / normalized)}},
    }
    write(out / name, head, rows, tensors)
    print(
        f"{name}: {len(rows)} cases, tolerance {normalized:.1e}; the adapter moves every case by {effect:.1e} or more"
    )


def make(out, make_model):
    for name, family in FAMILIES.items():
        shutil.rmtree(out / name, ignore_errors=True)
        make_model(name, "--family", name, *SHAPE, *family["model"])
        make_model("adapter", f"{name}/user", "--base", name, *family["adapter"])
        write_fixture(name, family, out)
