"""The whole of `run`, with made-up programs in a made-up pack."""

import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

from measure.packed import ARCHIVE, MANIFEST, sha256

RUN = Path(__file__).parent.parent / "run"

# What WORK says happens to a bench of that name.
ROPEWAY = """\
#!/usr/bin/env python3
import json, os, sys, time
if sys.argv[1] == "devices":
    print(json.dumps({"kind": "cpu", "name": "cpu", "usable": True, "detail": ""}))
    gpu = {"kind": "cuda:0", "name": "Made-up GPU", "usable": "NO_GPU" not in os.environ, "detail": "no driver"}
    gpu |= {"uuid": os.environ.get("BOARD", "GPU-1"), "capability": "9.0", "memory": 1 << 30, "multiprocessors": 1, "simulated": False}
    print(json.dumps(gpu))
    sys.exit()
name = sys.argv[2]
assert os.path.isdir(sys.argv[sys.argv.index("-m") + 1])
work = json.loads(os.environ.get("WORK", "{}")).get(name)
if work == "hang":
    time.sleep(100)
if work == "hang after a row":
    row = {"group": name, "case": "first", "shape": "b", "micros": {"median": 2.0}}
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"rows": [row]}))
    print("a row", file=sys.stderr, flush=True)
    time.sleep(100)
if work == "crash":
    print("about to fail", file=sys.stderr, flush=True)
    os.abort()
row = {"group": name, "case": "a", "shape": "b", "parameters": {}, "micros": {"median": 2.0, "min": 1.0, "max": 3.0}}
print("# Rows\\n| case |")
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"rows": [] if work == "empty" else [row]}))
"""
MAKE_MODEL = """\
#!/usr/bin/env python3
import os, sys
os.mkdir(sys.argv[1])
"""


class Running(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.pack, self.out, self.scratch = (self.folder / name for name in ("pack", "out", "scratch"))
        self.pack.mkdir()
        self.scratch.mkdir()
        with tarfile.open(self.pack / ARCHIVE, "w:xz") as tar:
            for name, text in (("bin/ropeway", ROPEWAY), ("bin/make-model", MAKE_MODEL)):
                path = self.folder / "file"
                path.write_text(text)
                path.chmod(0o755)
                tar.add(path, name)
        self.manifest = {
            "commit": "0123456789abcdef", "dirty": False, "date": "2026-01-01", "profile": "release",
            "compiler": {"rustc": "rustc", "nvcc": "nvcc"}, "architecture": platform.machine(), "glibc": "2.2",
            "files": {ARCHIVE: {"bytes": 0, "sha256": sha256(self.pack / ARCHIVE)}}, "contents": {},
        }  # fmt: skip
        self.write_manifest()

    def write_manifest(self):
        (self.pack / MANIFEST).write_text(json.dumps(self.manifest))

    def start(self, *arguments, **variables):
        environment = {**os.environ, "TMPDIR": str(self.scratch), **variables}
        command = [sys.executable, RUN, self.pack, "--out", self.out, "--quick", *arguments]
        return subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run_it(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=60)
        self.assertEqual(list(self.scratch.iterdir()), [], "something was left")
        return process.returncode, out, err

    def stages(self):
        return json.loads((self.out / "report.json").read_text())["stages"]

    def outcomes(self):
        return {name: stage["outcome"] for name, stage in self.stages().items() if stage["outcome"] != "left out"}

    def test_what_hangs_or_fails_does_not_stop_the_others(self):
        # Of 6 s the first gets its share, 10 of 34.
        work = json.dumps({"kernels": "hang", "encoder": "crash"})
        status, out, _ = self.run_it("--only", "kernels,encoder,adapters", "--minutes", "0.1", WORK=work)
        self.assertEqual(status, 1)
        self.assertEqual(self.outcomes(), {"kernels": "timed out", "encoder": "failed", "adapters": "agreed"})
        stages = self.stages()
        self.assertAlmostEqual(stages["kernels"]["limit_seconds"], 6 * 10 / 34, delta=0.5)
        self.assertEqual(stages["encoder"]["failures"][0]["how"], "ended by SIGABRT; no report")
        self.assertIn("about to fail", (self.out / "report.md").read_text())
        self.assertIn("adapters: agreed, 1 rows", out)
        self.assertIn("## adapters\n\n### Rows\n| case |", (self.out / "report.md").read_text())

    def test_a_stage_that_is_cut_has_the_rows_until_then(self):
        status, _, _ = self.run_it("--only", "kernels", "--minutes", "0.05", WORK='{"kernels": "hang after a row"}')
        self.assertEqual((status, self.outcomes()), (1, {"kernels": "timed out"}))
        self.assertTrue(self.stages()["kernels"]["note"].endswith("; 1 rows"))
        self.assertIn("| kernels | first | b | 2.0 |", (self.out / "report.md").read_text())
        with tarfile.open(self.out / "logs.tar.gz") as tar:
            self.assertIn("logs/kernels.json", tar.getnames())

    def test_rows_are_wanted(self):
        self.assertEqual(self.run_it("--only", "kernels", WORK='{"kernels": "empty"}')[0], 1)
        self.assertEqual(self.outcomes(), {"kernels": "failed"})

    def test_without_time_stages_are_cut_and_nothing_has_failed(self):
        status, out, _ = self.run_it("--only", "kernels,parity", "--minutes", "0.001")
        self.assertEqual((status, self.outcomes()), (0, {"kernels": "cut", "parity": "cut"}))
        self.assertIn("kernels: cut, its part of the time was 0 s", out)

    def test_a_report_is_added_to(self):
        self.run_it("--only", "kernels")
        self.run_it("--only", "encoder", "--add")
        self.assertEqual(self.outcomes(), {"kernels": "agreed", "encoder": "agreed"})
        self.assertNotIn("boards", (self.out / "report.md").read_text())
        # On another machine of the kind.
        self.run_it("--only", "adapters", "--add", BOARD="GPU-2")
        self.assertEqual(self.outcomes(), {"kernels": "agreed", "encoder": "agreed", "adapters": "agreed"})
        self.assertEqual([self.stages()[name]["uuid"] for name in ("encoder", "adapters")], ["GPU-1", "GPU-2"])
        said = "2 boards of the same name**: kernels on GPU-1, encoder on GPU-1, adapters on GPU-2."
        self.assertIn(said, (self.out / "report.md").read_text())
        self.run_it("--only", "adapters")
        self.assertEqual(self.outcomes(), {"adapters": "agreed"})
        self.manifest["commit"] = "another"
        self.write_manifest()
        status, _, err = self.run_it("--only", "encoder", "--add")
        self.assertEqual(status, 2)
        self.assertIn("is of another pack", err)

    def test_ended_from_outside_it_leaves_a_report(self):
        process = self.start("--only", "kernels,encoder,adapters", WORK='{"encoder": "hang after a row"}')
        log = self.out / "logs/encoder.err"
        while not (log.exists() and log.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(self.outcomes(), {"kernels": "agreed", "encoder": "cut", "adapters": "cut"})
        self.assertEqual(self.stages()["encoder"]["note"], "ended from outside; 1 rows")
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_what_cannot_run_says_why(self):
        def refused(words, *arguments, **variables):
            status, _, err = self.run_it(*arguments, **variables)
            self.assertEqual(status, 2, err)
            self.assertIn(words, err)

        refused("no GPU can be used: no driver", NO_GPU="1")
        refused("no stage is named nowhere; there are driver, tests, kernels", "--only", "nowhere")
        refused("--minutes 0 is no time", "--minutes", "0")
        self.manifest["glibc"] = "2.999"
        self.write_manifest()
        refused("the pack needs glibc 2.999")
        self.manifest.update(glibc="2.2", architecture="pdp11")
        self.write_manifest()
        refused("the pack is for pdp11")
        self.manifest["architecture"] = platform.machine()
        self.manifest["files"][ARCHIVE]["sha256"] = "0"
        self.write_manifest()
        refused("is not as it was packed; copy the pack again")
        (self.pack / MANIFEST).unlink()
        refused("is not what tools/gpu/pack makes")
