"""A fleet's run: what each actor does, and what the driver does. Needs ``ray[data]``."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from . import __version__
from ._manifest import input_facts, model_hash, write_whole
from ._shards import Columns, Rows, Shard, read
from .errors import FileError, ModelError, RopewayError, SettingError
from .ray import Embedder

# Blocks that Ray hands out. One has several shards where there are more, and whoever computes it anew leaves out those
# that are finished.
MOST_BLOCKS = 10_000

# Problems that a shard is quoted with; all are in its column "error".
SHARD_SAMPLES = 3


@dataclass(frozen=True)
class Run:
    """What actors need to know."""

    version: str
    model: str
    model_hash: str
    output: str
    vector: str
    columns: Columns
    words: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, int]]
    """What :func:`ropeway._manifest.input_facts` said of each when the run began."""


class ShardEmbedder:
    """What ``map_batches`` makes an actor of: shards in, how they went out; their vectors go into files.

    The file of a shard has its final name when it is whole and on the disk. A shard that is computed twice, for an actor
    or the driver died, is written twice, with the same bytes of vectors.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        # Opened with the first shard: an actor that fails to start Ray would start again and again.
        self.embedder: Optional[Embedder] = None

    def _open(self) -> Embedder:
        run = self.run
        if run.version != __version__:
            raise SettingError(
                f"{socket.gethostname()} has ropeway {__version__}, and the run was started with {run.version}; "
                "install the same on all machines"
            )
        columns = {word: word for word in run.columns.words}
        embedder = Embedder(
            run.model, vector=run.vector, error="error", columns=columns, words=run.words, settings=run.settings
        )
        folder = embedder.engine.info.path
        if model_hash(folder) != run.model_hash:
            raise ModelError(
                f"{folder} on {socket.gethostname()}: the files of the model differ from those where the run was started; "
                "give all machines the same"
            )
        return embedder

    def __call__(self, shards: pa.Table) -> pa.Table:
        """One row for each shard: ``rows``, ``failed``, ``samples``, or ``ended``: what the run cannot go on for."""
        results = []
        for shard in shards.to_pylist():
            try:
                results.append(self._embed(Shard(**shard)))
            except (RopewayError, OSError, pa.ArrowException) as error:
                # Not raised: of that Ray hands on no more than that something was raised.
                results.append({"ended": str(error)})
        return pa.Table.from_pylist(results, RESULT)

    def _embed(self, shard: Shard) -> Dict[str, Any]:
        path = os.path.join(self.run.output, shard.part)
        samples: List[str] = []
        if not os.path.exists(path):
            self.embedder = self.embedder or self._open()
            tables = []
            for rows in read(shard, self.run.columns):
                tables.append(self._vectors(self.embedder, shard.file, rows))
                problems = enumerate(tables[-1]["error"].to_pylist(), rows.first)
                samples += [f"{shard.file}, row {row}: {problem}" for row, problem in problems if problem is not None]
                del samples[SHARD_SAMPLES:]
            if input_facts([shard.file])[shard.file] != self.run.inputs[shard.file]:
                raise FileError(f"{shard.file} was changed since the run began; give another folder for a run of its own")
            table = pa.concat_tables(tables)
            write_whole(path, lambda file: _write(table, file), f"{socket.gethostname()}-{os.getpid()}")
        rows_there, failed = count(path)
        return {"rows": rows_there, "failed": failed, "samples": samples}

    def _vectors(self, embedder: Embedder, file: str, rows: Rows) -> pa.Table:
        table = embedder(rows.table())
        errors = [problem or error for problem, error in zip(rows.problems, table["error"].to_pylist())]
        numbers = range(rows.first, rows.first + table.num_rows)
        return pa.table(
            {
                "file": pa.array([file] * table.num_rows, pa.string()),
                "row": pa.array(numbers, pa.int64()),
                **rows.kept,
                self.run.vector: table[self.run.vector],
                "error": pa.array(errors, pa.string()),
            }
        )


RESULT = pa.schema(
    [("rows", pa.int64()), ("failed", pa.int64()), ("samples", pa.list_(pa.string())), ("ended", pa.string())]
)


def _write(table: pa.Table, file: Any) -> None:
    # Floats do not repeat and hardly compress: no dictionary, the fastest codec. Parquet has no numbers of one byte; with a
    # dictionary they take one.
    columns = ["file"]
    for field in table.schema:
        if pa.types.is_fixed_size_list(field.type) and field.type.value_type in (pa.int8(), pa.uint8()):
            columns.append(f"{field.name}.list.element")
    pq.write_table(table, file, use_dictionary=columns, compression="lz4", write_statistics=["row", "error"])


def count(path: str) -> Tuple[int, int]:
    """The rows of a part, and those with an error, from its footer."""
    footer = pq.read_metadata(path)
    failed = 0
    for group in map(footer.row_group, range(footer.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        failed += next(group.num_rows - of.statistics.null_count for of in columns if of.path_in_schema == "error")
    return footer.num_rows, failed


def embed_shards(run: Run, shards: List[Shard], actors: int, threads: int, gpus: float) -> Iterator[Dict[str, Any]]:
    """Has actors embed the shards, and yields how each went, in any order.

    Raises a ``RopewayError`` for what the run cannot go on for.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What is raised ends the run, and is printed once; the rest is for those who debug Ray.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    dataset = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=min(len(shards), MOST_BLOCKS))
    results = dataset.map_batches(
        ShardEmbedder,
        fn_constructor_args=(run,),
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(shards))),
        num_cpus=threads,
        num_gpus=gpus or None,
    )
    for result in results.iter_rows():
        if result["ended"] is not None:
            raise RopewayError(result["ended"])
        yield result


def room(threads: int, gpus: float) -> int:
    """How many actors the machines that the cluster has now can hold."""
    found = 0
    for node in ray.nodes():
        resources = node["Resources"] if node["Alive"] else {}
        by_cpu = resources.get("CPU", 0) // threads
        found += int(min(by_cpu, resources.get("GPU", 0) // gpus) if gpus else by_cpu)
    return found
