"""Commands with a time limit."""

import sys
import tempfile
import time
import unittest
from pathlib import Path

from measure import process


class Running(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.log = Path(self.folder.name) / "logs/command"

    def run_python(self, program, limit=20):
        return process.run([sys.executable, "-c", program], limit, self.log)

    def test_output_and_status(self):
        ended = self.run_python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
        self.assertEqual((ended.status, ended.how), (3, "exit status 3"))
        self.assertEqual(ended.tail(), "-- standard output\nout\n-- standard error\nerr")

    def test_a_signal_has_its_name(self):
        self.assertEqual(self.run_python("import os; os.abort()").how, "ended by SIGABRT")

    def test_a_limit_ends_children_too_and_keeps_the_output(self):
        beats = Path(self.folder.name) / "beats"
        child = f"""
import time
while True:
    open({str(beats)!r}, "a").write("x")
    time.sleep(0.05)
"""
        program = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {child!r}])
print("begun", flush=True)
time.sleep(60)
"""
        grace, process.GRACE_SECONDS = process.GRACE_SECONDS, 0.2
        try:
            ended = self.run_python(program, limit=2)
        finally:
            process.GRACE_SECONDS = grace
        self.assertTrue(ended.timed_out)
        self.assertIn("begun", ended.tail())
        count = beats.stat().st_size
        time.sleep(0.5)
        self.assertEqual(beats.stat().st_size, count, "the child outlived its parent")

    def test_a_tail_is_the_end(self):
        ended = self.run_python("for i in range(100): print(i)")
        self.assertEqual(ended.tail(lines=2), "-- standard output\n98\n99")
