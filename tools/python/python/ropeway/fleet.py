"""``ropeway-fleet``: vectors for the texts of many files, by the actors of a Ray cluster, in a run that can be gone on with.

This is the command line. What it does is imported once that is read, for it needs the package ``ray[data]``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from typing import Any, Dict, Mapping, Optional, Sequence

from . import __version__
from .errors import RopewayError, SettingError

DESCRIPTION = """\
Embeds the texts of Parquet files and JSON lines on a Ray cluster, and writes Parquet: FOLDER/part-*.parquet with the
columns "file" and "row" (from 0), those of --keep, the vectors as lists of fixed size, and "error": why a row has no
vector. Rows and parts are in the order of the inputs.

A run that was interrupted goes on when the same command is given again: a part is there whole or not at all. Inputs,
options or model files that differ from those that the folder began with are refused."""

EXIT_STATUS = """\
exit status:
  0  every row has a vector
  1  some rows have an error instead
  2  refused: wrong arguments, or another run's folder
  3  ended before its end; what is finished is kept"""

ENCODINGS = {"f32": "float32", "f16": "float16", "int8": "int8", "binary": "ubinary"}

# Columns of the output that no other may be named as.
OWN_COLUMNS = ("file", "row", "error")

# What the vectors and parts of a run depend on beside inputs and model.
RESULT_OPTIONS = (
    "text",
    "keep",
    "column",
    "vector",
    "task",
    "adapters",
    "prompt",
    "prompt_name",
    "dimensions",
    "any_dimensions",
    "normalize",
    "no_truncate",
    "encoding",
    "precision",
    "shard_rows",
)

# Problems of rows that are printed; all are in the column "error".
SAMPLES = 20

# Seconds between two lines of progress.
PROGRESS_S = 5.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="ropeway-fleet",
        usage="ropeway-fleet [OPTION ...] --output FOLDER --model FOLDER_OR_ID INPUT ...",
        description=DESCRIPTION,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="a .parquet, .jsonl or .ndjson file, or a folder of such")
    add("-o", "--output", required=True, metavar="FOLDER", help="where parts go; all machines see it by this name")
    add("-m", "--model", required=True, metavar="FOLDER_OR_ID", help="the model: a folder, or a hub id (owner/name)")
    add("--version", action="version", version=f"ropeway-fleet {__version__}")

    add = parser.add_argument_group("columns").add_argument
    add("--text", default="text", metavar="COLUMN", help="the texts (default: %(default)s)")
    add("--keep", action="append", default=[], metavar="COLUMN", help="copy this column to the output; may be repeated")
    add(
        "--column",
        action="append",
        default=[],
        metavar="WORD=COLUMN",
        help="take an option from a column, row by row: task, prompt, prompt_name, normalize or adapters; may be repeated",
    )
    add("--vector", default="embedding", metavar="COLUMN", help="the vectors' name in the output (default: %(default)s)")

    add = parser.add_argument_group("options of all rows, as of `ropeway embed`").add_argument
    add("--task", metavar="TASK", help="a task of the model")
    add("--adapters", type=_adapters, metavar="NAME=WEIGHT,...", help="a mixture of adapters")
    add("--prompt", metavar="TEXT", help="put this before every text")
    add("--prompt-name", metavar="NAME", help="put the model's prompt of this name before every text")
    add("--dimensions", type=_count, metavar="N", help="keep the first N dimensions")
    add("--any-dimensions", action="store_true", help="accept a --dimensions that the model was not trained for")
    add("--normalize", action=argparse.BooleanOptionalAction, help="vectors of length 1, or not (default: the model's own)")
    add("--no-truncate", action="store_true", help="refuse texts longer than the model's limit instead of cutting them")
    add("--encoding", choices=ENCODINGS, default="f32", help="numbers of the vectors (default: %(default)s)")
    add("--precision", metavar="TYPE", help="of weights and products (default: f32 on the CPU, bf16 on a GPU)")

    add = parser.add_argument_group("fleet").add_argument
    add("--actors", type=_count, default=1, metavar="N", help="engines, each in a process of its own (default: %(default)s)")
    add("--threads", type=_count, metavar="N", help="CPU cores of an actor (default: this machine's, shared out)")
    add("--gpus", type=_gpus, default=0.0, metavar="N", help="GPUs of an actor, 1 or a part of one (default: none, the CPU)")
    add("--batch-tokens", type=_count, metavar="N", help="tokens of a pass at most, which bounds its memory")
    add(
        "--shard-rows",
        type=_count,
        default=10_000,
        metavar="N",
        help="rows of a part: what is computed again when an actor dies, and held in memory (default: %(default)s)",
    )
    add("--address", help="the Ray cluster (default: $RAY_ADDRESS, else one on this machine for the run)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number above 0")
    return int(text)


def _gpus(text: str) -> float:
    try:
        gpus = float(text)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus <= 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not from 0 to 1; an engine takes one GPU at most")
    return gpus


def _adapters(text: str) -> Dict[str, float]:
    mixture: Dict[str, float] = {}
    try:
        for part in text.split(","):
            name, _, weight = part.rpartition("=")
            if not name:
                raise ValueError(part)
            mixture[name] = float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not NAME=WEIGHT,...") from None
    return mixture


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command; gives its exit status."""
    given = parser().parse_intermixed_args(arguments)
    try:
        return _run(given)
    except (RopewayError, OSError) as error:
        return _say(f"error: {error}", 2)
    except ImportError as error:
        return _say(f"error: {error}; ropeway-fleet needs Ray: pip install 'ray[data]'", 2)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on", 3)


def _say(line: str, status: int = 0) -> int:
    print(f"ropeway-fleet: {line}", file=sys.stderr, flush=True)
    return status


def _run(given: argparse.Namespace) -> int:
    import ray

    from . import _fleet, _manifest, _shards

    words = _words(given)
    columns = _shards.Columns(given.text, tuple(given.keep), _column_words(given, words, _shards.COLUMN_WORDS))
    named = [*OWN_COLUMNS, *columns.keep, given.vector]
    twice = next((name for number, name in enumerate(named) if name in named[:number]), None)
    if twice is not None:
        raise SettingError(f"the output would have two columns {twice!r}; name another with --keep or --vector")
    settings: Dict[str, Any] = {"device": "cuda" if given.gpus else "cpu", "precision": given.precision}
    files, output = _shards.list_inputs(given.inputs), os.path.abspath(given.output)
    model = os.path.abspath(given.model) if os.path.isdir(given.model) else given.model
    digest = _manifest.model_hash(_folder(model))
    inputs = _manifest.input_facts(files)
    of_run = {
        "options": {
            **{f"--{option.replace('_', '-')}": getattr(given, option) for option in RESULT_OPTIONS},
            "the device": settings["device"],
            "the version of ropeway": __version__,
        },
        "model": {"name": given.model, "sha256": digest},
        "inputs": inputs,
    }
    lock = _manifest.claim(output)
    try:
        _manifest.remove_unfinished(output)
        shards = _manifest.begin(output, of_run, lambda: _shards.cut(files, columns, given.shard_rows))
        threads = given.threads or max(1, (os.cpu_count() or 1) // given.actors)
        settings.update(threads=threads, batch_tokens=given.batch_tokens)
        run = _fleet.Run(__version__, model, digest, output, given.vector, columns, words, settings, inputs)
        there = set(os.listdir(output))
        todo = [shard for shard in shards if shard.part not in there]
        if todo:
            if len(todo) < len(shards):
                _say(f"going on: {len(shards) - len(todo)} of {len(shards)} parts are finished")
            try:
                ray.init(address=given.address, ignore_reinit_error=True, logging_level=logging.WARNING)
                room = _fleet.room(threads, given.gpus)
                if room < given.actors:
                    _say(f"note: the cluster has room for {room} of {given.actors} actors; the others wait for machines")
                _follow(_fleet.embed_shards(run, todo, given.actors, threads, given.gpus), len(shards), len(todo))
            except Exception as error:
                # Whatever Ray raises, of its many kinds.
                return _say(f"error: {error}\nropeway-fleet: the same command goes on", 3)
        # Of actors that were killed.
        _manifest.remove_unfinished(output)
        counts = [_fleet.count(os.path.join(output, shard.part)) for shard in shards]
    finally:
        if lock is not None:
            lock.close()
    rows, failed = sum(rows for rows, _ in counts), sum(failed for _, failed in counts)
    _say(f"{rows} rows in {len(shards)} parts" + (f", {failed} with an error in place of a vector" if failed else ""))
    return 1 if failed else 0


def _words(given: argparse.Namespace) -> Dict[str, Any]:
    """The words of ``encode`` that all rows have."""
    words = {
        "task": given.task,
        "adapters": given.adapters,
        "prompt": given.prompt,
        "prompt_name": given.prompt_name,
        "truncate_dim" if given.any_dimensions else "dimensions": given.dimensions,
        "normalize": given.normalize,
    }
    words = {word: value for word, value in words.items() if value is not None}
    return {**words, "truncate": not given.no_truncate, "precision": ENCODINGS[given.encoding]}


def _column_words(given: argparse.Namespace, words: Mapping[str, Any], known: Mapping[str, Any]) -> Dict[str, str]:
    """Words by the columns that they come from."""
    columns: Dict[str, str] = {}
    for pair in given.column:
        word, _, column = pair.partition("=")
        if word not in known or not column:
            raise SettingError(f"--column {pair!r:.60} is not WORD=COLUMN with one of {', '.join(known)}")
        if word in columns or word in words:
            raise SettingError(f"{word} is given twice; leave one out")
        columns[word] = column
    return columns


def _folder(model: str) -> str:
    """The model's folder on this machine; of a hub's model, once it is downloaded."""
    if os.path.isdir(model):
        return model
    from ._engine import Engine

    return Engine(model, device="cpu").info.path


def _follow(results: Any, parts: int, todo: int) -> None:
    """Prints how the run gets on."""
    start = last = time.monotonic()
    rows = finished = samples = 0
    for result in results:
        rows, finished = rows + result["rows"], finished + 1
        for sample in result["samples"][: SAMPLES - samples]:
            samples += 1
            _say(sample)
            if samples == SAMPLES:
                _say("further rows with an error are not printed; the column \"error\" has them")
        now = time.monotonic()
        if now - last >= PROGRESS_S:
            last = now
            _say(f"{parts - todo + finished} of {parts} parts, {rows / (now - start):.0f} rows/s")


if __name__ == "__main__":
    sys.exit(main())
