"""A made-up engine that speaks the protocol of benches/encoder.rs, for tools/peers/cpu --self-test.

A word in the name of the model decides how it misbehaves: dies, babbles, short.
"""

import argparse
import json
import sys
import time


def vector_of(row):
    ids = row.get("input_ids") or [ord(letter) for letter in row["text"]]
    raw = [1.0 + sum(ids) % 7, 2.0 + len(ids), 3.0]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--on-demand", action="store_true", required=True)
    options = parser.parse_args()
    if "dies" in options.model:
        print("the model is not to my liking", file=sys.stderr)
        sys.exit(3)

    with open(options.inputs, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]

    def say(answer):
        print(json.dumps(answer), flush=True)

    say({"ready": True, "load_seconds": 0.01, "peak_rss_bytes": 1 << 20})
    for line in sys.stdin:
        if line.strip() == "vectors":
            say({"embeddings": [vector_of(row) for row in rows]})
        elif "babbles" in options.model:
            print("ready when you are", flush=True)
        else:
            count = int(line) - ("short" in options.model)
            seconds = []
            for _ in range(count):
                start = time.perf_counter()
                time.sleep(0.002)
                seconds.append(time.perf_counter() - start)
            say({"seconds": seconds, "tokens": 5, "peak_rss_bytes": 1 << 20})


if __name__ == "__main__":
    main()
