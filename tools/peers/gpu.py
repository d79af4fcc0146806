"""Compares ropeway's GPU back end with PyTorch: the same checkpoint, inputs and GPU, in turn in one run.

Prints Markdown tables; a ratio is a peer's time over ropeway's, so above 1 ropeway is faster. Ends with status 1 where
something failed or computed something else, and with 3 where PyTorch or its GPU is missing and so nothing was run.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import cases
import gpu_report
from engine import EngineError
from gpu_race import Budget, Ropeway, flop, race_case, race_kernel
from race import Pace, Unavailable

NOT_RUN = 3
# No thread pool spins on after its work here, as on the CPU.
ENCODER_PACE = Pace(pause_s=0.02)
# A run of a kernel is a graph of launches, and ropeway goes through one that it does not count by itself.
KERNEL_PACE = Pace(round_s=0.0, pause_s=0.0, least_runs=10, warm_up=False)
REHEARSAL = Pace(rounds=1, round_s=0.0, pause_s=0.0, warm_up=False)
# Seconds that must be left for a step to begin. Room, not a measurement: a compiler's autotuning takes the most.
ROOM_S = {"case": 40, "kernels": 20, "compiled": 150}


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tools/peers/gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--ropeway", metavar="PATH", help="the ropeway binary, or a command")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a jina-embeddings-v3 checkpoint, either layout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--minutes", type=float, default=20, help="time for all of it, default %(default)s")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once: a rehearsal")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of PyTorch; cpu is a rehearsal")
    parser.add_argument("--self-test", action="store_true", help="try the harness alone, on made-up contestants")
    options = parser.parse_args(arguments)
    if not options.self_test and not (options.ropeway and options.model):
        parser.error("--ropeway PATH and --model DIR are needed")
    if options.ropeway:
        options.ropeway = [options.ropeway] if Path(options.ropeway).exists() else shlex.split(options.ropeway)
        if shutil.which(options.ropeway[0]) is None:
            parser.error(f"--ropeway: there is no program {options.ropeway[0]}")
    if options.minutes <= 0:
        parser.error("--minutes must be above 0")
    return options


def start(arguments):
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parse(arguments)
    if options.self_test:
        import gpu_selftest

        return gpu_selftest.main()
    environment = dict(os.environ)
    if options.device == "cpu":
        # torch must not look for a GPU: under softcuda it would find one that it cannot use. ropeway may.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        from torch_stack import Torch

        stack = Torch(options.device)
    except (ImportError, OSError) as error:
        return not_run(f"this Python has no PyTorch ({error}); tools/peers/README.md says what to install")
    except Unavailable as why:
        return not_run(why)
    return Run(options, environment, stack).all()


def not_run(why):
    print(f"peers: not run: {why}", file=sys.stderr)
    return NOT_RUN


class Run:
    """The steps, most important first, and the report that grows with them."""

    def __init__(self, options, environment, stack):
        """`stack` is what the peers stand on: a torch_stack.Torch, or a made-up one."""
        self.options, self.stack = options, stack
        self.budget = Budget(options.minutes)
        self.ropeway = Ropeway(options.ropeway, options.model, "cuda", environment, options.quick, self.budget)
        self.encoders = None
        self.report = {
            "peers": "gpu",
            "model": str(options.model),
            "minutes": options.minutes,
            "quick": options.quick,
            "device": stack.device(),
            "ropeway": {},
            "versions": stack.versions(),
            "end_to_end": [],
            "kernels": [],
            "skipped": [],
            "cut": [],
            "failed": [],
        }

    def all(self):
        try:
            self.find_device()
            planned = self.cases()
            for name, kind, step in self.steps(planned):
                room = 0 if self.options.quick else ROOM_S[kind]
                if self.budget.left() <= room:
                    self.report["cut"].append(name)
                    continue
                self.step(name, step)
        except KeyboardInterrupt:
            self.report["failed"].append(["the run", "interrupted; what follows was not measured"])
        self.save()
        print(gpu_report.markdown(self.report))
        wrong = [
            sentence for part in ("end_to_end", "kernels") for entry in self.report[part] for sentence in entry["wrong"]
        ]
        for sentence in [*wrong, *(f"{name}: {why}" for name, why in self.report["failed"])]:
            print(f"peers: {sentence}", file=sys.stderr)
        return 1 if wrong or self.report["failed"] else 0

    def step(self, name, step):
        print(f"peers: {name} ({self.budget.left() / 60:.1f} minutes left)", file=sys.stderr, flush=True)
        try:
            step()
        except Unavailable as why:
            self.report["skipped"].append([name, str(why)])
        except Exception as error:  # one step's failure is not the others'
            self.report["failed"].append([name, f"{type(error).__name__}: {error}"])
        # After each, so that a run that is killed has left what it measured.
        self.save()

    def save(self):
        if self.options.json:
            unfinished = self.options.json.with_name(self.options.json.name + ".unfinished")
            unfinished.write_text(json.dumps(self.report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            unfinished.replace(self.options.json)

    # ---- what there is to run -----------------------------------------------------------------------------------

    def find_device(self):
        """ropeway's device: the GPU; in a rehearsal softcuda where there is one, else the CPU."""
        if self.options.device == "cpu":
            one = cases.Case("one input", None, [{"input_ids": [0, 5, 2]}], 3)
            try:
                with self.ropeway.encoder(one):
                    pass
            except EngineError:
                self.ropeway.device = "cpu"
        self.report["ropeway"] = self.ropeway.about()

    def cases(self):
        """{key: Case}; none where transformers or the model is not to be had, and the report says so."""
        try:
            about, self.encoders = self.stack.encoders(self.options.model, self.pace(ENCODER_PACE))
        except (ImportError, Unavailable) as why:
            self.report["skipped"].append(["end to end", str(why)])
            return {}
        except Exception as error:  # transformers' own words on a checkpoint that it does not take
            self.report["failed"].append(["end to end", f"{type(error).__name__}: {error}"])
            return {}
        return cases.on_gpu(about.vocabulary, about.most_tokens, about.tasks, self.options.quick)

    def steps(self, planned):
        """Yields (name, kind, function)."""

        def case(key, compiled=False):
            found = planned[key]
            name = f"{found.name}, compiled" if compiled else found.name
            return name, "compiled" if compiled else "case", lambda: self.encode(found, compiled)

        single = [key for key in planned if key.startswith("1x")]
        several = [key for key in planned if key[0].isdigit() and key not in single]
        if planned:
            yield case("mixed")
        yield "linear layers", "kernels", lambda: self.kernels("gemm")
        for key in [*single[:1], *several]:
            yield case(key)
        yield "attention", "kernels", lambda: self.kernels("attention")
        for key in [*single[1:], *(key for key in ("task", "tasks") if key in planned)]:
            yield case(key)
        # Compiling takes longer than all the rest; one graph is enough for a rehearsal.
        for key in (
            single[:1] if self.options.quick else [key for key in ("mixed", *several, *single) if key in planned]
        ):
            yield case(key, compiled=True)

    def pace(self, usual):
        return REHEARSAL if self.options.quick else usual

    def encode(self, case, compiled):
        ways = self.encoders.ways(case, compiled)
        try:
            self.report["end_to_end"].append(
                {"compiled": compiled}
                | race_case(case, ways, self.encoders, self.ropeway, self.pace(ENCODER_PACE), self.budget)
            )
        finally:
            self.encoders.free()

    def kernels(self, group):
        if self.ropeway.device == "cpu":
            raise Unavailable("ropeway runs on the CPU here, which has none of its kernels")
        peers = self.stack.kernels()
        with self.ropeway.kernels() as engine:
            rows = [(at, row) for at, row in enumerate(engine.ready.get("rows", [])) if row["group"] == group]
            # What takes longest matters most, and is measured first.
            for at, row in sorted(rows, key=lambda numbered: flop(numbered[1]), reverse=True):
                if self.budget.left() <= (0 if self.options.quick else ROOM_S["kernels"]):
                    self.report["cut"].append(f"{row['case']}, {row['shape']}")
                    continue
                self.report["kernels"].append(race_kernel(row, at, engine, peers, self.pace(KERNEL_PACE), self.budget))
                peers.free()
