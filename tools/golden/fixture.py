"""What all fixtures share: the rows of a manifest, the files, and the checkpoints of random weights."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save_file


def random_ids(length, vocab, seed, ends=(0, 2)):
    """A start id, random ids, an end id; at lengths 1 and 2 what is left of that. No specials in between."""
    middle = np.random.default_rng(seed).integers(5, vocab, size=length).tolist()
    if length == 1:
        return middle
    return [ends[0], *middle[2:], ends[1]]


def case(name, ids, **given):
    """One row of the manifest; README.md says what the fields mean."""
    row = {
        "name": name,
        "task": None,
        "adapters": None,
        "text": None,
        "ids": ids,
        "pooling": "mean",
        "normalize": True,
        "dimensions": None,
        "chunks": None,
        "hidden_states": False,
    }
    assert given.keys() <= row.keys(), given
    return {**row, **given}


def largest(difference):
    return float(np.abs(difference).max())


def rounded(error):
    """Two significant digits: enough for an error, and the same on another machine."""
    return float(f"{error:.1e}")


def write(stem, head, cases, tensors):
    """`stem`.json, one case a line so that diffs stay readable, and `stem`.safetensors."""
    made_with = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "peft")}
    if "sentence_transformers" in sys.modules:
        made_with["sentence-transformers"] = version("sentence-transformers")
    head = {"format": 1, "made_by": "tools/golden/make", "made_with": made_with, **head}
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in cases)
    top = json.dumps(head, ensure_ascii=False, indent=1).rstrip().removesuffix("}").rstrip()
    stem.with_suffix(".json").write_text(f'{top},\n "cases": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    path = stem.with_suffix(".safetensors")
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # safetensors makes files that only their owner can read


class Maker:
    """tools/make-model, which writes the checkpoints of random weights.

    It runs in the fixtures' folder and is given relative paths, because an adapter's config repeats the
    path of its base model, which must not be one of this machine."""

    def __init__(self, command, folder):
        self.command = shlex.split(command)
        self.folder = folder

    def __call__(self, *arguments):
        command = [*self.command, *map(str, arguments)]
        try:
            result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        except OSError as error:
            raise SystemExit(
                f"make: cannot run {command[0]}: {error.strerror}. Name it with --make-model COMMAND."
            ) from error
        if result.returncode != 0:
            raise SystemExit(f"make: {shlex.join(command)} failed:\n{(result.stderr or result.stdout).strip()}")
