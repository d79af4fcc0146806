"""ropeway's bench binary as a child process that speaks one JSON line per request."""

import json
import selectors
import shlex
import subprocess
import tempfile

PATIENCE_S = 600


class EngineError(Exception):
    """The child died, stayed silent, or said something else than agreed."""


class Engine:
    """`command` is a list: a program and its arguments.

    It prints {"ready": true, "load_seconds", "peak_rss_bytes"}; then for a line with an integer N it runs the whole
    input set N times and prints {"seconds": [N numbers], "tokens", "peak_rss_bytes"}; for the line `vectors` it prints
    {"embeddings": [[…], …]}. One that serves kernels has {"rows": […]} in its first line, and for a line `I N` runs
    row I N times and prints {"micros": [N numbers]}. At the end of its input it exits.
    """

    def __init__(self, command, environment, patience=PATIENCE_S):
        self.command, self.patience = [str(word) for word in command], patience
        self.said = tempfile.TemporaryFile(mode="w+")
        try:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=environment
            )
        except OSError as error:
            raise EngineError(f"cannot run {self.command[0]}: {error.strerror}") from error
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.child.stdout, selectors.EVENT_READ)
        self.pending = b""
        self.ready = self._answer()
        if self.ready.get("ready") is not True:
            raise self._failure(f'expected a line with "ready": true, got {self.ready}')

    def run(self, count):
        """Seconds of each of `count` runs over all inputs."""
        answer = self._ask(str(count))
        seconds = answer.get("seconds")
        if not isinstance(seconds, list) or len(seconds) != count:
            raise self._failure(f"asked for {count} runs, got {json.dumps(answer)[:200]}")
        self.last = answer
        return seconds

    def run_row(self, row, count):
        """Seconds of each of `count` runs of one kernel."""
        answer = self._ask(f"{row} {count}")
        micros = answer.get("micros")
        if not isinstance(micros, list) or len(micros) != count:
            raise self._failure(f"asked for {count} runs of row {row}, got {json.dumps(answer)[:200]}")
        return [value / 1e6 for value in micros]

    def vectors(self):
        answer = self._ask("vectors")
        if "embeddings" not in answer:
            raise self._failure(f"asked for vectors, got {json.dumps(answer)[:200]}")
        return answer["embeddings"]

    def close(self):
        self.selector.close()
        self.child.stdin.close()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()
        self.said.close()

    def _ask(self, line):
        try:
            self.child.stdin.write(line.encode() + b"\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise self._failure("it has ended") from None
        return self._answer()

    def _answer(self):
        while b"\n" not in self.pending:
            if not self.selector.select(timeout=self.patience):
                self.child.kill()
                raise self._failure(f"no answer in {self.patience:.0f} s")
            # read1: what is there now; `read` would wait for more.
            block = self.child.stdout.read1(1 << 16)
            if not block:
                self.child.wait()
                raise self._failure(f"it ended with status {self.child.returncode}")
            self.pending += block
        line, _, self.pending = self.pending.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            raise self._failure(f"not a line of JSON: {line[:200]!r}") from None

    def _failure(self, what):
        self.said.seek(0)
        words = "".join(f"\n  {line.rstrip()}" for line in self.said.readlines()[-12:])
        return EngineError(f"{shlex.join(self.command)}: {what}{words}")
