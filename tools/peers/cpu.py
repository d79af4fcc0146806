"""Compares ropeway's CPU back end with PyTorch and ONNX Runtime: same weights, inputs and cores, in one run.

In float32, or with --precision bf16 or int8 beside what people who want speed take: PyTorch and OpenVINO in bf16, ONNX Runtime
in int8 (dynamic, per channel). Prints a Markdown table; a ratio above 1 means that ropeway is faster than the fastest of its
peers.
"""

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from engine import Engine, EngineError
from race import Contestant, Pace, compare, fastest, geometric_mean, race, ratio

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "target" / "peers"
PEERS = ["PyTorch", "ONNX Runtime", "OpenVINO"]
# float32 in another order of sums; anything worse is another computation, and its speed says nothing.
LEAST_COSINE = 0.99999
# Of narrow types to PyTorch in float32. A peer that is further off is shown, and no one's ratio is to it.
LEAST_NARROW_COSINE = 0.999
JINA4_VOCABULARY = 2000
JINA4_SHAPE = [
    "--layout", "native", "--hidden", "1024", "--layers", "4", "--heads", "16", "--ffn", "4096",
    "--vocab", str(JINA4_VOCABULARY), "--max-positions", "8194", "--dtype", "f32", "--seed", "4",
]  # fmt: skip


class Problem(Exception):
    """What is wrong, where, and the way out; printed without a traceback."""


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tools/peers/cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", metavar="WORD", help="only cases with this word in their name, e.g. minilm or 2048")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per case, default 5")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores (%(default)s here)")
    parser.add_argument(
        "--precision",
        choices=["f32", "bf16", "int8"],
        default="f32",
        help="ropeway's; unless it is f32, the peers are in bf16 or int8, each in its fastest (default: f32)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--ropeway", metavar="COMMAND", help="what serves; default: `ropeway bench contestant --device cpu`, built now"
    )
    parser.add_argument("--peers-only", action="store_true", help="leave ropeway out")
    parser.add_argument("--minilm", type=Path, default=REPOSITORY / "models" / "all-MiniLM-L6-v2", metavar="FOLDER")
    parser.add_argument("--make-model", default=str(REPOSITORY / "tools" / "make-model"), metavar="COMMAND")
    parser.add_argument(
        "--setup", action="store_true", help="make the Python environment first (tools/python-env --install)"
    )
    parser.add_argument(
        "--self-test", action="store_true", help="try the harness with a made-up engine, without any peer"
    )
    return parser.parse_args(arguments)


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def limit_threads(threads):
    """Before torch and numpy are imported: their libraries read these once. Children inherit them."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


# ---- what is needed -------------------------------------------------------------------------------------------------


def run_or_explain(command, what):
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    except OSError as error:
        raise Problem(f"{what}: cannot run {command[0]}: {error.strerror}") from error
    if result.returncode != 0:
        words = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
        raise Problem(f"{what}: {shlex.join(command)} failed:\n{words}")
    return result.stdout


def build_ropeway(precision):
    """The command that serves, with the program's path from cargo's own account of what it built."""
    command = ["cargo", "build", "--release", "--bin", "ropeway", "--message-format=json"]
    print("peers: building ropeway", file=sys.stderr)
    for line in run_or_explain(command, "building ropeway").splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message.get("target", {}).get("name") == "ropeway":
            serve = [message["executable"], "bench", "contestant", "--device", "cpu", "--precision", precision]
            return shlex.join(serve)
    raise Problem("cargo built no program `ropeway`. Name a command that serves with --ropeway COMMAND.")


def jina4_folder(make_model):
    folder = CACHE / "jina4"
    if not (folder / "model.safetensors").is_file():
        print(f"peers: making {folder}", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / "jina4.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        run_or_explain([*shlex.split(make_model), str(unfinished), *JINA4_SHAPE], "making the model jina4")
        unfinished.rename(folder)
    return folder


# ---- the run --------------------------------------------------------------------------------------------------------


def command(ropeway, model, inputs, threads):
    return [*shlex.split(ropeway), "--model", model, "--inputs", inputs, "--threads", threads]


def measure(case, model, peers, ropeway, options, reference=None):
    """One row of the table. `peers`: {name: [Contestant, …]}, of each the fastest takes part. With `reference`, float32
    vectors, every contestant is held against them and not against ropeway."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.jsonl"
        inputs.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in case.inputs), encoding="utf-8")
        chosen = {name: fastest(candidates, options.pace) for name, candidates in peers.items()}
        engine = Engine(command(ropeway, model, inputs, options.threads), dict(os.environ)) if ropeway else None
        try:
            names = {contestant.name: peer for peer, contestant in chosen.items()}
            contestants = list(chosen.values())
            if engine:
                contestants.insert(0, Contestant("ropeway", engine.run, engine.vectors))
                names["ropeway"] = "ropeway"
            times = race(contestants, options.pace)
            row = {
                "case": case.name,
                "tokens": case.tokens,
                "contestants": {names[name]: {"setup": name, **result} for name, result in times.items()},
            }
            vectors = {names[contestant.name]: contestant.vectors() for contestant in contestants}
            if reference is not None:
                for name, result in row["contestants"].items():
                    result["cosine"] = compare(vectors[name], reference)["cosine"]
            sound = [
                result
                for peer, result in row["contestants"].items()
                if peer != "ropeway" and result.get("cosine", 1.0) >= LEAST_NARROW_COSINE
            ]
            if engine:
                if sound:
                    peer = min(sound, key=lambda result: result["ms"])
                    row["ratio"] = ratio(peer, row["contestants"]["ropeway"])
                int8 = row["contestants"].get("ONNX Runtime")
                if options.precision == "int8" and int8:
                    row["ratio_to_int8"] = ratio(int8, row["contestants"]["ropeway"])
                row["tokens_counted_by_ropeway"] = engine.last.get("tokens")
                row["load_seconds"] = engine.ready.get("load_seconds")
                row["peak_rss_bytes"] = engine.last.get("peak_rss_bytes")
            if reference is not None:
                return row
            if engine:
                row["differences"] = {peer: compare(vectors["ropeway"], vectors[peer]) for peer in chosen}
            elif len(chosen) > 1:
                one, other = chosen
                row["differences"] = {f"{one} and {other}": compare(vectors[one], vectors[other])}
            return row
        finally:
            if engine:
                engine.close()


def check(row):
    """What is wrong with a row, one sentence each."""
    wrong = []
    for peer, apart in row.get("differences", {}).items():
        if not (apart["cosine"] >= LEAST_COSINE and math.isfinite(apart["max_abs"])):
            wrong.append(
                f"{row['case']}: cosine {apart['cosine']:.6f}, max-abs difference {apart['max_abs']:.1e} to {peer}"
            )
    ours = row["contestants"].get("ropeway", {}).get("cosine", 1.0)
    if not ours >= LEAST_NARROW_COSINE:
        wrong.append(f"{row['case']}: ropeway's cosine to float32 is {ours:.6f}")
    counted = row.get("tokens_counted_by_ropeway")
    if counted is not None and counted != row["tokens"]:
        wrong.append(f"{row['case']}: has {row['tokens']} tokens, and ropeway counted {counted}")
    return wrong


# ---- the report -----------------------------------------------------------------------------------------------------


def machine(threads):
    about = {"cpu": platform.processor() or platform.machine(), "threads": threads, "flags": []}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return about
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            about["cpu"] = value.strip()
        if key.strip() in ("flags", "Features"):
            has = set(value.split())
            wanted = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve"]
            about["flags"] = [flag for flag in wanted if flag in has]
            break
    return about


def commit():
    try:
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=REPOSITORY, capture_output=True, text=True)
    except OSError:
        return "unknown"
    if name.returncode != 0:
        return "unknown"
    return name.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def cell(row, name):
    result = row["contestants"].get(name)
    if not result:
        return "–"
    cosine = f", cosine {result['cosine']:.5f}" if "cosine" in result else ""
    return f"{result['ms']:.2f} ({result['min']:.2f}–{result['max']:.2f}){cosine}"


def table(report):
    there = [peer for peer in PEERS if any(peer in row["contestants"] for row in report["rows"])]
    peers = "".join(f" {peer} ms |" for peer in there)
    lines = [
        f"| case | ropeway ms |{peers} ratio to the fastest | max-abs difference |",
        "|---" * (4 + len(there)) + "|",
    ]
    for row in report["rows"]:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "–"
        apart = max((apart["max_abs"] for apart in row.get("differences", {}).values()), default=None)
        cells = [row["case"], *(cell(row, name) for name in ("ropeway", *there)), ratio]
        lines.append("| " + " | ".join([*cells, "–" if apart is None else f"{apart:.1e}"]) + " |")
    about = report["machine"]
    ratios = [row["ratio"] for row in report["rows"] if "ratio" in row]
    lines.append("")
    if ratios:
        lines.append(
            f"Geometric mean of {len(ratios)} ratios: {geometric_mean(ratios):.2f}, the worst {min(ratios):.2f}."
        )
    for row in report["rows"]:
        setups = ", ".join(result["setup"] for peer, result in row["contestants"].items() if peer != "ropeway")
        if len(row["contestants"]) > 1 and "texts" in row["case"]:
            lines.append(f"Fastest settings for {row['case']}: {setups}.")
    if report["rows"] and "cosine" in report["rows"][0]["contestants"].get("PyTorch", {}):
        lines.append(
            f"ropeway in {report['precision']}, PyTorch and OpenVINO in bf16, ONNX Runtime in int8 (dynamic, per channel);"
            f" cosine: the smallest to PyTorch's float32 vectors. Peers below {LEAST_NARROW_COSINE} have no part in the ratio."
        )
    int8 = [f"{row['ratio_to_int8']:.2f} ({row['case']})" for row in report["rows"] if "ratio_to_int8" in row]
    if int8:
        lines.append(f"Ratios to ONNX Runtime in int8, whatever its cosine: {', '.join(int8)}.")
    load = " → ".join(f"{value:.1f}" for value in report["load_average"])
    lines += [
        f"Milliseconds per pass over a case's inputs: median of {report['rounds']} rounds (min–max), alternating. The ratio: median"
        " of the rounds' ratios.",
        f"{about['cpu']}, {about['threads']} threads, {' '.join(about['flags'])}; load average {load}.",
        "; ".join(f"{name} {number}" for name, number in report["versions"].items()) + f"; commit {report['commit']}.",
    ]
    if report["load_average"][0] > 0.5:
        lines.append("The machine was not idle when this began: take the figures with care.")
    return "\n".join(lines)


def run(options):
    limit_threads(options.threads)
    if not (options.minilm / "model.safetensors").is_file():
        raise Problem(f"{options.minilm} holds no model. Get it with: tools/fetch-model minilm")
    load_before = os.getloadavg()[0]
    ropeway = None if options.peers_only else options.ropeway or build_ropeway(options.precision)

    import cases
    import contestants
    import torch

    torch.set_num_threads(options.threads)
    folders = {"minilm": options.minilm}
    planned = cases.minilm(contestants.load_tokenizer(options.minilm)) + cases.jina4(JINA4_VOCABULARY)
    planned = [case for case in planned if not options.cases or options.cases in case.name]
    if not planned:
        raise Problem(f"no case has '{options.cases}' in its name")

    narrow = options.precision != "f32"
    rows, loaded = [], {}
    for case in planned:
        if case.model not in loaded:
            if case.model == "minilm":
                onnx = CACHE / f"minilm-torch-{version('torch')}.onnx"
                loaded[case.model] = contestants.MiniLm(options.minilm, onnx, options.threads, narrow)
            else:
                folders["jina4"] = jina4_folder(options.make_model)
                loaded[case.model] = contestants.Jina4(folders["jina4"], narrow)
        print(f"peers: {case.name}", file=sys.stderr)
        model = loaded[case.model]
        reference = model.reference(case) if narrow else None
        rows.append(measure(case, folders[case.model], model.candidates(case), ropeway, options, reference))
    packages = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "tokenizers", "numpy")
    return {
        "rows": rows,
        "rounds": options.rounds,
        "precision": options.precision,
        "machine": machine(options.threads),
        "load_average": [load_before, os.getloadavg()[0]],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": commit(),
    }


def main(arguments):
    options = parse(arguments)
    if options.rounds < 1 or options.threads < 1:
        raise Problem("--rounds and --threads must be 1 or more")
    if options.self_test:
        import selftest

        return selftest.main()
    options.pace = Pace(rounds=options.rounds)
    report = run(options)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    wrong = [sentence for row in report["rows"] for sentence in check(row)]
    for sentence in wrong:
        print(f"peers: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Problem, EngineError, ValueError) as problem:
        print(f"peers: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
