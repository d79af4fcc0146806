"""Model folders as people have them: each is the small BERT or XLM-RoBERTa with a few keys changed, read by
sentence-transformers."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
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


# Name, base, and the files: their whole contents, or null for one that is taken away. Files of CHANGED have keys set;
# null takes one out.
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
        if content is None:
            path.unlink()
            continue
        if name in CHANGED:
            content = {**json.loads(path.read_text()), **content}
            content = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(content))


def make(out):
    cases, tensors, errors = [], {}, []
    for name, base, files in FOLDERS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(out / base, folder, ignore=shutil.ignore_patterns("user"))
            edit(folder, files)
            arguments = {"attn_implementation": "eager", "dtype": torch.float32}
            model = SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments)
            if name == "pad token 3":  # The library knows no limit here, and reads past its table.
                model.max_seq_length = 130 - 3 - 1
            texts = TEXTS + PADS if "pad" in name.split() else TEXTS
            # One at a time: no padding.
            single = model.encode(texts, batch_size=1, normalize_embeddings=True).astype(np.float64)
            exact = model.double().encode(texts, batch_size=1, normalize_embeddings=True).astype(np.float64)
            limit = min(model.max_seq_length, 10**6)
            tokens = [len(model.tokenizer(text, truncation=True, max_length=limit)["input_ids"]) for text in texts]
        errors.append(np.abs(single - exact).max())
        cases.append({"name": name, "base": base, "files": files, "texts": texts, "tokens": tokens, "expected": name})
        tensors[name] = exact.astype(np.float32)
    assert len(tensors) == len(cases), "two folders of one name"
    head = {"models": ["bert", "xlm-roberta"], "tolerance": rounded(4 * max(errors))}
    write(out / "folders", head, cases, tensors)
    print(f"folders: {len(cases)} folders; float32 differs from float64 by {max(errors):.1e}")
