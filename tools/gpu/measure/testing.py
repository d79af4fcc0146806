"""Runs a Rust test program so that one fault does not hide the other tests.

All at once first. If that does not end well, each test that has not succeeded runs again in a process of its own:
a kernel that faults spoils the device for the rest of its process, and a crash ends it.
"""

import re
import time

from . import process

# `test kernels::gemm::sums ... ok`
LINE = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", re.MULTILINE)
END = re.compile(r"^test result: (?:ok|FAILED)\.", re.MULTILINE)
SKIPPED = re.compile(r"^SKIPPED: (.*)$", re.MULTILINE)

OUTCOMES = ("ok", "alone", "failed", "crashed", "timed out", "unfinished")

# No test takes nearly as long on a GPU.
TEST_SECONDS = 120


class Tests:
    """The outcomes of one program's tests.

    `ok`, `alone` (succeeded in a process of its own, not in company), `failed`, `crashed`, `timed out`, and
    `unfinished` where the stage's time was over before the test's.
    """

    def __init__(self, program, environment, log):
        self.program = program
        self.environment = environment
        self.log = log
        self.outcomes = {}
        self.failures = []
        self.skipped = set()
        # How all of them together ended, and whether well.
        self.whole = None
        self.well = False

    def names(self):
        log = self.log.with_name(self.log.name + "-list")
        ended = process.run([self.program, "--list", "--format", "terse"], 60, log, self.environment)
        if ended.status != 0:
            raise RuntimeError(f"{self.program.name} --list: {ended.how}\n{ended.tail()}")
        return [line[: -len(": test")] for line in ended.stdout().splitlines() if line.endswith(": test")]

    def check(self, chosen):
        """These names, if they are all tests: those of none would run nothing, and succeed."""
        names = self.names()
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise RuntimeError(f"no such tests in {self.program.name}: {', '.join(unknown)}")
        return chosen

    def run(self, limit, chosen=None):
        """Runs the tests chosen, or all, within `limit` seconds."""
        deadline = time.monotonic() + limit
        names = self.names() if chosen is None else self.check(chosen)
        selection = [] if chosen is None else ["--exact", *chosen]
        # Half of the time is for one by one, where that turns out to be needed.
        ended = process.run([self.program, *selection], limit / 2, self.log, self.environment)
        text = ended.stdout()
        self.note_skipped(ended)
        seen = dict(LINE.findall(text))
        ignored = {name for name, outcome in seen.items() if outcome == "ignored"}
        self.outcomes = {name: "unfinished" for name in names if name not in ignored}
        self.outcomes.update({name: "ok" for name, outcome in seen.items() if outcome == "ok"})
        self.whole = ended
        self.well = ended.status == 0 and END.search(text) is not None
        if self.well:
            return
        # Failed ones first: what is wrong matters more than what did not get its turn.
        left = [name for name, outcome in self.outcomes.items() if outcome != "ok"]
        left.sort(key=lambda name: seen.get(name) != "FAILED")
        while left and deadline - time.monotonic() > 1:
            name = left.pop(0)
            time_left = deadline - time.monotonic()
            # One that hangs leaves something for the others.
            self.run_alone(name, min(TEST_SECONDS, time_left / 2 if left else time_left))

    def run_alone(self, name, limit):
        log = self.log.parent / self.log.name / name.replace("::", ".")
        ended = process.run([self.program, "--exact", name, "--test-threads=1"], limit, log, self.environment)
        self.note_skipped(ended)
        if ended.timed_out and limit < TEST_SECONDS:
            return
        if (name, "ignored") in LINE.findall(ended.stdout()):
            del self.outcomes[name]
            return
        if ended.timed_out:
            outcome = "timed out"
        elif ended.status == 0 and re.search(r"^test result: ok\. 1 passed", ended.stdout(), re.MULTILINE):
            outcome = "alone"
        else:
            outcome = "crashed" if ended.status < 0 else "failed"
        self.outcomes[name] = outcome
        if outcome != "alone":
            self.failures.append({"name": name, "outcome": outcome, "how": ended.how, "tail": ended.tail()})

    def note_skipped(self, ended):
        for text in (ended.stdout(), ended.stderr()):
            self.skipped.update(SKIPPED.findall(text))

    def count(self, outcome):
        return sum(found == outcome for found in self.outcomes.values())

    def result(self):
        """For the report."""
        counts = {outcome: self.count(outcome) for outcome in OUTCOMES}
        words = {"alone": "succeeded in a process of their own only"}
        said = ", ".join(f"{count} {words.get(outcome, outcome)}" for outcome, count in counts.items() if count)
        failures = list(self.failures)
        # Stopped in the middle, nothing may be wrong with it.
        if not failures and not self.well and not self.whole.timed_out:
            tail = self.whole.tail()
            failures.append({"name": "all together", "outcome": "failed", "how": self.whole.how, "tail": tail})
        if failures:
            outcome = "failed"
        elif counts["unfinished"]:
            outcome = "timed out"
        else:
            outcome = "agreed"
        if not self.well:
            said += f" (all together: {self.whole.how})"
        return {
            "outcome": outcome,
            "note": said,
            "counts": counts,
            "tests": self.outcomes,
            "skipped": sorted(self.skipped),
            "failures": failures,
        }
