"""Threads, processes, signals, asyncio, memory, progress."""

import asyncio
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import ropeway
from conftest import MODEL


def test_threads_get_what_one_gets(engine):
    texts = [f"text {number}" for number in range(64)]
    expected = engine.encode(texts)
    found = [None] * 8

    def work(number):
        found[number] = engine.encode(texts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        np.testing.assert_array_equal(one, expected)


def test_the_gil_is_free_while_it_computes(engine):
    texts = ["a text of some length " * 8] * 3000
    longest, last, done = 0.0, time.perf_counter(), threading.Event()
    thread = threading.Thread(target=lambda: (engine.encode(texts), done.set()))
    start = time.perf_counter()
    thread.start()
    while not done.is_set():
        time.sleep(0.0005)
        longest = max(longest, time.perf_counter() - last)
        last = time.perf_counter()
    thread.join()
    assert longest < (time.perf_counter() - start) / 2


INTERRUPTED = """
import os, signal, sys, threading, time
import ropeway
# What a shell starts in the background ignores it, and so do the children.
signal.signal(signal.SIGINT, signal.default_int_handler)
engine = ropeway.Engine(sys.argv[1], device="cpu", batch_tokens=512)
texts = ["a text of some length " * 8] * 2_000_000
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    engine.encode(texts)
except KeyboardInterrupt:
    assert engine.encode("a").shape == (64,)
    print("interrupted")
"""


def test_an_interrupt_ends_a_long_call():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED, MODEL], capture_output=True, text=True, timeout=60)
    assert run.stdout == "interrupted\n", run.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_ends(engine):
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns of a fork with threads, which is what this is about.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            engine.encode("a")
        except ropeway.ForkedError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    message = os.read(reading, 4096).decode()
    os.close(reading)
    assert "open the engine after the fork" in message and str(os.getpid()) in message


FORKED_EXIT = """
import os, sys
import ropeway
engine = ropeway.Engine(sys.argv[1], device="cpu")
engine.encode("a")
child = os.fork()
if child == 0:
    del engine
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_drops_the_engine_without_hanging():
    command = [sys.executable, "-W", "ignore", "-c", FORKED_EXIT, MODEL]
    assert subprocess.run(command, timeout=60).returncode == 0


def in_a_process(model, pipe):
    pipe.send(ropeway.Engine(model, device="cpu").encode("a"))


def test_spawned_processes_work(engine):
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe()
    process = context.Process(target=in_a_process, args=(MODEL, sending))
    process.start()
    assert receiving.poll(60)
    np.testing.assert_array_equal(receiving.recv(), engine.encode("a"))
    process.join()


def test_a_thousand_awaits(engine):
    texts = [f"text {number}" for number in range(1000)]
    tasks = ["retrieval.query" if number % 2 else "separation" for number in range(1000)]

    async def all_of_them():
        return await asyncio.gather(*(engine.aencode(text, task=task) for text, task in zip(texts, tasks)))

    found = asyncio.run(all_of_them())
    np.testing.assert_array_equal(np.stack(found), engine.encode(texts, task=tasks))


def test_await_has_the_forms_of_encode(engine):
    async def forms():
        texts = ["One. Two.", "Three."]
        np.testing.assert_array_equal(await engine.aencode(texts), engine.encode(texts))
        chunks, spans = await engine.aencode(texts, late_chunking=True, return_spans=True)
        expected, expected_spans = engine.encode(texts, late_chunking=True, return_spans=True)
        assert spans == expected_spans
        for one, other in zip(chunks, expected):
            np.testing.assert_array_equal(one, other)
        values, scales = await engine.aencode(texts, precision="int8", return_scales=True)
        expected, expected_scales = engine.encode(texts, precision="int8", return_scales=True)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(scales, expected_scales)
        tokens = await engine.aencode(texts, output_value="token_embeddings")
        assert tokens[0].ndim == 2
        assert (await engine.aencode([])).shape == (0, 64)
        bad = ["good", "x" * 300_000, "\ud800"]
        with pytest.raises(ropeway.RequestError) as raised:
            await engine.aencode(bad)
        assert raised.value.index in (1, 2)
        good, long, surrogate = await engine.aencode(bad, on_error="return")
        assert good.shape == (64,)
        assert long.index == 1 and surrogate.index == 2

    asyncio.run(forms())


LONG = "a text of some length " * 8


def test_cancelled_awaits_take_their_requests_back():
    engine = ropeway.Engine(MODEL, device="cpu", threads=1, batch_tokens=512)

    async def cancelled():
        await engine.aencode("warm")
        many = [asyncio.ensure_future(engine.aencode([LONG] * 1000)) for _ in range(3)]
        while engine.info.service["submitted"] < 100:
            await asyncio.sleep(0)
        for one in many:
            one.cancel()
        results = await asyncio.gather(*many, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in results)
        assert (await engine.aencode("a")).shape == (64,)
        service = engine.info.service
        assert service["queued"] == 0
        assert 0 < service["cancelled"] < service["submitted"] < 3000
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.aencode([LONG] * 1000), 0.0001)

    asyncio.run(cancelled())


def test_an_await_that_fails_takes_its_requests_back():
    engine = ropeway.Engine(MODEL, device="cpu", threads=1, batch_tokens=512)
    complaints = []

    async def failing():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(ropeway.TextError) as raised:
            await engine.aencode(["\ud800"] * 2 + [LONG] * 1000)
        assert raised.value.index == 0
        await engine.aencode("a")
        gc.collect()
        return engine.info.service

    service = asyncio.run(failing())
    assert service["queued"] == 0 and 0 < service["cancelled"] and service["submitted"] < 1000
    assert complaints == []


def test_a_list_longer_than_the_queue_waits_for_itself():
    engine = ropeway.Engine(MODEL, device="cpu", batch_tokens=64)
    texts = [f"{LONG}{number}" for number in range(500)]

    async def long_list():
        return await engine.aencode(texts)

    np.testing.assert_array_equal(asyncio.run(long_list()), engine.encode(texts))
    assert engine.info.service["submitted"] == len(texts)


def test_memory_does_not_grow_with_calls(engine):
    def calls(count):
        for number in range(count):
            engine.encode(f"text {number}")
            if number % 100 == 0:
                engine.encode(["a", "x" * 300_000], on_error="return")
        gc.collect()
        return resident()

    before = calls(1000)
    assert calls(10_000) - before < 8 << 20


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_calls_of_the_engine_alone_are_timed(engine):
    times = engine._engine.time_embed(["a", "b"], 3)
    assert len(times) == 3 and min(times) > 0
    with pytest.raises(ropeway.RequestError, match="^input 1: "):
        engine._engine.time_embed(["a", "x" * 300_000], 1)


def test_progress_bar(engine, capsys):
    engine.encode(["a"] * 10, batch_size=3, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown and "Texts" in shown
    engine.encode(["a"] * 10)
    assert capsys.readouterr().err == ""


def test_progress_in_a_notebook(engine, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.n = total, 0

        def update(self, more):
            self.n += more
            seen.append(self.n)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    engine.encode(["a"] * 7, batch_size=3, show_progress_bar=True)
    assert seen == [3, 6, 7, "closed"]
    seen.clear()
    with pytest.raises(ropeway.RequestError):
        engine.encode(["x" * 300_000, "a"], show_progress_bar=True)
    assert seen == ["closed"]
