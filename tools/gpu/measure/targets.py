"""The targets: what the GPU engine must reach before anything is made faster."""

from collections import namedtuple

# `measure` gives (value, of what) for each row that the target is about; the worst counts.
Target = namedtuple("Target", "name at_least bound unit measure")


def rows(stages, stage, group):
    report = stages.get(stage, {}).get("report") or {}
    # What is empty is left out of a row.
    return [{"parameters": {}, **row} for row in report.get("rows", ()) if row["group"] == group]


def label(row):
    return f"{row['case']}, {row['shape']}"


def beside_cublaslt(stages):
    """Against every peer of the linear layers: they all go through cuBLASLt."""
    report = stages.get("peers", {}).get("report") or {}
    for row in report.get("kernels", ()):
        for peer in row["rows"]:
            # A peer that computes another function (GELU by tanh) is there to be looked at.
            if row["group"] == "gemm" and peer["name"] != "ropeway" and peer.get("same", True):
                yield peer["ratio"], f"{label(row)}; {peer['name']}"


def long_attention(stages):
    for row in rows(stages, "kernels", "attention"):
        if set(row["parameters"].get("lengths", ())) == {4096} and "tflops" in row:
            yield row["tflops"], label(row)


def beside_eager(stages):
    report = stages.get("peers", {}).get("report") or {}
    for case in report.get("end_to_end", ()):
        for peer in case["rows"]:
            # `256 × 16…512 tokens`
            if peer["way"] == "eager, SDPA, padded" and "…" in case["case"]:
                yield peer["ratio"], case["case"]


def shortest_query(stages):
    for row in rows(stages, "encoder", "latency"):
        if row["parameters"].get("tokens") == 16:
            yield row["micros"]["median"] / 1e3, label(row)


def mixed_adapters(stages):
    """As jina-embeddings-v3 has them: of rank 4, about five in a batch."""
    for row in rows(stages, "adapters", "adapters"):
        of = [row["parameters"].get(name) for name in ("way", "rank", "adapters")]
        if of == ["extended", 4, 4] and "ratio" in row:
            yield row["ratio"], label(row)


def start(stages):
    for row in rows(stages, "encoder", "startup"):
        yield row["micros"]["median"] / 1e6, label(row)


TARGETS = (
    Target("GEMM beside cuBLASLt", True, 0.5, "×", beside_cublaslt),
    Target("attention at 4096 tokens", True, 250, "TFLOP/s", long_attention),
    Target("end to end beside PyTorch eager, padded, mixed lengths", True, 1.3, "×", beside_eager),
    Target("one query of 16 tokens, text in to vector out", False, 1.0, "ms", shortest_query),
    Target("adapters mixed, beside merged", False, 1.08, "×", mixed_adapters),
    Target("process start to first vector", False, 1.0, "s", start),
)


def judge(stages):
    """Each target with what was measured, or None, and "met", "not met" or "not measured"."""
    judged = []
    for target in TARGETS:
        found = list(target.measure(stages))
        value, of = (min if target.at_least else max)(found) if found else (None, None)
        if value is None:
            verdict = "not measured"
        else:
            verdict = "met" if (value >= target.bound if target.at_least else value <= target.bound) else "not met"
        sign = "≥" if target.at_least else "≤"
        judged.append(
            {
                "target": target.name,
                "wanted": f"{sign} {target.bound:g} {target.unit}",
                "measured": value,
                "unit": target.unit,
                "of": of,
                "verdict": verdict,
            }
        )
    return judged
