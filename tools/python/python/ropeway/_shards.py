"""The inputs of a fleet's run: how they are cut into shards, and how the rows of a shard are read. Needs pyarrow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import SettingError

SUFFIXES = (".parquet", ".jsonl", ".ndjson")

# Rows that are embedded at once; the engine cuts them into passes by their tokens.
BATCH_ROWS = 1024

# The longest line of JSON lines that is read, in bytes.
LONGEST_LINE = 64 << 20

# Words of `Engine.encode` that may come from a column: the type of a value, and that of an Arrow column of them. None
# changes the width of a vector.
COLUMN_WORDS = {
    "task": (str, pa.string()),
    "prompt": (str, pa.string()),
    "prompt_name": (str, pa.string()),
    "normalize": (bool, pa.bool_()),
    "adapters": (dict, pa.map_(pa.string(), pa.float64())),
}

# What types are called in messages, which are about JSON or columns.
TYPE_NAMES = {str: "string", bytes: "binary", bool: "boolean", int: "number", float: "number", dict: "object", list: "list"}


@dataclass(frozen=True)
class Shard:
    """Rows of one input file, of which one file of the output is made."""

    number: int
    file: str
    first: int
    rows: int
    start: int
    """Of JSON lines, the byte that the first row begins at."""

    @property
    def part(self) -> str:
        """The name of its output."""
        return f"part-{self.number:06d}.parquet"


@dataclass(frozen=True)
class Columns:
    """What is read of an input: the column of texts, those that the output has too, and words by their columns."""

    text: str
    keep: Tuple[str, ...]
    words: Mapping[str, str]


@dataclass
class Rows:
    """Some rows of a shard, in columns. The text of a row with a problem is None."""

    first: int
    texts: List[Optional[str]] = field(default_factory=list)
    problems: List[Optional[str]] = field(default_factory=list)
    words: Dict[str, List[Any]] = field(default_factory=dict)
    kept: Dict[str, Any] = field(default_factory=dict)

    def add(self, text: object, words: Mapping[str, object], problem: Optional[str] = None) -> None:
        """Adds a row, with what is wrong with it."""
        read = None
        if problem is None:
            read, problem = _string("the text", text)
            if text is None:
                problem = "the text is null"
        for word, value in words.items():
            found, wrong = _value(word, value)
            problem = problem or wrong
            self.words.setdefault(word, []).append(found)
        self.texts.append(read if problem is None else None)
        self.problems.append(problem)

    def table(self) -> pa.Table:
        """The column ``text``, and one for each word, by its name."""
        words = {word: pa.array(values, COLUMN_WORDS[word][1]) for word, values in self.words.items()}
        return pa.table({"text": pa.array(self.texts, pa.string()), **words})


def _string(name: str, value: object) -> Tuple[Optional[str], Optional[str]]:
    """The string, or what is wrong with it."""
    if isinstance(value, bytes):
        try:
            return value.decode(), None
        except UnicodeDecodeError:
            return None, f"{name} is not UTF-8"
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, _wrong_type(name, value, str)
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, f"{name} holds a lone surrogate, which is no character"
    return value, None


def _value(word: str, value: object) -> Tuple[Any, Optional[str]]:
    """The value of a word as an Arrow column has it, or what is wrong with it."""
    wanted = COLUMN_WORDS[word][0]
    if wanted is str:
        return _string(word, value)
    if value is None or (wanted is bool and isinstance(value, bool)):
        return value, None
    if wanted is dict and isinstance(value, (dict, list)):
        # A column of Arrow's type `map` has lists of pairs; one of type `struct` has None for names that a row lacks.
        pairs = [(name, weight) for name, weight in dict(value).items() if weight is not None]
        if all(isinstance(name, str) and type(weight) in (int, float) for name, weight in pairs):
            return pairs, None
        return None, f"{word} has a weight that is no number"
    return None, _wrong_type(word, value, wanted)


def _wrong_type(name: str, value: object, wanted: type) -> str:
    found = TYPE_NAMES.get(type(value), type(value).__name__)
    return f"{name} is of type {found}; wanted {TYPE_NAMES[wanted]}"


def list_inputs(paths: Sequence[str]) -> List[str]:
    """The input files, by absolute path: those named, and those right in the folders named, by name."""
    files: List[str] = []
    for path in map(os.path.abspath, paths):
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.endswith(SUFFIXES) and name[0] not in "._")
            if not names:
                raise SettingError(f"{path}: no file in this folder ends in {', '.join(SUFFIXES)}")
            files += [os.path.join(path, name) for name in names]
        elif not os.path.isfile(path):
            raise SettingError(f"{path}: there is no such file")
        elif not path.endswith(SUFFIXES):
            raise SettingError(f"{path}: the name ends in none of {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    seen = set()
    for path in files:
        if path in seen:
            raise SettingError(f"{path}: is named twice; name it once")
        seen.add(path)
    return files


def cut(files: Sequence[str], columns: Columns, shard_rows: int) -> List[Shard]:
    """The shards of the files, and whether the files have the columns. JSON lines are read once to be counted."""
    shards: List[Shard] = []
    types: Dict[str, Tuple[Any, str]] = {}
    for file in files:
        rows, starts, kept = (_look_at_parquet if file.endswith(".parquet") else _look_at_lines)(file, columns, shard_rows)
        for name, found in kept.items():
            known, where = types.setdefault(name, (found, file))
            if found != known:
                raise SettingError(f"{file}: column {name!r} is of type {found}, and in {where} of type {known}")
        for number, first in enumerate(range(0, rows, shard_rows)):
            size = min(shard_rows, rows - first)
            shards.append(Shard(len(shards), file, first, size, starts[number] if starts else 0))
    return shards


def read(shard: Shard, columns: Columns) -> Iterator[Rows]:
    """The rows of a shard, some at a time."""
    return (_read_parquet if shard.file.endswith(".parquet") else _read_lines)(shard, columns)


def _look_at_parquet(file: str, columns: Columns, _: int) -> Tuple[int, List[int], Dict[str, Any]]:
    try:
        with pq.ParquetFile(file) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
    except pa.ArrowException as error:
        raise SettingError(f"{file}: cannot be read as Parquet: {error}") from None
    for name in (columns.text, *columns.keep, *columns.words.values()):
        if schema.get_field_index(name) < 0:
            raise SettingError(f"{file}: has no column {name!r}; it has {', '.join(map(repr, schema.names))}")
    types = {name: _plain_type(schema.field(name).type) for name in (columns.text, *columns.keep)}
    if not _is_string(types[columns.text]):
        raise SettingError(f"{file}: column {columns.text!r} is of type {types[columns.text]}; wanted string")
    return rows, [], {name: types[name] for name in columns.keep}


def _look_at_lines(file: str, columns: Columns, shard_rows: int) -> Tuple[int, List[int], Dict[str, Any]]:
    rows, starts = 0, []
    with open(file, "rb") as opened:
        for offset, _ in _lines(opened):
            if rows % shard_rows == 0:
                starts.append(offset)
            rows += 1
    return rows, starts, {name: pa.string() for name in columns.keep}


def _lines(file: BinaryIO) -> Iterator[Tuple[int, Optional[bytes]]]:
    """Each line from here on with its offset; None for one that is too long."""
    offset = file.tell()
    while True:
        line: Optional[bytes] = file.readline(LONGEST_LINE)
        if not line:
            return
        size, end = len(line), line[-1:]
        if size == LONGEST_LINE and end != b"\n":
            line = None
        while size >= LONGEST_LINE and end not in (b"\n", b""):
            more = file.readline(LONGEST_LINE)
            size, end = size + len(more), more[-1:]
        yield offset, line
        offset += size


def _read_lines(shard: Shard, columns: Columns) -> Iterator[Rows]:
    with open(shard.file, "rb") as file:
        file.seek(shard.start)
        lines = _lines(file)
        for first in range(0, shard.rows, BATCH_ROWS):
            rows = Rows(shard.first + first)
            kept: Dict[str, List[Optional[str]]] = {name: [] for name in columns.keep}
            for _ in range(min(BATCH_ROWS, shard.rows - first)):
                fields, problem = _fields(next(lines, (0, b""))[1])
                words = {word: fields.get(column) for word, column in columns.words.items()}
                rows.add(fields.get(columns.text), words, problem)
                for name, values in kept.items():
                    values.append(_as_string(fields.get(name)))
            rows.kept = {name: pa.array(values, pa.string()) for name, values in kept.items()}
            yield rows


def _fields(line: Optional[bytes]) -> Tuple[Dict[str, Any], Optional[str]]:
    """The object of a line, or what is wrong with the line."""
    if line is None:
        return {}, f"the line is longer than {LONGEST_LINE >> 20} MiB"
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError:
        return {}, "the line is not UTF-8"
    except json.JSONDecodeError as error:
        return {}, f"the line is not JSON: {error.msg}, at column {error.colno}" if line.strip() else "the line is blank"
    except (ValueError, RecursionError) as error:
        return {}, f"the line is not JSON that is read: {error}"
    return (fields, None) if isinstance(fields, dict) else ({}, "the line is not a JSON object")


def _as_string(value: object) -> Optional[str]:
    """A field that is kept: as it is if it is a string, else as JSON, so that a column has one type in all files."""
    if value is None:
        return None
    return value.encode(errors="replace").decode() if isinstance(value, str) else json.dumps(value)


def _read_parquet(shard: Shard, columns: Columns) -> Iterator[Rows]:
    names = list(dict.fromkeys((columns.text, *columns.keep, *columns.words.values())))
    with pq.ParquetFile(shard.file) as file:
        groups: List[int] = []
        group_first = skip = 0
        for group in range(file.num_row_groups):
            behind = group_first + file.metadata.row_group(group).num_rows
            if group_first < shard.first + shard.rows and behind > shard.first:
                skip = skip if groups else shard.first - group_first
                groups.append(group)
            group_first = behind
        first, left = shard.first, shard.rows
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names):
            taken = batch.slice(skip, left)
            skip = max(0, skip - batch.num_rows)
            if not taken.num_rows:
                continue
            rows = Rows(first)
            texts = _to_python(taken.column(columns.text))
            words = {word: _to_python(taken.column(column)) for word, column in columns.words.items()}
            for number, text in enumerate(texts):
                rows.add(text, {word: values[number] for word, values in words.items()})
            rows.kept = {name: _plain(taken.column(name)) for name in columns.keep}
            first, left = first + taken.num_rows, left - taken.num_rows
            yield rows
            if not left:
                return


def _is_string(of: Any) -> bool:
    return bool(pa.types.is_string(of) or pa.types.is_large_string(of))


def _plain_type(of: Any) -> Any:
    return of.value_type if pa.types.is_dictionary(of) else of


def _plain(column: Any) -> Any:
    """Without a dictionary: batches have different ones."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _to_python(column: Any) -> List[Any]:
    """Strings come as bytes: not every writer of Parquet makes sure that they are UTF-8."""
    column = _plain(column)
    return list((column.cast(pa.large_binary()) if _is_string(column.type) else column).to_pylist())
