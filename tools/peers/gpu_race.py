"""One case, or one kernel, through ropeway and its peers in turn. Knows nothing of torch, which the peers bring."""

import contextlib
import json
import math
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from engine import Engine
from race import Contestant, Unavailable, compare, race

# bf16 against bf16, and each against float32: less is another computation, and its speed says nothing.
LEAST_TO_ROPEWAY = 0.999
LEAST_TO_F32 = 0.9995
# How many inputs of a case go through the float32 model as well.
CHECKED = 6
# What building one contestant may take of the time that is left.
MOST_OF_IT = 0.5


class Budget:
    """The time that the whole run may take."""

    def __init__(self, minutes):
        self.end = time.monotonic() + 60 * minutes

    def left(self):
        return self.end - time.monotonic()


@contextlib.contextmanager
def at_most(seconds):
    """Raises Unavailable in the midst of what takes longer: a compiler may."""

    def stop(*_):
        raise Unavailable(f"not ready within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Ropeway:
    """Starts ropeway's servers."""

    def __init__(self, command, model, device, environment, quick, budget):
        self.command, self.model, self.device = command, model, device
        self.environment, self.quick, self.budget = environment, quick, budget

    def _start(self, *arguments):
        command = [*self.command, "bench", *arguments]
        return Engine(command, self.environment, patience=max(60.0, self.budget.left()))

    def about(self):
        try:
            command = [*self.command, "--version"]
            said = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60)
            version = said.stdout.strip() if said.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired):
            version = None
        return {"command": self.command, "version": version, "device": self.device}

    @contextlib.contextmanager
    def encoder(self, case):
        with tempfile.TemporaryDirectory() as scratch:
            inputs = Path(scratch) / "inputs.jsonl"
            inputs.write_text("".join(json.dumps(row) + "\n" for row in case.inputs), encoding="utf-8")
            engine = self._start("contestant", "-m", self.model, "--device", self.device, "--inputs", inputs)
            try:
                yield engine
            finally:
                engine.close()

    @contextlib.contextmanager
    def kernels(self):
        quick = ["--quick"] if self.quick else []
        engine = self._start("kernels", "-m", self.model, "--device", self.device, "--serve", *quick)
        try:
            yield engine
        finally:
            engine.close()


# ---- end to end -----------------------------------------------------------------------------------------------------


def race_case(case, ways, encoders, ropeway, pace, budget):
    """{"case", "tokens", "rows": [one for each contestant], "skipped": [[way, why]], "wrong": [sentence]}"""
    report = {"case": case.name, "inputs": len(case.inputs), "tokens": case.tokens}
    report |= {"rows": [], "skipped": [], "wrong": []}
    checked = spread(case, CHECKED)
    exact = encoders.reference(case, checked)
    with ropeway.encoder(case) as engine:
        ours = Contestant("ropeway", engine.run, engine.vectors)
        vectors = ours.vectors()
        to_f32 = apart([vectors[at] for at in checked], exact)
        if not right(to_f32, LEAST_TO_F32):
            report["wrong"].append(f"ropeway: {said(to_f32)} to the float32 reference")
            return report
        contestants, about = [ours], {"ropeway": {"to_f32": to_f32, "setting": None}}
        for way in ways:
            try:
                with at_most(MOST_OF_IT * budget.left()):
                    peer = encoders.build(way, case)
                theirs = peer.vectors()
            except Unavailable as why:
                report["skipped"].append([way.name, str(why)])
                continue
            found = {
                "to_ropeway": apart(vectors, theirs),
                "to_f32": apart([theirs[at] for at in checked], exact),
                "setting": peer.setting,
                "device_ms": peer.device_ms(),
            }
            if right(found["to_ropeway"], LEAST_TO_ROPEWAY) and right(found["to_f32"], LEAST_TO_F32):
                contestants.append(peer)
                about[peer.name] = found
            else:
                two = f"{said(found['to_ropeway'])} to ropeway, {said(found['to_f32'])} to the float32 reference"
                report["wrong"].append(f"{way.name}: {two}")
        times = race(contestants, pace)
        report["load_seconds"] = engine.ready.get("load_seconds")
        counted = engine.last.get("tokens")
        if counted not in (None, case.tokens):
            report["wrong"].append(f"ropeway: ran {counted} tokens, and the case has {case.tokens}")
            return report
    for name, result in times.items():
        row = {"way": name, **about[name], **result, "tokens_per_s": case.tokens / result["ms"] * 1e3}
        row["ratio"] = result["ms"] / times["ropeway"]["ms"]
        report["rows"].append(row)
    return report


def spread(case, count):
    """Places of the shortest and the longest input and of some between."""
    order = sorted(range(len(case.inputs)), key=lambda at: len(case.inputs[at]["input_ids"]))
    if len(order) <= count:
        return order
    return [order[round(at * (len(order) - 1) / (count - 1))] for at in range(count)]


def apart(ours, theirs):
    try:
        return compare(ours, theirs)
    except ValueError as error:
        return {"cosine": math.nan, "max_abs": math.nan, "why": str(error)}


def right(found, least):
    return found["cosine"] >= least and math.isfinite(found["max_abs"])


def said(found):
    return f"cosine {found['cosine']:.6f}"


# ---- kernels --------------------------------------------------------------------------------------------------------


def flop(row):
    """The useful ones, of the base product alone: LoRA's columns are an expense, not a result."""
    p = row["parameters"]
    if row["group"] == "gemm":
        return 2 * p["tokens"] * p["n"] * p["k"]
    return 4 * p["heads"] * p["head_dim"] * sum(length * length for length in p["lengths"])


def race_kernel(row, at, engine, kernels, pace, budget):
    """{"group", "case", "shape", "parameters", "rows": [one for each contestant], "skipped", "wrong"}"""
    report = {key: row.get(key) for key in ("group", "case", "shape", "parameters", "note")}
    report |= {"rows": [], "skipped": [], "wrong": []}
    contestants = [Contestant("ropeway", lambda count: engine.run_row(at, count), None)]
    about = {"ropeway": {"same": True}}
    listed = kernels.peers(row)
    if not listed:
        report["skipped"].append(["torch", f"nothing to compare with {row['parameters']}"])
        return report
    for name, same, build in listed:
        try:
            with at_most(MOST_OF_IT * budget.left()):
                peer = build()
        except Unavailable as why:
            report["skipped"].append([name, str(why)])
            continue
        if not peer.right:
            report["wrong"].append(f"{name}: cosine {peer.cosine:.6f} to float32")
            continue
        contestants.append(peer)
        about[name] = {"same": same, "cosine": peer.cosine}
    times = race(contestants, pace)
    for name, result in times.items():
        micros = {key: 1e3 * result[key] for key in ("min", "max", "p50", "p99")} | {"median": 1e3 * result["ms"]}
        entry = {"name": name, **about[name], "micros": micros, "runs_per_round": result["runs_per_round"]}
        entry["tflops"] = flop(row) / micros["median"] / 1e6
        entry["ratio"] = result["ms"] / times["ropeway"]["ms"]
        report["rows"].append(entry)
    return report
