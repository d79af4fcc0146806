"""What Ray Data does with the package, on a local cluster, one of whose processes is killed."""

import os
import secrets
import signal
import threading
import time

import numpy as np
import pytest

import ropeway
from conftest import MODEL

pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("default")

SETTINGS = {"device": "cpu", "threads": 1}


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
    assert errors[:2] == [None, None] and errors[2].startswith("input 2: ") and errors[3] is None
    bits = Embedder(MODEL, words={"precision": "ubinary"}, settings=SETTINGS)(pa.table({"text": ["a"]}))
    assert bits["embedding"].type == pa.list_(pa.uint8(), 8)
    with pytest.raises(ropeway.RequestError):
        Embedder(MODEL, settings=SETTINGS)(pa.table({"text": texts}))
    with pytest.raises(ValueError, match="one size"):
        Embedder(MODEL, columns={"truncate_dim": "n"}, settings=SETTINGS)(pa.table({"text": ["a", "b"], "n": [8, 16]}))


def test_a_killed_process_costs_no_row_and_no_bit(engine, tmp_path, monkeypatch):
    import ray

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
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray leaves one for its own processes in the home folder.
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.from_arrow([pa.table({"id": ids, "text": [texts[n] for n in ids]}) for ids in blocks])
        killer = threading.Thread(target=kill_the_first, daemon=True)
        killer.start()
        out = ropeway.ray.embed(rows, MODEL, concurrency=2, num_cpus=1, batch_size=5)
        out.write_parquet(str(tmp_path / "out"))
        found = ray.data.read_parquet(str(tmp_path / "out")).take_all()
    finally:
        ray.shutdown()
    assert killed, "one was killed"
    assert sorted(row["id"] for row in found) == list(range(len(texts)))
    vectors = {row["id"]: np.float32(row["embedding"]) for row in found}
    np.testing.assert_array_equal(np.stack([vectors[n] for n in range(len(texts))]), engine.encode(texts))
