"""What the engine says beside its results, in Python's logging."""

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ropeway
from conftest import MODEL


@pytest.fixture
def with_outliers(tmp_path):
    """The model with a weight in whose rows one number is forty times the others, which int8 would have share its step."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:data])
    name = next(name for name in tensors if "mlp.fc1" in name and name.endswith("weight.original"))
    start, end = tensors[name]["data_offsets"]
    # The upper half of a float32 is a bf16.
    weights = np.frombuffer(bytes(content[data + start : data + end]), np.uint16)
    rows = (weights.astype(np.uint32) << 16).view(np.float32).reshape(tensors[name]["shape"]).copy()
    rows[:, 0] = 40 * np.sqrt(np.mean(rows**2, axis=1))
    content[data + start : data + end] = (rows.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    file.write_bytes(content)
    return str(folder), name


def test_a_warning_arrives_once(with_outliers, caplog):
    folder, name = with_outliers
    engine = ropeway.Engine(folder, device="cpu", precision="int8")
    engine.encode("a")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ropeway", logging.WARNING)
    assert record.getMessage().startswith("int8 rounds this weight's small numbers off")
    assert f"tensor: {name}" in record.getMessage() and "limit: 0.045" in record.getMessage()
    # Whose call it was.
    assert record.filename == "_engine.py"
    caplog.clear()
    ropeway.Engine(folder, device="cpu", precision="bf16")
    assert caplog.records == []


def test_the_logger_says_how_much_is_told(engine, caplog):
    engine.encode("a")
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "ropeway"):
        engine.encode("a")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert caplog.records[0].getMessage().startswith("batch (sequences: 1, tokens: ")
    caplog.clear()
    engine.encode("a")
    assert caplog.records == []


def test_a_warning_of_a_call_that_fails_arrives(tmp_path, caplog):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "frob\nnication": 3}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ropeway.RopewayError):
        ropeway.Engine(str(folder), device="cpu")
    (record,) = caplog.records
    assert "frob" in record.getMessage() and "\n" not in record.getMessage()


def test_a_handler_may_call_the_engine_and_may_raise(engine):
    class Handler(logging.Handler):
        def handle(self, record):
            # As with any handler that logs: it must not tell itself of it without end.
            logger.setLevel(logging.NOTSET)
            assert engine.encode("from a handler").shape == (64,)
            raise KeyboardInterrupt

    logger, handler = logging.getLogger("ropeway"), Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.encode("a")
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    assert engine.encode("a").shape == (64,)


FORKED = """
import logging, os, sys
import ropeway
engine = ropeway.Engine(sys.argv[1], device="cpu")
child = os.fork()
if child == 0:
    logging.basicConfig(level=logging.DEBUG)
    ropeway.Engine(sys.argv[1], device="cpu", threads=1).encode("a")
    logging.shutdown()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_tells_too():
    command = [sys.executable, "-W", "ignore", "-c", FORKED, MODEL]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "DEBUG:ropeway:batch (sequences: 1" in run.stderr, run.stderr[-2000:]


def test_without_configuration_only_warnings_are_printed(with_outliers):
    command = [sys.executable, "-c", "import sys, ropeway; ropeway.Engine(sys.argv[1], precision='int8').encode('a')"]
    run = subprocess.run([*command, with_outliers[0]], capture_output=True, text=True, timeout=60)
    assert run.stderr.startswith("int8 rounds") and len(run.stderr.splitlines()) == 1, run.stderr
    assert subprocess.run([*command, MODEL], capture_output=True, timeout=60).stderr == b""
