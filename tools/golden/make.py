"""Writes tests/golden/: checkpoints of random weights, inputs, and what the references make of them."""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local; a wrong path must not become a download
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers

import families
import folders
import jina
import minilm
from fixture import Maker

REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(prog="tools/golden/make", description="Regenerate everything under tests/golden/.")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests" / "golden", help="default: tests/golden")
    parser.add_argument("--make-model", default=str(REPOSITORY / "tools" / "make-model"), metavar="COMMAND")
    parser.add_argument("--minilm", type=Path, default=REPOSITORY / "models" / "all-MiniLM-L6-v2", metavar="FOLDER",
                        help="all-MiniLM-L6-v2, from tools/fetch-model minilm")  # fmt: skip
    parser.add_argument("--only", choices=["jina", "families", "folders", "minilm"], help="leave the rest as it is")
    arguments = parser.parse_args()

    out, chosen = arguments.out, arguments.only
    make_model = Maker(arguments.make_model, out)
    if chosen in (None, "minilm") and not (arguments.minilm / "model.safetensors").is_file():
        raise SystemExit(f"make: {arguments.minilm} holds no model. Get it with: tools/fetch-model minilm")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT calls what transformers has renamed
    # One thread: sums in the same order on every machine of one kind.
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)

    if chosen in (None, "jina"):
        jina.make(out, make_model)
    if chosen in (None, "families"):
        families.make(out, make_model)
    if chosen in (None, "folders"):
        folders.make(out)
    if chosen in (None, "minilm"):
        minilm.make(out, arguments.minilm)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
