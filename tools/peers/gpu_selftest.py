"""tools/peers/gpu on a made-up engine and made-up peers: needs nothing but Python."""

import contextlib
import io
import json
import math
import shlex
import sys
import tempfile
import time
from pathlib import Path

import cases
import gpu
import gpu_race
import gpu_report
from fake_engine import vector_of
from race import Contestant, Unavailable, timed, timed_on_device

COMMAND = shlex.join([sys.executable, str(Path(__file__).with_name("fake_engine.py"))])


class Peer(Contestant):
    """Three times as slow as the made-up engine."""

    setting, cosine = "one batch", 1.0

    def __init__(self, name, vectors=None, right=True):
        super().__init__(name, timed(lambda: time.sleep(0.006)), lambda: vectors)
        self.right = right

    def device_ms(self):
        return 1.0


class Way:
    def __init__(self, name):
        self.name = name


class Stack:
    """Stands in for PyTorch. Of its ways one is right, one is wrong, one is missing and one never gets ready."""

    vocabulary, most_tokens, tasks = 100, 64, ["retrieval.query", "separation"]

    def __init__(self):
        self.freed = 0

    def device(self):
        return {"name": "made up", "kind": "cuda"}

    def versions(self):
        return {"python": "3", "torch": "none"}

    def encoders(self, model, pace):
        return self, self

    def kernels(self):
        return self

    def free(self):
        self.freed += 1

    def ways(self, case, compiled):
        names = ["compiled"] if compiled else ["eager, SDPA, padded", "fast and wrong", "missing", "for ever"]
        return [Way(name) for name in names]

    def reference(self, case, rows):
        return [vector_of(case.inputs[at]) for at in rows]

    def build(self, way, case):
        if way.name == "missing":
            raise Unavailable("it is not installed")
        if way.name == "for ever":
            time.sleep(60)
        vectors = [vector_of(row) for row in case.inputs]
        if "wrong" in way.name:
            vectors[-1] = vectors[-1][::-1]
        return Peer(way.name, vectors)

    def peers(self, row):
        return [
            ("product", True, lambda: Peer("product")),
            ("another", False, lambda: Peer("another")),
            ("wrong", True, lambda: Peer("wrong", right=False)),
        ]


def run(model, *arguments, budget=None):
    """The whole of tools/peers/gpu on the made-up stack: (status, report, Markdown, what went to standard error)."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.json"
        options = gpu.parse(["--ropeway", COMMAND, "--model", model, "--quick", "--json", str(file), *arguments])
        made = gpu.Run(options, None, Stack())
        if budget is not None:
            made.budget = made.ropeway.budget = budget
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = made.all()
        return status, json.loads(file.read_text()), out.getvalue(), err.getvalue()


class Queue:
    """A stream: the host takes 8 ms to launch a graph that the device runs in 20 ms."""

    def __init__(self):
        self.host = self.device = 0.0

    def launch(self):
        self.host += 8.0
        self.device = max(self.host, self.device) + 20.0

    def synchronize(self):
        self.host = max(self.host, self.device)

    def event(self):
        return Event(self)


class Event:
    def __init__(self, queue):
        self.queue, self.at = queue, None

    def record(self):
        self.at = max(self.queue.host, self.queue.device)

    def elapsed_time(self, end):
        return end.at - self.at


class Looks:
    """A budget that lasts for so many looks at it, and at each of them leaves little for what is being built."""

    def __init__(self, looks=math.inf):
        self.looks = looks

    def left(self):
        self.looks -= 1
        return 0.1 if self.looks >= 0 else 0.0


def main():
    status, report, text, said = run("well", budget=Looks())
    assert status == 1, said
    mixed = report["end_to_end"][0]
    by_name = {row["way"]: row for row in mixed["rows"]}
    assert list(by_name) == ["ropeway", "eager, SDPA, padded"], by_name
    assert by_name["eager, SDPA, padded"]["ratio"] == by_name["eager, SDPA, padded"]["ms"] / by_name["ropeway"]["ms"]
    assert by_name["ropeway"]["tokens_per_s"] == mixed["tokens"] / by_name["ropeway"]["ms"] * 1e3
    assert [name for name, _ in mixed["skipped"]] == ["missing", "for ever"], mixed["skipped"]
    assert "not ready" in mixed["skipped"][1][1], mixed["skipped"]
    assert len(mixed["wrong"]) == 1 and mixed["wrong"][0].startswith("fast and wrong: cosine"), mixed["wrong"]
    assert report["failed"] == [] and report["cut"] == [], report

    # Six inputs of mixed lengths first, then the linear layers; what is compiled last.
    names = [(entry["case"], entry["compiled"]) for entry in report["end_to_end"]]
    assert names[0] == ("6 × 4…32 tokens", False) and names[-1] == ("1 × 8 tokens", True), names
    assert sorted(case for case, compiled in names if not compiled) == sorted({case for case, _ in names}), names

    # Of the four made-up rows, one is of a kind that has no peers.
    assert [entry["group"] for entry in report["kernels"]] == ["gemm", "attention", "attention"], report["kernels"]
    product = report["kernels"][0]
    ours, same, other = product["rows"]
    assert (same["name"], same["same"], other["same"]) == ("product", True, False), product
    # 2 × 32 tokens × 48 × 64 over the time in µs
    assert math.isclose(ours["tflops"], 2 * 32 * 48 * 64 / ours["micros"]["median"] / 1e6), ours
    assert ours["micros"]["median"] >= 2000 and same["micros"]["median"] >= 6000, product
    assert product["wrong"] == ["wrong: cosine 1.000000 to float32"], product
    # 4 × 2 heads × 64 dimensions × (64² + 9²)
    assert gpu_race.flop(report["kernels"][2]) == 4 * 2 * 64 * (64 * 64 + 9 * 9)

    assert gpu_report.MEANINGLESS in text, text
    for words in (
        "| 6 × 4…32 tokens | ropeway |",
        "### Linear layers",
        "Geometric mean of 8 ratios",
        "another function",
        "**WRONG**",
        "not installed",
    ):
        assert words in text, f"'{words}' is missing in: {text}"
    assert "fast and wrong" in said, said

    # ropeway itself wrong: no ratio of it at all.
    status, report, text, said = run("wrong", budget=Looks(12))
    assert status == 1 and all(entry["rows"] == [] for entry in report["end_to_end"]), report
    assert "ropeway: cosine -1.000000 to the float32 reference" in said, said

    # An engine that fails takes its own steps with it, and the report says so.
    status, report, text, said = run("dies", budget=Looks(12))
    assert status == 1 and "the model is not to my liking" in text and "**FAILED**" in text, text
    status, report, text, said = run("short", budget=Looks(12))
    assert status == 1 and "runs of row 0, got" in said, said

    # Time is over after the first steps: the rest is named.
    status, report, text, said = run("well", "--minutes", "3", budget=Looks(8))
    assert report["end_to_end"][0]["case"] == "6 × 4…32 tokens" and report["cut"][-1] == "1 × 8 tokens, compiled", (
        report
    )
    assert "Cut, 3 minutes being over: " in text, text

    # Without PyTorch: one line, and the status that says so.
    had = sys.modules.get("torch")
    sys.modules["torch"] = None
    sys.modules.pop("torch_stack", None)
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status = gpu.start(["--ropeway", sys.executable, "--model", "none"])
    assert status == gpu.NOT_RUN and err.getvalue().startswith("peers: not run: this Python has no PyTorch"), (
        err.getvalue()
    )
    assert err.getvalue().count("\n") == 1, err.getvalue()
    if had is None:
        del sys.modules["torch"]
    else:
        sys.modules["torch"] = had

    # A graph is timed without the time that its launch takes.
    queue = Queue()
    times = timed_on_device(queue.launch, queue.event(), queue.event(), queue.synchronize)(3)
    assert all(math.isclose(seconds, 0.020) for seconds in times) and len(times) == 3, times

    # The cases of a real run, on a model that is short of the longest.
    full = cases.on_gpu(250002, 8192, Stack.tasks, quick=False)
    assert list(full) == ["mixed", "64x512", "1x16", "1x128", "1x512", "1x8192", "task", "tasks"], list(full)
    assert full == full and full["64x512"].tokens == 64 * 512
    lengths = [len(row["input_ids"]) for row in full["mixed"].inputs]
    assert len(lengths) == 256 and min(lengths) >= 16 and max(lengths) <= 512 and sum(lengths) == full["mixed"].tokens
    assert "1x8192" not in cases.on_gpu(250002, 512, [], quick=False)
    assert {row["task"] for row in full["tasks"].inputs} == set(Stack.tasks)

    print("self-test passed", file=sys.stderr)
    return 0
