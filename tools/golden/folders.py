"""Model folders as people have them: each is the small BERT or XLM-RoBERTa with a few keys changed, read by
sentence-transformers."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

from fixture import rounded, write

LONG = " ".join(["rope way"] * 120)
TEXTS = ["The upper station stands at 2,841 metres.", LONG]
PADS = ["one <pad> two", "one [PAD] two", "<pad>", "<pad><pad> three <pad>", LONG.replace(" ", " <pad> ")]

TOKENIZER, BERT_FILE, POOLING = "tokenizer_config.json", "sentence_bert_config.json", "1_Pooling/config.json"
XLM_FILE = "sentence_xlm-roberta_config.json"
NO_LIMIT = {BERT_FILE: None}
OLD_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def old_pooling(*modes):
    return {POOLING: {"word_embedding_dimension": 64, **{key: mode in modes for mode, key in OLD_MODES.items()}}}


def new_pooling(mode):
    return {POOLING: {"embedding_dimension": 64, "pooling_mode": mode, "include_prompt": True}}


def tensor(seed, *shape):
    """Weights of a module after pooling; of an offset and a gain too, so that neither goes unnoticed."""
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.5
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


# By the name of their tensor in the fixture.
WEIGHTS = {
    "dense 64 32": tensor(1, 32, 64),
    "dense 32 64": tensor(2, 64, 32),
    "dense 64 64": tensor(3, 64, 64),
    "dense 128 32": tensor(4, 32, 128),
    "residual 64 32": tensor(5, 32, 64),
    "bias 32": tensor(6, 32),
    "bias 64": tensor(7, 64),
    "gain 64": 1 + tensor(8, 64),
    "gain 32": 1 + tensor(9, 32),
}
CLASS = "sentence_transformers.models."


def modules(*after):
    """modules.json with these after Pooling, `(class, folder)` each."""
    all = [("Transformer", ""), ("Pooling", "1_Pooling"), *after]
    return {"modules.json": [{"idx": i, "name": str(i), "path": path, "type": CLASS + kind}
                             for i, (kind, path) in enumerate(all)]}  # fmt: skip


def dense(folder, width, out, activation=None, bias=True, residual=False):
    config = {"in_features": width, "out_features": out, "bias": bias}
    if activation:
        config["activation_function"] = f"torch.nn.modules.{activation}"
    names = {"linear.weight": f"dense {width} {out}"}
    if bias:
        names["linear.bias"] = f"bias {out}"
    if residual:
        config["use_residual"] = True
        if width != out:
            names["residual.weight"] = f"residual {width} {out}"
    return {f"{folder}/config.json": config, f"{folder}/model.safetensors": names}


def layer_norm(folder, width):
    names = {"norm.weight": f"gain {width}", "norm.bias": f"bias {width}"}
    return {f"{folder}/config.json": {"dimension": width}, f"{folder}/model.safetensors": names}


DENSE, NORM, UNIT = ("Dense", "2_Dense"), ("LayerNorm", "3_LayerNorm"), ("Normalize", "4_Normalize")
PROMPT = {"config_sentence_transformers.json": {"prompts": {"query": "Find the answer: ", "passage": ""},
                                                "default_prompt_name": "query"}}  # fmt: skip
SPECIALS = ["<s> The UPPER Station </s> stands <mask> [SEP] At [MASK] 2,841 [mask] METRES <MASK>."]
LOWER = {BERT_FILE: {"max_seq_length": 128, "do_lower_case": True}}


def no_prompt(*modes):
    return {**PROMPT, POOLING: {**new_pooling(list(modes))[POOLING], "include_prompt": False}}


HEADS = [
    ("dense", "bert", {**modules(DENSE), **dense("2_Dense", 64, 32)}),
    ("dense, normalised", "bert", {**modules(DENSE, UNIT), **dense("2_Dense", 64, 32, "activation.Tanh")}),
    ("dense after cls", "xlm-roberta", {**modules(DENSE, UNIT), **dense("2_Dense", 64, 64, "activation.Tanh"),
                                        **new_pooling("cls")}),
    ("dense identity without bias", "bert", {**modules(DENSE), **dense("2_Dense", 64, 32, "linear.Identity", False)}),
    *((f"dense {activation}", "xlm-roberta", {**modules(DENSE), **dense("2_Dense", 64, 32, f"activation.{activation}")})
      for activation in ("GELU", "ReLU", "Sigmoid")),
    ("dense residual", "bert", {**modules(DENSE), **dense("2_Dense", 64, 64, residual=True)}),
    ("dense residual of another width", "bert", {**modules(DENSE), **dense("2_Dense", 64, 32, residual=True)}),
    ("dense after two poolings", "bert", {**modules(DENSE), **dense("2_Dense", 128, 32), **new_pooling(["max", "mean"])}),
    ("two dense", "bert", {**modules(DENSE, ("Dense", "3_Dense")), **dense("2_Dense", 64, 32),
                           **dense("3_Dense", 32, 64, "linear.Identity")}),
    ("layer norm", "bert", {**modules(NORM), **layer_norm("3_LayerNorm", 64)}),
    ("normalised, dense, layer norm", "bert", {**modules(UNIT, DENSE, NORM, ("Dropout", "5_Dropout")),
                                               "5_Dropout/config.json": {"dropout": 0.5},
                                               **dense("2_Dense", 64, 32), **layer_norm("3_LayerNorm", 32)}),
    ("activation of others", "bert", {**modules(DENSE), **dense("2_Dense", 64, 32),
                                      "2_Dense/config.json": {"in_features": 64, "out_features": 32,
                                                              "activation_function": "own.activations.Swish"}}),
    ("lower case", "bert", LOWER),
    ("lower case of XLM-R", "xlm-roberta", LOWER),
    ("prompt", "bert", PROMPT),
    *((f"prompt not pooled, {' and '.join(modes)}, {base}", base, no_prompt(*modes))
      for base, modes in (("bert", ["mean"]), ("xlm-roberta", ["mean"]), ("bert", ["cls"]), ("bert", ["max"]),
                          ("bert", ["lasttoken", "mean_sqrt_len_tokens"]), ("bert", ["weightedmean"]))),
    ("transformer in a folder", "bert", {}),
    ("transformer in a folder, in shards", "xlm-roberta", {}),
]  # fmt: skip
# Where the transformer's files are moved to.
SUBFOLDER = "0_Transformer"


# Name, base, and the files: their whole contents, or null for one that is taken away. Files of CHANGED have keys set;
# null takes one out. Weights are the names of their tensors in the fixture.
CHANGED = ("config.json", TOKENIZER)
FOLDERS = [
    ("limit of both", "bert", {BERT_FILE: {"max_seq_length": 40}, TOKENIZER: {"model_max_length": 20}}),
    ("smaller limit of both", "bert", {BERT_FILE: {"max_seq_length": 20}, TOKENIZER: {"model_max_length": 40}}),
    ("limit null", "bert", {BERT_FILE: {"max_seq_length": None}, TOKENIZER: {"model_max_length": 24}}),
    ("limit of the tokenizer", "bert", {**NO_LIMIT, TOKENIZER: {"model_max_length": 24}}),
    ("limit of the positions", "bert", {**NO_LIMIT, TOKENIZER: {"model_max_length": None}}),
    ("limit of the tokenizer, past the positions", "bert", {**NO_LIMIT, TOKENIZER: {"model_max_length": 1000}}),
    ("limit of a tokenizer of old", "bert", {**NO_LIMIT, TOKENIZER: {"model_max_length": None, "max_len": 24}}),
    ("limit without modules", "bert", {"modules.json": None, BERT_FILE: {"max_seq_length": 40},
                                       TOKENIZER: {"model_max_length": 20}}),
    *((f"limit in {name}, {base}", base, {**NO_LIMIT, f"sentence_{name}_config.json": {"max_seq_length": 30}})
      for base in ("bert", "xlm-roberta")
      for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet", "mpnet")),
    ("limit behind an empty file", "xlm-roberta", {BERT_FILE: {}, XLM_FILE: {"max_seq_length": 17}}),
    ("limit behind a file", "xlm-roberta", {BERT_FILE: {"do_lower_case": False}, XLM_FILE: {"max_seq_length": 17}}),
    ("limits of two files", "xlm-roberta", {BERT_FILE: {"max_seq_length": 50}, XLM_FILE: {"max_seq_length": 17}}),
    ("no pooling mode true", "bert", old_pooling()),
    ("no pooling mode", "bert", {POOLING: {"word_embedding_dimension": 64}}),
    *((f"pooling {mode}, old", "bert", old_pooling(mode)) for mode in OLD_MODES),
    *((f"pooling {mode}", "bert", new_pooling(mode)) for mode in OLD_MODES),
    ("pooling in a list", "bert", new_pooling(["cls"])),
    ("pooling mean in a list", "bert", new_pooling(["mean"])),
    ("two poolings, old", "bert", old_pooling("mean", "cls")),
    ("two poolings", "bert", new_pooling(["mean", "cls"])),
    ("pooling named and old", "bert", {POOLING: {**old_pooling("mean")[POOLING], "pooling_mode": "cls"}}),
    ("pad token", "xlm-roberta", {}),
    ("pad token in BERT", "bert", {}),
    ("pad token 3", "xlm-roberta", {**NO_LIMIT, "config.json": {"pad_token_id": 3}}),
    ("pad token 0", "xlm-roberta", {"config.json": {"pad_token_id": 0}}),
    ("pad token of RoBERTa", "xlm-roberta", {"config.json": {"model_type": "roberta"}}),
]  # fmt: skip


def edit(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.unlink()
            continue
        if name.endswith(".safetensors"):
            save_file({key: WEIGHTS[weight] for key, weight in content.items()}, path)
            continue
        if name in CHANGED:
            content = {**json.loads(path.read_text()), **content}
            content = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(content))


def move(folder, subfolder):
    """The transformer's files, all but the lists of the whole model, into a folder of it."""
    (folder / subfolder).mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / subfolder / path.name)
    path = folder / "modules.json"
    listed = json.loads(path.read_text())
    listed[0]["path"] = subfolder
    path.write_text(json.dumps(listed))


def make(out):
    cases, tensors, errors = [], dict(WEIGHTS), []
    for name, base, files in FOLDERS + HEADS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(out / base, folder, ignore=shutil.ignore_patterns("user"))
            edit(folder, files)
            subfolder = SUBFOLDER if name.startswith("transformer in a folder") else None
            if subfolder:
                move(folder, subfolder)
            arguments = {"attn_implementation": "eager", "dtype": torch.float32}
            model = SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments)
            if name == "pad token 3":  # The library knows no limit here, and reads past its table.
                model.max_seq_length = 130 - 3 - 1
            texts = TEXTS + PADS if "pad" in name.split() else TEXTS
            texts = TEXTS + SPECIALS if "lower" in name.split() else texts
            prompt = model.prompts.get(model.default_prompt_name, "")
            # One at a time: no padding.
            single = model.encode(texts, batch_size=1, normalize_embeddings=True).astype(np.float64)
            exact = model.double().encode(texts, batch_size=1, normalize_embeddings=True).astype(np.float64)
            limit = min(model.max_seq_length, 10**6)
            tokens = [model.tokenizer(prompt + text, truncation=True, max_length=limit) for text in texts]
            tokens = [len(tokenised["input_ids"]) for tokenised in tokens]
        errors.append(np.abs(single - exact).max())
        case = {"name": name, "base": base, "files": files, "texts": texts, "tokens": tokens, "expected": name}
        cases.append({**case, "transformer": subfolder} if subfolder else case)
        tensors[name] = exact.astype(np.float32)
    assert len(tensors) == len(cases) + len(WEIGHTS), "two folders of one name"
    head = {"models": ["bert", "xlm-roberta"], "tolerance": rounded(4 * max(errors))}
    write(out / "folders", head, cases, tensors)
    print(f"folders: {len(cases)} folders; float32 differs from float64 by {max(errors):.1e}")
