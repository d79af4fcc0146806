"""A made-up engine for the self-tests: speaks the protocols of `ropeway bench contestant` and of `ropeway bench kernels
--serve`.

A word in the name of the model decides how it misbehaves: dies, babbles, short, wrong.
"""

import argparse
import json
import sys
import time

KERNELS = [
    {
        "group": "gemm",
        "case": "gemm_bf16_large",
        "shape": "32 tokens, 48 × 64",
        "parameters": {"tokens": 32, "n": 48, "k": 64, "columns": 32, "epilogue": "gelu"},
    },
    {
        "group": "attention",
        "case": "attention_bf16_hd64_large",
        "shape": "2 × 64 tokens",
        "parameters": {"lengths": [64, 64], "heads": 2, "head_dim": 64},
    },
    {
        "group": "attention",
        "case": "attention_bf16_hd64_large",
        "shape": "64 and 9 tokens",
        "parameters": {"lengths": [64, 9], "heads": 2, "head_dim": 64},
    },
    {"group": "layernorm", "case": "layernorm_bf16", "shape": "32 tokens", "parameters": {"tokens": 32, "n": 64}},
]


def vector_of(row):
    ids = row.get("input_ids") or [ord(letter) for letter in row["text"]]
    raw = [1.0 + sum(ids) % 7, 2.0 + len(ids), 3.0]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]


def say(answer):
    print(json.dumps(answer), flush=True)


def timed_sleeps(count):
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        time.sleep(0.002)
        seconds.append(time.perf_counter() - start)
    return seconds


def arguments():
    parser = argparse.ArgumentParser()
    if sys.argv[1:2] == ["bench"]:
        parser.add_argument("bench", choices=["bench"])
        parser.add_argument("what", choices=["contestant", "kernels"])
        parser.add_argument("-m", "--model", required=True)
        parser.add_argument("--device", required=True)
        parser.add_argument("--serve", action="store_true")
        parser.add_argument("--quick", action="store_true")
    else:
        parser.add_argument("--model", required=True)
        parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--inputs")
    return parser.parse_args()


def main():
    options = arguments()
    if "dies" in options.model:
        print("the model is not to my liking", file=sys.stderr)
        sys.exit(3)
    if getattr(options, "serve", False):
        say({"ready": True, "rows": KERNELS})
        for line in sys.stdin:
            row, count = map(int, line.split())
            assert 0 <= row < len(KERNELS), row
            say({"micros": [1e6 * seconds for seconds in timed_sleeps(count - ("short" in options.model))]})
        return

    with open(options.inputs, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    say({"ready": True, "load_seconds": 0.01, "peak_rss_bytes": 1 << 20})
    for line in sys.stdin:
        if line.strip() == "vectors":
            sign = -1 if "wrong" in options.model else 1
            say({"embeddings": [[sign * value for value in vector_of(row)] for row in rows]})
        elif "babbles" in options.model:
            print("ready when you are", flush=True)
        else:
            seconds = timed_sleeps(int(line) - ("short" in options.model))
            # A text has two tokens, whatever it says.
            tokens = sum(len(row.get("input_ids") or "ab") for row in rows)
            say({"seconds": seconds, "tokens": tokens, "peak_rss_bytes": 1 << 20})


if __name__ == "__main__":
    main()
