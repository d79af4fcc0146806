"""Commands with a time limit."""

import os
import subprocess
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

    def test_a_command_ends_with_the_one_that_runs_it(self):
        """Killed, the runner can end nothing itself."""
        mark = Path(self.folder.name) / "mark"
        command = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        program = f"""
import sys
sys.path.insert(0, {str(Path(process.__file__).parent.parent)!r})
from pathlib import Path
from measure import process
process.run([sys.executable, "-c", {command!r}], 60, Path({str(self.log)!r}))
"""
        runner = subprocess.Popen([sys.executable, "-c", program])
        text = lambda: mark.read_text() if mark.exists() else ""
        self.wait_for(text)
        child = int(text())
        self.assertEqual(os.getpgid(child), child)
        self.assertEqual(os.getsid(child), os.getsid(0))
        runner.kill()
        runner.wait()
        self.wait_for(lambda: not self.runs(child))

    def wait_for(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, "it did not come to that")
            time.sleep(0.02)

    @staticmethod
    def runs(pid):
        """Whether it runs; what nobody has waited for does not."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def test_a_tail_is_the_end(self):
        ended = self.run_python("for i in range(100): print(i)")
        self.assertEqual(ended.tail(lines=2), "-- standard output\n98\n99")
