"""The command line of `run`: unpacks, goes through the stages, and writes the report after each of them."""

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from . import facts, packed, process, rehearsal, report, targets
from .packed import Unusable
from .stages import QUICK_MODEL, STAGES, interrupted

# Of the disk, for the model at full size in both layouts and what is unpacked.
SCRATCH_BYTES = 3 << 30
# Neither is a reason to fail: the time was over, or something is not installed here.
HARMLESS = ("agreed", "cut", "missing", "left out")


class Context:
    """What the stages work with."""

    def __init__(self, arguments, files, environment):
        self.quick = arguments.quick
        self.out = arguments.out
        self.files = files
        self.here = Path(__file__).resolve().parent.parent
        self.peers = files / "peers/gpu"
        self.began = self.deadline = time.monotonic()
        self.models = set()
        self.simulated = True
        self.capability = None
        scratch = files / "scratch"
        scratch.mkdir()
        self.environment = {
            **environment,
            "ROPEWAY_GPU_TESTS": "require",
            "ROPEWAY_TEST_ROOT": str(files),
            "ROPEWAY_TEST_BINARY": str(self.program("ropeway")),
            "ROPEWAY_TEST_SCRATCH": str(scratch),
            # A shell's settings must not change what is measured.
            "HF_HUB_OFFLINE": "1",
        }
        for name in ("ROPEWAY_MODEL", "ROPEWAY_TEST_ALL", "RUST_TEST_THREADS"):
            self.environment.pop(name, None)

    def program(self, name):
        return self.files / "bin" / name

    def log(self, name):
        return self.out / "logs" / name

    def flags(self):
        return ["--quick"] if self.quick else []

    def begin(self, limit):
        """A stage begins, which has so many seconds."""
        self.began = time.monotonic()
        self.deadline = self.began + limit

    def elapsed(self):
        """Seconds since the stage began."""
        return time.monotonic() - self.began

    def left(self):
        """Seconds that the stage still has."""
        return self.deadline - time.monotonic()

    def model(self, layout="hub"):
        """A random jina-embeddings-v3 at full size, in one of its layouts; made when it is first asked for.

        From `files`, where the benches run: reports tell its name.
        """
        path = f"./random-{'small' if self.quick else 'full-size'}-jina-{layout}"
        if path not in self.models:
            command = [self.program("make-model"), self.files / path, "--layout", layout]
            command += QUICK_MODEL if self.quick else []
            ended = process.run(command, self.left(), self.log(f"make-model-{layout}"), self.environment)
            if ended.status != 0:
                raise RuntimeError(f"make-model: {ended.how}\n{ended.tail()}")
            self.models.add(path)
        return path


def parse(usage, arguments):
    stages = "\n".join(f"  {stage.name:<11} {stage.title}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="run",
        usage=argparse.SUPPRESS,
        description=usage,
        epilog=f"stages, in this order:\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, help="what tools/gpu/pack made [the folder of this program]")
    parser.add_argument("--minutes", type=float, default=25, help="for everything together [25]")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder for the report [gpu-report]")
    parser.add_argument("--quick", action="store_true", help="a small model, the smallest shapes, a few tests")
    parser.add_argument("--only", metavar="STAGE,...", help="these stages alone")
    parser.add_argument("--add", action="store_true", help="keep what the report in DIR has of the other stages")
    given = parser.parse_args(arguments)
    names = [stage.name for stage in STAGES]
    given.only = given.only.split(",") if given.only else names
    unknown = [name for name in given.only if name not in names]
    if unknown:
        raise Unusable(f"no stage is named {', '.join(unknown)}; there are {', '.join(names)}")
    if not given.minutes > 0:
        raise Unusable(f"--minutes {given.minutes:g} is no time")
    given.folder = (given.folder or Path(__file__).parent.parent).resolve()
    given.out = given.out.resolve()
    return given


def main(usage):
    # Ended from outside, it still ends what it started and leaves its report.
    signal.signal(signal.SIGTERM, interrupt)
    end = time.monotonic()
    files = None
    try:
        given = parse(usage, None)
        end += 60 * given.minutes
        manifest = packed.manifest(given.folder)
        packed.check_machine(manifest)
        given.out.mkdir(parents=True, exist_ok=True)
        files = Path(tempfile.mkdtemp(prefix="ropeway-"))
        return measure(given, manifest, files, end)
    except Unusable as problem:
        print(f"run: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run: interrupted", file=sys.stderr)
        return 2
    finally:
        if files is not None:
            shutil.rmtree(files, ignore_errors=True)


def interrupt(*_):
    raise KeyboardInterrupt


def measure(given, manifest, files, end):
    free = shutil.disk_usage(files).free
    if free < SCRATCH_BYTES and not given.quick:
        has, needed = free >> 20, SCRATCH_BYTES >> 20
        raise Unusable(f"{files.parent} has {has} MiB free, and {needed} are needed; TMPDIR names another place")
    packed.unpack(given.folder, manifest, files)
    context = Context(given, files, facts.environment())
    found, problem = facts.device(context.program("ropeway"), context.environment)
    if found is None:
        raise Unusable(f"no GPU can be used: {problem}")
    made = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "pack": {key: value for key, value in manifest.items() if key not in ("files", "contents")},
        "facts": facts.gather(found, context.environment),
        "simulated": found["simulated"],
        "quick": given.quick,
        "minutes": given.minutes,
    }
    chosen = [stage for stage in STAGES if stage.name in given.only]
    made["stages"] = {stage.name: {"outcome": "left out", "note": "not asked for"} for stage in STAGES}
    if given.add:
        made["stages"].update(earlier(given.out / "report.json", made))
    for stage in chosen:
        made["stages"][stage.name] = {"outcome": "cut", "note": "the run ended before it"}
    context.simulated = made["simulated"]
    context.capability = found["capability"]
    say(f"{found['name']}, {given.minutes:g} minutes, the report goes to {given.out}")
    if made["simulated"]:
        say("this is a rehearsal: the device is software, times mean nothing and are not reported")
    status = 0
    for at, stage in enumerate(chosen):
        left = end - time.monotonic()
        limit = left * stage.share / sum(later.share for later in chosen[at:])
        try:
            result = run_stage(context, stage, limit, found.get("uuid"))
        except KeyboardInterrupt:
            result = interrupted(context, stage)
            end = 0
        made["stages"][stage.name] = result
        say(f"{stage.name}: {result['outcome']}, {result['note']} ({context.elapsed():.0f} of {max(limit, 0):.0f} s)")
        if result["outcome"] not in HARMLESS:
            status = 1
        write(given.out, made)
        pack_logs(given.out)
    say(f"{given.out / 'report.md'}")
    return status


def run_stage(context, stage, limit, uuid):
    context.begin(limit)
    least = 1 if context.quick else stage.least
    if limit < least:
        note = f"its part of the time was {max(limit, 0):.0f} s, and it takes {least} s at least"
        return {"outcome": "cut", "note": note}
    say(f"{stage.name}: {stage.title} …")
    # Of an earlier run.
    context.log(f"{stage.name}.json").unlink(missing_ok=True)
    before = facts.moment(uuid, context.environment)
    try:
        result = stage.run(context)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first, _, rest = f"{error}".partition("\n")
        failure = {"name": stage.name, "outcome": "failed", "how": first, "tail": rest}
        result = {"outcome": "failed", "note": first, "failures": [failure]}
    result["seconds"] = round(context.elapsed(), 1)
    result["limit_seconds"] = round(limit, 1)
    result["uuid"] = uuid
    result["before"] = before
    result["after"] = facts.moment(uuid, context.environment)
    return result


def earlier(path, now):
    """The stages of an earlier report, which must be of the same programs on a device of the same name."""
    try:
        was = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Unusable(f"--add: {path}: {error}")

    def of(made):
        # Another board of the same model will do, where machines are lent for minutes: each stage has its board's UUID.
        return made["pack"]["commit"], made["pack"]["date"], made["facts"]["device"]["name"], made["quick"]

    if of(was) != of(now):
        raise Unusable(f"--add: {path} is of another pack, device or --quick: take another --out")
    return was["stages"]


def write(out, made):
    """Both reports; under another name first, so that what is there is whole."""
    if made["simulated"]:
        shown = rehearsal.without_times(made)
    else:
        # The targets are about the model at full size.
        shown = {**made, "targets": targets.judge({} if made["quick"] else made["stages"])}
    for name, text in (
        ("report.json", json.dumps(shown, indent=1, ensure_ascii=False) + "\n"),
        ("report.md", report.markdown(shown)),
    ):
        aside = out / f".{name}"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, out / name)


def pack_logs(out):
    """All logs in one file, for ways back that take a few files only."""
    aside = out / ".logs.tar.gz"
    with tarfile.open(aside, "w:gz") as tar:
        for name in ("logs", "softcuda-parity"):
            if (out / name).exists():
                tar.add(out / name, name)
    os.replace(aside, out / "logs.tar.gz")


def say(line):
    print(line, flush=True)
