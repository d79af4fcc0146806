"""What Ray Data and ropeway-fleet do with the package, on a local cluster whose processes are killed."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import ropeway
from conftest import MODEL

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("default")

SETTINGS = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two actors."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray leaves one for its own processes in the home folder.
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def test_options_by_row_nulls_and_errors(engine):
    from ropeway.ray import Embedder

    embedder = Embedder(MODEL, columns={"task": "kind"}, error="error", settings=SETTINGS, words={"truncate_dim": 32})
    texts = ["a", None, "x" * 300_000, "b"]
    table = embedder(pa.table({"text": texts, "kind": ["separation", None, None, "retrieval.query"]}))
    assert table["embedding"].type == pa.list_(pa.float32(), 32)
    vectors, errors = table["embedding"].to_pylist(), table["error"].to_pylist()
    np.testing.assert_array_equal(np.float32(vectors[0]), engine.encode("a", task="separation", truncate_dim=32))
    np.testing.assert_array_equal(np.float32(vectors[3]), engine.encode("b", task="retrieval.query", truncate_dim=32))
    assert vectors[1] is None and vectors[2] is None
    assert errors[:2] == [None, None] and errors[2].startswith("the text has") and errors[3] is None
    bits = Embedder(MODEL, words={"precision": "ubinary"}, settings=SETTINGS)(pa.table({"text": ["a"]}))
    assert bits["embedding"].type == pa.list_(pa.uint8(), 8)
    with pytest.raises(ropeway.RequestError):
        Embedder(MODEL, settings=SETTINGS)(pa.table({"text": texts}))
    with pytest.raises(ropeway.RequestError, match="none such"):
        Embedder(MODEL, settings=SETTINGS, error="error", words={"task": "none such"})
    with pytest.raises(ValueError, match="one size"):
        Embedder(MODEL, columns={"truncate_dim": "n"}, settings=SETTINGS)(pa.table({"text": ["a", "b"], "n": [8, 16]}))


def test_a_word_that_is_refused_costs_its_row_alone(engine):
    from ropeway.ray import Embedder

    embedder = Embedder(MODEL, columns={"prompt_name": "name", "adapters": "mixture"}, error="error", settings=SETTINGS)
    names = [None, "none such", "separation", None, "none such"]
    mixtures = [{"separation": 0.5, "classification": 0.25}, None, None, {"none such": 1.0}, None]
    for of in (pa.map_(pa.string(), pa.float64()), None):
        rows = [mixture and list(mixture.items()) for mixture in mixtures] if of else mixtures
        table = embedder(pa.table({"text": ["a"] * 5, "name": names, "mixture": pa.array(rows, of)}))
        vectors, errors = table["embedding"].to_pylist(), table["error"].to_pylist()
        assert [error is None for error in errors] == [vector is not None for vector in vectors]
        assert [error is None for error in errors] == [True, False, True, False, False]
        assert "none such" in errors[1] and "none such" in errors[3]
        np.testing.assert_array_equal(np.float32(vectors[0]), engine.encode("a", adapters=mixtures[0]))
        np.testing.assert_array_equal(np.float32(vectors[2]), engine.encode("a", prompt_name="separation"))


def test_what_is_no_fault_of_a_text_ends_the_run():
    from ropeway.ray import Embedder

    embedder = Embedder(MODEL, error="error", settings=SETTINGS)

    class Lost:
        def encode(self, texts, **_):
            return [ropeway.DeviceLostError("the device is lost")] * len(texts)

    embedder.engine = Lost()
    with pytest.raises(ropeway.DeviceLostError):
        embedder(pa.table({"text": ["a", "b"]}))


def test_a_table_without_vectors_has_the_type_of_others():
    from ropeway.ray import Embedder

    for words, of in (({"truncate_dim": 32}, pa.list_(pa.float32(), 32)), ({"precision": "ubinary"}, pa.list_(pa.uint8(), 8))):
        embedder = Embedder(MODEL, error="error", settings=SETTINGS, words=words)
        for texts in (["x" * 300_000], []):
            table = embedder(pa.table({"text": pa.array(texts, pa.string())}))
            assert table["embedding"].type == of and table["embedding"].null_count == len(texts)


def test_a_killed_process_costs_no_row_and_no_bit(engine, cluster, tmp_path, monkeypatch):
    import ropeway.ray

    marks = tmp_path / "processes"
    marks.mkdir()

    # An actor says which process it is, and takes its time, so that it is killed between the first batch and the last.
    class Marked(ropeway.ray.Embedder):
        def __call__(self, table):
            (marks / str(os.getpid())).touch()
            time.sleep(0.1)
            return super().__call__(table)

    texts = [f"text {number} {'and more ' * (number % 7)}" for number in range(200)]
    blocks = np.array_split(np.arange(len(texts)), 8)
    killed = []

    def kill_the_first():
        while not killed:
            for mark in marks.iterdir():
                os.kill(int(mark.name), signal.SIGKILL)
                killed.append(mark.name)
                return
            time.sleep(0.01)

    monkeypatch.setattr(ropeway.ray, "Embedder", Marked)
    rows = ray.data.from_arrow([pa.table({"id": ids, "text": [texts[n] for n in ids]}) for ids in blocks])
    killer = threading.Thread(target=kill_the_first, daemon=True)
    killer.start()
    out = ropeway.ray.embed(rows, MODEL, concurrency=2, num_cpus=1, batch_size=5)
    out.write_parquet(str(tmp_path / "out"))
    found = ray.data.read_parquet(str(tmp_path / "out")).take_all()
    assert killed, "one was killed"
    assert sorted(row["id"] for row in found) == list(range(len(texts)))
    vectors = {row["id"]: np.float32(row["embedding"]) for row in found}
    np.testing.assert_array_equal(np.stack([vectors[n] for n in range(len(texts))]), engine.encode(texts))


class Driver:
    """The command in a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "ropeway.fleet", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def wait_for_parts(self, folder, more_than):
        """Waits until so many are finished, which is before the run's end."""
        while len(list(folder.glob("part-*.parquet"))) <= more_than:
            if self.process.poll() is not None:
                pytest.fail(f"it ended too soon: {self.end()[1][-3000:]}")
            time.sleep(0.005)

    def end(self):
        said = self.process.communicate()[1]
        return self.process.returncode, said


# Of the run of a fleet: many more shards than an actor does in a moment. The first file has the rows below FIRST.
ROWS, FIRST, SHARD_ROWS = 15_000, 9_000, 300
PARTS = 30 + 21


def actors():
    """The processes of this cluster's actors that embed shards."""
    token = f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode()
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as title, open(f"/proc/{process}/environ", "rb") as environment:
                if b"ShardEmbedder" in title.read() and token in environment.read():
                    found.append(int(process))
        except OSError:
            # It has ended.
            pass
    return found


def test_a_run_of_a_fleet_outlives_its_driver_and_its_actors(engine, cluster, tmp_path):
    texts = [f"text {number} {'and so much more ' * 8}" for number in range(ROWS)]
    kinds = ["separation" if number % 2 else None for number in range(ROWS)]
    pq.write_table(pa.table({"text": texts[:FIRST], "kind": kinds[:FIRST]}), tmp_path / "a.parquet", row_group_size=350)
    with open(tmp_path / "b.jsonl", "w") as lines:
        for text, kind in zip(texts[FIRST:], kinds[FIRST:]):
            lines.write(json.dumps({"text": text, "kind": kind}) + "\n")
        lines.write('{"text": null}\n{"text": "a", "kind": "none such"}\n')
    folder = tmp_path / "out"
    inputs = [str(tmp_path / "a.parquet"), str(tmp_path / "b.jsonl")]
    options = ["--keep", "kind", "--column", "task=kind", "--shard-rows", str(SHARD_ROWS), "--actors", "2", "--threads", "1"]
    options += ["--address", cluster]
    command = [*inputs, "--model", MODEL, "--output", str(folder), *options]

    with Driver(*command) as first:
        first.wait_for_parts(folder, 0)
        assert actors()
    while actors():
        time.sleep(0.01)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
    assert 0 < len(finished) < PARTS - 1

    with Driver(*command) as second:
        second.wait_for_parts(folder, len(finished))
        os.kill(actors()[0], signal.SIGKILL)
        assert len(list(folder.glob("part-*.parquet"))) < PARTS
        status, said = second.end()
    assert status == 1, said
    assert f"going on: {len(finished)} of {PARTS} parts are finished" in said
    assert f"{ROWS + 2} rows in {PARTS} parts, 2 with an error" in said
    assert f"{tmp_path / 'b.jsonl'}, row {ROWS - FIRST}: the text is null" in said
    # What was finished is not computed again.
    assert {path: path.stat().st_mtime_ns for path in finished} == finished

    parts = sorted(folder.glob("*part*"))
    assert [path.name for path in parts] == [f"part-{number:06d}.parquet" for number in range(PARTS)]
    found = pa.concat_tables([pq.read_table(path) for path in parts])
    assert found["embedding"].type == pa.list_(pa.float32(), 64)
    assert found["file"].to_pylist() == [inputs[0]] * FIRST + [inputs[1]] * (ROWS + 2 - FIRST)
    assert found["row"].to_pylist() == [*range(FIRST), *range(ROWS + 2 - FIRST)]
    assert found["kind"].to_pylist()[:ROWS] == kinds
    errors = found["error"].to_pylist()
    assert errors[:ROWS] == [None] * ROWS and errors[ROWS] == "the text is null" and "none such" in errors[ROWS + 1]
    assert found["embedding"].null_count == 2
    vectors = found["embedding"].slice(0, ROWS).combine_chunks().flatten().to_numpy().reshape(ROWS, 64)
    np.testing.assert_array_equal(vectors, engine.encode(texts, task=kinds))

    with Driver(*command, "--dimensions", "32") as third:
        status, said = third.end()
    assert status == 2 and "--dimensions was not given, and is 32 now" in said and "another folder" in said


def test_a_run_of_a_fleet_that_cannot_start_says_why(cluster, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    command = [str(tmp_path / "a.jsonl"), "--model", MODEL, "--output", str(tmp_path / "out"), "--address", cluster]
    with Driver(*command, "--task", "none such", "--threads", "1") as driver:
        status, said = driver.end()
    assert status == 3, said
    assert "ropeway-fleet: error: input 0: there is no task or adapter `none such`" in said, said
