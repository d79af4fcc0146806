"""The stages, most important first, and what each of them does.

A stage gets a part of the time that is left: its share among the shares of those that still come. So nothing can take
the time of what comes after it, and what it leaves over is theirs. It gives a dictionary for the report:

    outcome   "agreed", "failed", "timed out", "cut" (no time), "missing" (something it needs is not here)
    note      one line
    …         what it found
"""

import json
import re
import sys
from collections import namedtuple

from . import facts, process
from .testing import Tests

Stage = namedtuple("Stage", "name title share least run")

# One test for each kernel, and a whole pass.
SANITIZED = (
    "kernels::attention::attention_bf16_has_the_same_bits_in_any_batch_and_tile",
    "kernels::embed::embed_bf16_has_the_same_bits_in_any_batch",
    "kernels::gemm::gemm_has_the_same_bits_in_any_batch",
    "kernels::gemm::gemm_split16_has_the_same_bits_in_any_rows_of_a_tile",
    "kernels::layernorm::layernorm_bf16_has_the_same_bits_in_any_batch",
    "kernels::lora_down::lora_down_has_the_same_bits_in_any_batch",
    "kernels::norm_gemm::norm_gemm_bf16_has_the_bits_of_layernorm_and_gemm",
    "kernels::down_gemm::down_gemm_bf16_has_the_bits_of_lora_down_and_gemm",
    "kernels::pool::pool_has_the_same_bits_in_any_batch",
    "engine::golden::bert_and_xlm_roberta_with_a_users_adapter",
)
# Of each tool, options. A kernel's parameters are asked for until the driver says that there are no more.
SANITIZERS = {
    "memcheck": ["--report-api-errors", "no"],
    "racecheck": [],
    "synccheck": [],
    "initcheck": [],
}
SANITIZER_FOUND = 86
# tools/peers/gpu ends with it where there is no PyTorch, or it finds no GPU.
PEERS_NOT_RUN = 3
# What the reports of the benches call their rows, and that of the peers.
ROWS = ("rows", "end_to_end", "kernels")

# What --quick takes: the fixtures, the command line, a kernel.
QUICK = (
    "engine::cli::devices_shows_the_gpu",
    "engine::golden::bert_and_xlm_roberta_with_a_users_adapter",
    "kernels::layernorm::a_row_of_equal_numbers_becomes_the_offset",
)
QUICK_DRIVER = ("gpu::select::tests::a_device_is_found_and_opened_by_its_number_alone",)
QUICK_PARITY = ("parity::one_ulp", "transposes")
QUICK_MODEL = "--hidden 128 --layers 1 --heads 2 --ffn 128 --vocab 700 --max-positions 600".split()


def run_tests(context):
    return tests(context, "tests", QUICK if context.quick else None, {})


def run_exhaustive(context):
    return tests(context, "exhaustive", QUICK[-1:] if context.quick else None, {"ROPEWAY_TEST_ALL": "1"})


def tests(context, name, chosen, more):
    program = Tests(context.program("gpu-tests"), {**context.environment, **more}, context.log(name))
    program.run(context.left(), chosen)
    return program.result()


def run_driver(context):
    """The library's own tests of what is nearest to the driver. The rest of them needs no GPU."""
    program = Tests(context.program("lib-tests"), context.environment, context.log("driver"))
    names = QUICK_DRIVER if context.quick else [name for name in program.names() if name.startswith("gpu::")]
    program.run(context.left(), names)
    return program.result()


def bench(name, kernels="auto", dependent=False):
    """The stage of `ropeway bench NAME`, with kernels of one kind where there are several."""
    stage = f"{name}-sm90" if kernels == "sm90" else name
    stage += "-dependent" if dependent else ""

    def run(context):
        if kernels == "sm90" and context.capability != "9.0":
            return missing(f"the kernels sm90 are for compute capability 9.0, and this is {context.capability}")
        path = context.log(f"{stage}.json")
        command = [context.program("ropeway"), "bench", name, "-m", context.model(), "--device", "cuda", "--json", path]
        command += ["--kernels", kernels, *(["--dependent-launch"] if dependent else []), *context.flags()]
        return measured(context, command, path, stage)

    return run


def run_peers(context):
    path = context.log("peers.json")
    python = context.environment.get("ROPEWAY_PYTHON", sys.executable)
    # PEFT reads this layout alone.
    model = context.model("native")
    command = [python, context.peers, "--ropeway", context.program("ropeway"), "--model", model, "--json", path]
    if context.simulated:
        command += ["--device", "cpu"]
    # Its own end comes before ours.
    left = context.left()
    command += ["--minutes", f"{max(left - 30, left / 2) / 60:.2f}"]
    return measured(context, command + context.flags(), path, "peers", PEERS_NOT_RUN)


def measured(context, command, path, name, not_run=None):
    """Runs what writes JSON, and tables to standard output; the status `not_run` means that something is missing."""
    ended = process.run(command, context.left(), context.log(name), context.environment, context.files)
    if not_run is not None and ended.status == not_run:
        said = ended.stderr().strip().rpartition("\n")[2]
        return missing(said.rpartition("not run: ")[2])
    report, note, problem = rows_in(path)
    result = {"outcome": "agreed", "note": note, "report": report, "tables": ended.stdout()}
    if ended.timed_out:
        result.update(outcome="timed out", note=f"{ended.how}; {note}")
    elif ended.status != 0 or problem:
        result.update(failed(name, f"{ended.how}; {note}", ended))
    return result


def rows_in(path):
    """What a bench has written, which it does after each row: the report, a note on it, and whether that is a problem."""
    try:
        report = json.loads(path.read_text())
    except FileNotFoundError:
        return None, "no report", True
    except ValueError as error:
        return None, f"a report that is not JSON ({error})", True
    rows = sum(len(report.get(key, ())) for key in ROWS)
    return report, f"{rows} rows" if rows else "no rows", not rows


def interrupted(context, stage):
    """A stage that was ended from outside, with the rows that it had."""
    result = {"outcome": "cut", "note": "ended from outside"}
    report, note, problem = rows_in(context.log(f"{stage.name}.json"))
    return result if problem else {**result, "note": f"ended from outside; {note}", "report": report}


def run_sanitizer(context):
    tool = facts.find("compute-sanitizer", context.environment)
    if tool is None:
        return missing("no compute-sanitizer on PATH or in /usr/local/cuda/bin")
    program = context.program("gpu-tests")
    Tests(program, context.environment, context.log("sanitizer")).check(SANITIZED)
    names = QUICK[-1:] if context.quick else SANITIZED
    outcomes, failures = {}, []
    for at, (name, options) in enumerate(SANITIZERS.items()):
        command = [tool, "--tool", name, *options, "--error-exitcode", SANITIZER_FOUND, "--print-limit", 20]
        command += [program, "--exact", *names, "--test-threads=1"]
        part = context.left() / (len(SANITIZERS) - at)
        ended = process.run(command, part, context.log(f"sanitizer-{name}"), context.environment)
        text = ended.stdout() + ended.stderr()
        # Without these two lines it has not looked at anything.
        looked = "SUMMARY:" in text and re.search(rf"^test result: ok\. {len(names)} passed", text, re.MULTILINE)
        if ended.timed_out:
            outcomes[name] = "timed out"
        elif ended.status == 0 and looked:
            outcomes[name] = "agreed"
        else:
            outcomes[name] = "failed"
            failures.append({"name": name, "outcome": "failed", "how": ended.how, "tail": ended.tail()})
    worst = next(outcome for outcome in ("failed", "timed out", "agreed") if outcome in outcomes.values())
    note = ", ".join(f"{name} {outcome}" for name, outcome in outcomes.items())
    return {"outcome": worst, "note": note, "tools": outcomes, "tests": list(names), "failures": failures}


def run_parity(context):
    out = context.out / "softcuda-parity"
    script = [context.here / "softcuda-parity", "run", context.files / "parity", "--out", out]
    names = QUICK_PARITY if context.quick else ()
    # No test begins in the last part of the time, so that the report is always written.
    left = context.left()
    script += ["--limit", int(0.8 * left), "--seconds", max(int(min(0.2 * left, 60)), 5)]
    ended = process.run([*script, *names], left + 10, context.log("parity"), context.environment)
    if ended.timed_out:
        return {"outcome": "timed out", "note": ended.how}
    try:
        report = json.loads((out / "softcuda-parity.json").read_text())
        left = int((out / "softcuda-parity.left").read_text())
    except (OSError, ValueError) as error:
        return failed("softcuda-parity", f"{ended.how}; no report ({error})", ended)
    counts = {verdict: count for verdict, count in report["counts"].items() if count}
    note = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no programs"
    result = {"outcome": "agreed", "note": note, "counts": counts, "failures": []}
    if ended.status != 0:
        result["outcome"] = "failed"
        for program in report["programs"]:
            if program["verdict"] not in ("ran", "exact", "within"):
                how = f"{program['verdict']}: {program.get('first')}"
                result["failures"].append({"name": program["program"], "outcome": "failed", "how": how, "tail": ""})
        for test in report["failed_tests"]:
            how = f"exit status {test['status']}"
            result["failures"].append({"name": test["name"], "outcome": "failed", "how": how, "tail": ""})
    elif left:
        result["outcome"] = "timed out"
    if left:
        result["note"] += f"; {left} tests not run"
    return result


def missing(note):
    return {"outcome": "missing", "note": note}


def failed(name, how, ended):
    failure = {"name": name, "outcome": "failed", "how": how, "tail": ended.tail()}
    return {"outcome": "failed", "note": how, "failures": [failure]}


STAGES = (
    Stage("driver", "the library's tests of its driver layer", 5, 10, run_driver),
    Stage("tests", "all tests of kernels and engine", 20, 20, run_tests),
    Stage("kernels", "each kernel over the model's shapes", 10, 20, bench("kernels", "sm80")),
    Stage("kernels-sm90", "the same, with the kernels for compute capability 9.0", 10, 20, bench("kernels", "sm90")),
    Stage("encoder", "the engine: throughput, latency, start-up, memory", 12, 20, bench("encoder", "sm80")),
    Stage("encoder-sm90", "the same, with the kernels for compute capability 9.0", 12, 20, bench("encoder", "sm90")),
    Stage("encoder-sm90-dependent", "with dependent launch", 12, 20, bench("encoder", "sm90", dependent=True)),
    Stage("adapters", "what adapters cost", 12, 20, bench("adapters")),
    Stage("peers", "PyTorch and cuBLASLt beside it, in the same run", 25, 60, run_peers),
    Stage("sanitizer", "compute-sanitizer over a test of each kernel", 10, 30, run_sanitizer),
    Stage("exhaustive", "the tests with every shape and seed", 15, 30, run_exhaustive),
    Stage("parity", "softcuda beside the device, bit for bit", 8, 20, run_parity),
)
