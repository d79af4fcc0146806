"""ropeway in Ray Data: one engine in each of several actors. Needs the package ``ray[data]``.

>>> import ray
>>> from ropeway.ray import embed
>>> rows = ray.data.read_parquet("texts")
>>> embed(rows, "models/all-MiniLM-L6-v2", concurrency=2, num_cpus=4).write_parquet("vectors")
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import pyarrow as pa

from ._engine import Engine
from .errors import RequestError, SettingError

# Rows that an actor gets at once. The engine cuts them into passes by their tokens, and that is enough for many.
BATCH_ROWS = 1024


class Embedder:
    """What ``Dataset.map_batches`` makes an actor of: tables in, tables with vectors out (``batch_format="pyarrow"``).

    ``text`` names the column of texts and ``vector`` that of the vectors, which is a list of fixed size. ``columns`` says
    which words of :meth:`ropeway.Engine.encode` come from columns, one value per row: ``{"task": "task"}``. ``words`` are
    the same for all rows, ``settings`` those of :class:`ropeway.Engine`. With ``error``, a row whose text or words
    cannot be embedded gets no vector, and its message goes into the column of that name; without, it ends the run. A
    device that fails always does, and so do ``words`` that no text can have.
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
        # What vectors are like, for tables without any; and a bad word is told once, not by every row.
        self.like = self.engine.encode("a", **self.words)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with one column more, or two."""
        columns = {word: _values(table[column]) for word, column in self.columns.items() if word not in self.words}
        texts = table[self.text].to_pylist()
        rows = self._encode([text or "" for text in texts], columns)
        failed = [isinstance(row, BaseException) for row in rows]
        # A null has no vector.
        absent = [text is None or bad for text, bad in zip(texts, failed)]
        table = table.append_column(self.vector, _fixed_size_lists(rows, absent, self.like))
        if self.error is not None:
            messages: List[Optional[str]] = [_message(row) if bad else None for row, bad in zip(rows, failed)]
            table = table.append_column(self.error, pa.array(messages, pa.string()))
        return table

    def _encode(self, texts: List[str], columns: Dict[str, Any]) -> Any:
        """A vector for each text, or what it is refused for."""
        if self.error is None:
            return self.engine.encode(texts, **columns, **self.words)
        try:
            rows = self.engine.encode(texts, on_error="return", **columns, **self.words)
        except (RequestError, SettingError) as error:
            # Words that are refused before anything is computed; halves find those rows.
            if len(texts) == 1:
                return [error]
            half = len(texts) // 2
            halves = (slice(None, half), slice(half, None))
            parts = [self._encode(texts[part], {word: of[part] for word, of in columns.items()}) for part in halves]
            return [row for part in parts for row in part]
        for row in rows:
            if isinstance(row, BaseException) and not isinstance(row, (RequestError, SettingError)):
                raise row
        return rows


def _values(column: Any) -> List[Any]:
    """A column as values of a word; one of mixtures is of Arrow's type ``map`` or ``struct``."""
    values: List[Any] = column.to_pylist()
    if pa.types.is_map(column.type):
        return [None if pairs is None else dict(pairs) for pairs in values]
    if pa.types.is_struct(column.type):
        # A row has every name there, with None where it is not set.
        return [row and {name: value for name, value in row.items() if value is not None} for row in values]
    return values


def _message(error: BaseException) -> str:
    """Without the number of the text, which is that in a batch."""
    return re.sub(r"^input \d+: ", "", str(error))


def _fixed_size_lists(rows: Any, absent: List[bool], like: Any) -> pa.FixedSizeListArray:
    """Vectors of one size as a column; ``like`` is one of them, for where none came out."""
    vectors = [row for row in rows if not isinstance(row, BaseException)]
    like = vectors[0] if vectors else like
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
    import ray

    keywords = {"model": model, **(embedder or {})}
    if num_cpus is not None and num_gpus is None:
        settings = {"threads": max(1, int(num_cpus)), "device": "cpu", **keywords.get("settings", {})}
        keywords["settings"] = settings
    return dataset.map_batches(
        Embedder,
        fn_constructor_kwargs=keywords,
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        **options,
    )
