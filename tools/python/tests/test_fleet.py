"""How ropeway-fleet reads its arguments, its inputs and what an earlier run left. test_ray.py has whole runs."""

import json
import os

import numpy as np
import pytest

import ropeway
from conftest import MODEL

pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def shards(monkeypatch):
    from ropeway import _shards

    monkeypatch.setattr(_shards, "BATCH_ROWS", 4)
    monkeypatch.setattr(_shards, "LONGEST_LINE", 200)
    return _shards


def columns(shards, *, keep=(), **words):
    return shards.Columns("text", tuple(keep), words)


def read_all(shards, files, wanted, shard_rows):
    """All rows by their file and row, and the shards."""
    cut = shards.cut(list(map(str, files)), wanted, shard_rows)
    found = {}
    for shard in cut:
        for rows in shards.read(shard, wanted):
            table = rows.table()
            assert table.num_rows == len(rows.problems) <= 4
            for number in range(table.num_rows):
                key = (os.path.basename(shard.file), rows.first + number)
                assert key not in found and shard.first <= key[1] < shard.first + shard.rows
                kept = {name: column[number].as_py() for name, column in rows.kept.items()}
                found[key] = (table["text"][number].as_py(), rows.problems[number], kept)
    return found, cut


def test_shards_hold_every_row_once(shards, tmp_path):
    texts = [f"text {number}" for number in range(23)]
    # Row groups, shards and batches end at different rows.
    pq.write_table(pa.table({"id": range(23), "text": texts}), tmp_path / "a.parquet", row_group_size=5)
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts))
    (tmp_path / "b.jsonl").write_text(lines.rstrip("\n"))
    (tmp_path / "c.jsonl").write_text("")
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.int64())}), tmp_path / "d.parquet")
    for shard_rows in (1, 7, 23, 100):
        files = [tmp_path / name for name in ("a.parquet", "b.jsonl", "c.jsonl", "d.parquet")]
        found, cut = read_all(shards, files, columns(shards), shard_rows)
        expected = {(name, row): (text, None, {}) for name in ("a.parquet", "b.jsonl") for row, text in enumerate(texts)}
        assert found == expected
        assert len(cut) == 2 * -(-23 // shard_rows) and max(shard.rows for shard in cut) <= shard_rows
    assert shards.list_inputs([str(tmp_path)]) == sorted(map(str, tmp_path.iterdir()))


def test_bad_lines_are_told_row_by_row(shards, tmp_path):
    lines = [
        b'{"text": "good", "id": "a\\ud800"}',
        b'{"text": 6, "id": 6}',
        b"",
        b"nonsense",
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"[" * 150,
        b'{"text": "' + b"x" * 400 + b'"}',
        b'{"text": "good", "kind": 3}',
        b'{"text": "good", "mixture": {"a": "b"}}',
        b'{"id": [1]}',
        b'{"text": "good", "kind": "b", "mixture": {"a": 1, "b": 0.5}}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    wanted = columns(shards, keep=["id"], task="kind", adapters="mixture")
    problems = [
        None,
        "the text is of type number; wanted string",
        "the line is blank",
        "the line is not JSON: Expecting value, at column 1",
        "the line is not UTF-8",
        "the text holds a lone surrogate",
        "the line is not JSON",
        "the line is longer than",
        "task is of type number; wanted string",
        "adapters has a weight that is no number",
        "the text is null",
        None,
    ]
    for shard_rows in (5, 100):
        found, _ = read_all(shards, [tmp_path / "a.jsonl"], wanted, shard_rows)
        for row, problem in enumerate(problems):
            text, told, _ = found["a.jsonl", row]
            assert (text, told) == ("good", None) if problem is None else text is None and told.startswith(problem), row
        assert [found["a.jsonl", row][2]["id"] for row in (0, 1, 2, 10)] == ["a?", "6", None, "[1]"]


def test_bad_columns_of_parquet_are_told(shards, tmp_path):
    bad = pa.array([b"good", b"\xff", None], pa.binary()).view(pa.string())
    mixtures = pa.array([{"a": 1.0}, {"b": 2.0}, None], pa.struct([("a", pa.float32()), ("b", pa.float32())]))
    pq.write_table(pa.table({"text": bad, "mixture": mixtures}), tmp_path / "a.parquet")
    wanted = columns(shards, keep=["mixture"], adapters="mixture")
    found, cut = read_all(shards, [tmp_path / "a.parquet"], wanted, 100)
    assert [found["a.parquet", row][:2] for row in range(3)] == [
        ("good", None),
        (None, "the text is not UTF-8"),
        (None, "the text is null"),
    ]
    (rows,) = shards.read(cut[0], wanted)
    assert rows.table()["adapters"].to_pylist() == [[("a", 1.0)], [("b", 2.0)], None]
    pq.write_table(pa.table({"text": [1]}), tmp_path / "number.parquet")
    pq.write_table(pa.table({"text": ["a"], "mixture": [1]}), tmp_path / "other.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    for name, wanted, problem in [
        ("number.parquet", columns(shards), "is of type int64; wanted string"),
        ("number.parquet", columns(shards, task="kind"), "no column 'kind'; it has 'text'"),
        ("torn.parquet", columns(shards), "cannot be read as Parquet"),
        ("other.parquet", wanted, "of type int64, and in"),
    ]:
        before = [str(tmp_path / "a.parquet")] if name == "other.parquet" else []
        with pytest.raises(ValueError, match=problem) as raised:
            shards.cut([*before, str(tmp_path / name)], wanted, 100)
        assert str(raised.value).startswith(str(tmp_path / name))


def test_what_differs_from_the_run_that_began_is_told(tmp_path):
    from ropeway import _manifest
    from ropeway._shards import Shard

    run = {
        "options": {"--dimensions": None, "--task": "a"},
        "model": {"name": "m", "sha256": "1"},
        "inputs": {"a.jsonl": {"bytes": 1, "mtime_ns": 2}, "b.jsonl": {"bytes": 1, "mtime_ns": 2}},
    }
    shards, folder = [Shard(0, "a.jsonl", 0, 5, 0)], tmp_path / "out"
    lock = _manifest.claim(str(folder))
    assert _manifest.begin(str(folder), run, lambda: shards) == shards
    with pytest.raises(ValueError, match="another run is writing"):
        _manifest.claim(str(folder))
    lock.close()
    # An unchanged run takes the shards of the first.
    assert _manifest.begin(str(folder), run, lambda: pytest.fail("cut again")) == shards
    others = [
        ({"options": {"--dimensions": 8, "--task": "a"}}, "--dimensions was not given, and is 8 now"),
        ({"options": {"--dimensions": None, "--task": "b"}}, '--task was "a", and is "b" now'),
        ({"model": {"name": "n", "sha256": "2"}}, "the model was m with .* and is n with"),
        ({"inputs": {**run["inputs"], "a.jsonl": {"bytes": 3, "mtime_ns": 2}}}, "the input a.jsonl was changed"),
        ({"inputs": {"a.jsonl": run["inputs"]["a.jsonl"]}}, "the input b.jsonl is missing"),
        ({"inputs": {**run["inputs"], "c.jsonl": {}}}, "the input c.jsonl is new"),
    ]
    for other, problem in others:
        with pytest.raises(ValueError, match=problem + ".*another folder"):
            _manifest.begin(str(folder), {**run, **other}, lambda: shards)
    # The same files by another name are the same model.
    assert _manifest.begin(str(folder), {**run, "model": {"name": "n", "sha256": "1"}}, list) == shards
    (folder / "_manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="was not written by ropeway-fleet"):
        _manifest.begin(str(folder), run, list)
    with pytest.raises(ValueError, match="holds 'out', but no _manifest.json"):
        _manifest.claim(str(tmp_path))


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    from ropeway import _manifest

    def torn(file):
        file.write(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        _manifest.write_whole(str(tmp_path / "a"), torn)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".part-000000.parquet.host-1.part").touch()
    _manifest.write_whole(str(tmp_path / "a"), lambda file: file.write(b"all"))
    _manifest.remove_unfinished(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_hash_of_a_model_is_of_the_files_that_make_vectors(tmp_path):
    from ropeway._manifest import model_hash

    (tmp_path / "config.json").write_text("{}")
    first = model_hash(str(tmp_path))
    (tmp_path / "README.md").write_text("a")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "config.json").write_text("a")
    assert model_hash(str(tmp_path)) == first
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    assert model_hash(str(tmp_path)) != first


def test_arguments_that_are_refused(tmp_path, capsys):
    from ropeway.fleet import main

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.txt").write_text("a\n")
    start = [str(tmp_path / "a.jsonl"), "--model", MODEL, "--output", str(tmp_path / "out")]
    for arguments, problem in [
        ([*start, "--column", "color=a"], "'color=a' is not WORD=COLUMN"),
        ([*start, "--column", "task=a", "--task", "b"], "task is given twice"),
        ([*start, "--keep", "row"], "two columns 'row'"),
        ([*start, str(tmp_path / "a.jsonl")], "named twice"),
        ([*start, str(tmp_path / "a.txt")], "a.txt: the name ends in none of"),
        ([*start, str(tmp_path / "b.jsonl")], "b.jsonl: there is no such file"),
    ]:
        assert main(arguments) == 2
        assert problem in capsys.readouterr().err
    for arguments, problem in [
        (["--adapters", "a"], "is not NAME=WEIGHT"),
        (["--gpus", "2"], "one GPU at most"),
        (["--actors", "0"], "whole number above 0"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main([*start, *arguments])
        assert ended.value.code == 2 and problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def run_of(tmp_path, **changed):
    """A run of one shard of three rows, and the shard."""
    from ropeway import _fleet, _manifest, _shards

    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    columns = _shards.Columns("text", (), {})
    fields = {
        "version": ropeway.__version__,
        "model": MODEL,
        "model_hash": _manifest.model_hash(MODEL),
        "output": str(tmp_path / "out"),
        "vector": "embedding",
        "columns": columns,
        "words": {},
        "settings": {"device": "cpu", "threads": 1},
        "inputs": _manifest.input_facts([str(tmp_path / "a.jsonl")]),
    }
    (shard,) = _shards.cut([str(tmp_path / "a.jsonl")], columns, 10)
    return _fleet.Run(**{**fields, **changed}), pa.Table.from_pylist([vars(shard)])


def test_a_shard_is_written_once(tmp_path):
    from ropeway import _fleet

    run, shards = run_of(tmp_path)
    embedder = _fleet.ShardEmbedder(run)
    problem = f"{tmp_path / 'a.jsonl'}, row 1: the text is null"
    assert embedder(shards).to_pylist() == [{"rows": 3, "failed": 1, "samples": [problem], "ended": None}]
    (part,) = (tmp_path / "out").iterdir()
    written = part.stat().st_mtime_ns
    assert embedder(shards).to_pylist() == [{"rows": 3, "failed": 1, "samples": [], "ended": None}]
    assert part.stat().st_mtime_ns == written
    part.unlink()
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    assert "a.jsonl was changed since the run began" in embedder(shards)["ended"][0].as_py()
    assert list((tmp_path / "out").iterdir()) == []


def test_an_actor_that_cannot_start_says_why_with_its_first_shard(tmp_path):
    from ropeway import _fleet

    for changed, problem in [
        ({"model_hash": "another"}, "differ from those where the run was started"),
        ({"version": "0"}, "the run was started with 0; install the same"),
        ({"words": {"task": "none such"}}, "no task or adapter `none such`"),
        ({"model": str(tmp_path / "none")}, "none"),
    ]:
        run, shards = run_of(tmp_path, **changed)
        assert problem in _fleet.ShardEmbedder(run)(shards)["ended"][0].as_py()


def test_numbers_of_one_byte_take_one(tmp_path):
    from ropeway import _fleet

    numbers = np.random.default_rng(1).integers(-128, 128, 1000 * 256).astype(np.int8)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 256)
    nulls = pa.array([None] * 999 + ["bad"], pa.string())
    table = pa.table({"file": ["a"] * 1000, "row": range(1000), "vector": vectors, "error": nulls})
    with open(tmp_path / "a", "wb") as file:
        _fleet._write(table, file)
    assert (tmp_path / "a").stat().st_size < 1.1 * len(numbers)
    assert pq.read_table(tmp_path / "a").equals(table) and _fleet.count(str(tmp_path / "a")) == (1000, 1)
