"""Running tests so that one fault does not hide the others: with a made-up test program."""

import os
import tempfile
import unittest
from pathlib import Path

from measure import testing

# As libtest speaks: each of TESTS is a line of Python, run in turn.
PROGRAM = """\
#!/usr/bin/env python3
import os, sys, time
TESTS = {tests!r}
words = [word for word in sys.argv[1:] if not word.startswith("--")]
names = [name for name in TESTS if "--exact" not in sys.argv or name in words]
if "--list" in sys.argv:
    sys.exit(print("\\n".join(f"{{name}}: test" for name in TESTS)))
together = len(names) > 1
failed = ignored = 0
for name in names:
    outcome = "ok"
    exec(TESTS[name])
    failed += outcome == "FAILED"
    ignored += outcome == "ignored"
    print(f"test {{name}} ... {{outcome}}", flush=True)
passed = len(names) - failed - ignored
print(f"test result: {{'FAILED' if failed else 'ok'}}. {{passed}} passed; {{failed}} failed; {{ignored}} ignored")
sys.exit(101 if failed else 0)
"""
CRASH = "os.abort()"
FAIL = "outcome = 'FAILED'; print('expected 1, found 2')"


class Running(unittest.TestCase):
    def run_tests(self, tests, limit=20, chosen=None):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "tests"
            program.write_text(PROGRAM.format(tests=tests))
            program.chmod(0o755)
            running = testing.Tests(program, dict(os.environ), Path(folder) / "log")
            running.run(limit, chosen)
            return running.result()

    def test_all_well(self):
        result = self.run_tests({"a::b": "pass", "c": "outcome = 'ignored'", "d": "print('SKIPPED: no model')"})
        self.assertEqual(result["outcome"], "agreed")
        self.assertEqual(result["note"], "2 ok")
        self.assertEqual(result["tests"], {"a::b": "ok", "d": "ok"})
        self.assertEqual(result["skipped"], ["no model"])

    def test_one_that_has_to_panic_is_one_of_them(self):
        result = self.run_tests({"a": "pass", "b": "name += ' - should panic'"})
        self.assertEqual(result["tests"], {"a": "ok", "b": "ok"})

    def test_a_crash_hides_nothing(self):
        result = self.run_tests({"a": "pass", "b": CRASH, "c": "pass", "d": FAIL, "e": "outcome = 'ignored'"})
        self.assertEqual(result["outcome"], "failed")
        self.assertEqual(result["tests"], {"a": "ok", "b": "crashed", "c": "alone", "d": "failed"})
        self.assertEqual([failure["name"] for failure in result["failures"]], ["b", "d"])
        self.assertEqual(result["failures"][0]["how"], "ended by SIGABRT")
        self.assertIn("expected 1, found 2", result["failures"][1]["tail"])

    def test_what_fails_in_company_alone_is_a_failure(self):
        result = self.run_tests({"a": "pass", "b": "outcome = 'FAILED' if together else 'ok'"})
        self.assertEqual(result["outcome"], "failed")
        self.assertEqual(result["tests"], {"a": "ok", "b": "alone"})
        self.assertEqual([failure["name"] for failure in result["failures"]], ["all together"])

    def test_a_test_that_hangs_costs_its_own_time_only(self):
        was, testing.TEST_SECONDS = testing.TEST_SECONDS, 2
        try:
            result = self.run_tests({"a": "pass", "b": "time.sleep(60)", "c": "pass"}, limit=12)
        finally:
            testing.TEST_SECONDS = was
        self.assertEqual(result["outcome"], "failed")
        self.assertEqual(result["tests"], {"a": "ok", "b": "timed out", "c": "alone"})

    def test_what_had_no_time_is_told(self):
        result = self.run_tests({"a": "pass", "b": "time.sleep(60)", "c": "pass", "d": "time.sleep(60)"}, limit=8)
        self.assertEqual(result["outcome"], "timed out")
        self.assertEqual(result["tests"], {"a": "ok", "b": "unfinished", "c": "alone", "d": "unfinished"})
        self.assertIn("1 ok, 1 succeeded in a process of their own only, 2 unfinished", result["note"])

    def test_only_the_chosen_ones_run(self):
        result = self.run_tests({"a": "pass", "b": FAIL}, chosen=["a"])
        self.assertEqual((result["outcome"], result["tests"]), ("agreed", {"a": "ok"}))

    def test_a_chosen_test_that_is_none_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "no such tests in tests: nowhere"):
            self.run_tests({"a": "pass"}, chosen=["nowhere"])
