"""ropeway in Ray Data: one engine in each of several actors. Needs the package ``ray[data]``.

>>> import ray
>>> from ropeway.ray import embed
>>> rows = ray.data.read_parquet("texts")
>>> embed(rows, "models/all-MiniLM-L6-v2", concurrency=2, num_cpus=4).write_parquet("vectors")
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import pyarrow as pa

from ._engine import Engine

# Rows that an actor gets at once. The engine cuts them into passes by their tokens, and that is enough for many.
BATCH_ROWS = 1024


class Embedder:
    """What ``Dataset.map_batches`` makes an actor of: tables in, tables with vectors out (``batch_format="pyarrow"``).

    ``text`` names the column of texts and ``vector`` that of the vectors, which is a list of fixed size. ``columns`` says
    which words of :meth:`ropeway.Engine.encode` come from columns, one value per row: ``{"task": "task"}``. ``words`` are
    the same for all rows, ``settings`` those of :class:`ropeway.Engine`. With ``error``, a text that cannot be
    embedded gets no vector, and its message goes into the column of that name; without, it ends the run.
    """

    def __init__(
        self,
        model: str,
        *,
        text: str = "text",
        vector: str = "embedding",
        error: Optional[str] = None,
        columns: Optional[Mapping[str, str]] = None,
        words: Optional[Mapping[str, Any]] = None,
        settings: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.engine = Engine(model, **(settings or {}))
        self.text, self.vector, self.error = text, vector, error
        self.columns = dict(columns or {})
        self.words = dict(words or {})

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with one column more, or two."""
        words: Dict[str, Any] = {word: table[column].to_pylist() for word, column in self.columns.items()}
        words.update(self.words)
        texts = table[self.text].to_pylist()
        if self.error is not None:
            words["on_error"] = "return"
        rows = self.engine.encode([text or "" for text in texts], **words)
        failed = [isinstance(row, BaseException) for row in rows]
        # A null has no vector.
        absent = [text is None or bad for text, bad in zip(texts, failed)]
        table = table.append_column(self.vector, _fixed_size_lists(rows, absent, self.engine.info.dimensions))
        if self.error is not None:
            messages: List[Optional[str]] = [str(row) if bad else None for row, bad in zip(rows, failed)]
            table = table.append_column(self.error, pa.array(messages, pa.string()))
        return table


def _fixed_size_lists(rows: Any, absent: List[bool], width: int) -> pa.FixedSizeListArray:
    """Vectors of one size as a column; ``width`` is that of a model's full vector, where none came out."""
    vectors = [row for row in rows if not isinstance(row, BaseException)]
    like = vectors[0] if vectors else np.empty(width, np.float32)
    if any(vector.shape != like.shape or vector.ndim != 1 for vector in vectors):
        raise ValueError("the vectors of a column have one size each; leave out what changes that by row")
    if not isinstance(rows, np.ndarray):
        none = np.zeros_like(like)
        rows = np.array([none if isinstance(row, BaseException) else row for row in rows], like.dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), like.shape[0], mask=pa.array(absent, pa.bool_()))


def embed(
    dataset: Any,
    model: str,
    *,
    concurrency: int,
    batch_size: int = BATCH_ROWS,
    num_cpus: Optional[float] = None,
    num_gpus: Optional[float] = None,
    embedder: Optional[Mapping[str, Any]] = None,
    **options: Any,
) -> Any:
    """The dataset with vectors, by ``concurrency`` actors of ``num_cpus`` or ``num_gpus`` each.

    ``embedder`` are the keywords of :class:`Embedder`; give an engine as many ``threads`` as its actor has CPUs. Other
    ``options`` go to ``map_batches``. What an actor computed and could not hand over when it died is computed again by
    another, to the same bits.
    """
    keywords = {"model": model, **(embedder or {})}
    if num_cpus is not None and num_gpus is None:
        settings = {"threads": max(1, int(num_cpus)), "device": "cpu", **keywords.get("settings", {})}
        keywords["settings"] = settings
    return dataset.map_batches(
        Embedder,
        fn_constructor_kwargs=keywords,
        batch_format="pyarrow",
        batch_size=batch_size,
        concurrency=concurrency,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        **options,
    )
