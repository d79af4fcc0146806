"""The harness on a made-up engine and a made-up peer: needs nothing but Python."""

import math
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

import cpu
from cases import Case, mixed_lengths
from engine import EngineError
from fake_engine import vector_of
from race import Contestant, Pace, compare, fastest, ratio, timed

COMMAND = shlex.join([sys.executable, str(Path(__file__).with_name("fake_engine.py"))])
PACE = Pace(rounds=3, round_s=0.02, pause_s=0.0)
INPUTS = [{"text": "blå"}, {"input_ids": [0, 9, 2]}]


def peer(name, seconds, error=0.0):
    vectors = [[value + error for value in vector_of(row)] for row in INPUTS]
    return Contestant(name, timed(lambda: time.sleep(seconds)), lambda: vectors)


def measured(model, error=0.0, tokens=5, reference=None, precision="f32"):
    case = Case("made up", "none", INPUTS, tokens)
    peers = {
        "PyTorch": [peer("slow setting", 0.02), peer("fast setting", 0.006, error)],
        **({"ONNX Runtime": [peer("int8", 0.006, -0.5)]} if precision == "int8" else {}),
    }
    options = Namespace(pace=PACE, threads=1, precision=precision)
    return cpu.measure(case, model, peers, COMMAND, options, reference)


def expect_error(model, words):
    try:
        measured(model)
    except EngineError as error:
        assert words in str(error), f"{model}: expected '{words}' in: {error}"
    else:
        raise AssertionError(f"a model that {model} was not noticed")


def main():
    row = measured("well")
    assert row["contestants"]["PyTorch"]["setup"] == "fast setting", row
    # About 3; a busy machine sleeps longer than it was told to, so only the arithmetic is checked.
    assert row["ratio"] == ratio(row["contestants"]["PyTorch"], row["contestants"]["ropeway"]), row
    assert ratio({"rounds": [9.0, 40.0, 10.0]}, {"rounds": [3.0, 10.0, 5.0]}) == 3.0
    assert row["contestants"]["ropeway"]["runs_per_round"] >= 2, row
    assert cpu.check(row) == [], cpu.check(row)

    assert "cosine" in cpu.check(measured("well", error=0.1))[0]
    # Held against float32: a peer that is wrong gives no ratio, and ropeway's own vectors are checked.
    exact = [vector_of(row) for row in INPUTS]
    row_narrow = measured("well", reference=exact)
    assert cpu.check(row_narrow) == [] and "ratio" in row_narrow and "differences" not in row_narrow, row_narrow
    assert "cosine 1.0" in cpu.cell(row_narrow, "ropeway"), cpu.cell(row_narrow, "ropeway")
    assert "ratio" not in measured("well", error=-0.5, reference=exact)
    # In int8 there is a ratio to ONNX Runtime's as well, wrong or not.
    row_int8 = measured("well", reference=exact, precision="int8")
    times = row_int8["contestants"]
    assert row_int8["ratio_to_int8"] == ratio(times["ONNX Runtime"], times["ropeway"]), row_int8
    assert row_int8["ratio"] == ratio(times["PyTorch"], times["ropeway"]), row_int8
    assert "to float32" in cpu.check(measured("wrong", reference=exact))[0]
    assert "tokens" in cpu.check(measured("well", tokens=6))[0]
    nan = compare([[1.0, math.nan], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
    assert math.isnan(nan["max_abs"]) or not nan["cosine"] >= cpu.LEAST_COSINE, nan

    expect_error("dies", "the model is not to my liking")
    expect_error("babbles", "not a line of JSON")
    expect_error("short", "runs, got")

    assert fastest([peer("a", 0.01), peer("b", 0.001)], PACE).name == "b"
    lengths = mixed_lengths(64, 8, 256, seed=5)
    assert lengths == mixed_lengths(64, 8, 256, seed=5) and 8 <= min(lengths) and max(lengths) <= 256

    report = {
        "rows": [row],
        "rounds": 3,
        "machine": cpu.machine(1),
        "load_average": [0.0, 0.0],
        "versions": {"python": "3"},
        "commit": cpu.commit(),
    }
    text = cpu.table(report)
    assert "| made up | " in text and "Geometric mean" in text, text
    print(text)
    print("self-test passed", file=sys.stderr)
    return 0
