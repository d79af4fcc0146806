"""Commands with a time limit, whose whole output is kept in files."""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

# Loaded here: little may be done between fork and exec.
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

# Between asking a process to end and ending it.
GRACE_SECONDS = 3


class Ended:
    """How a command ended: `status` is as subprocess has it, None where it was stopped at its limit."""

    def __init__(self, status, seconds, out, err):
        self.status = status
        self.seconds = seconds
        self.out = out
        self.err = err

    @property
    def timed_out(self):
        return self.status is None

    @property
    def how(self):
        """In words."""
        if self.timed_out:
            return f"stopped after {self.seconds:.0f} s"
        if self.status < 0:
            return f"ended by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    def stdout(self):
        return self.out.read_text(errors="replace")

    def stderr(self):
        return self.err.read_text(errors="replace")

    def tail(self, lines=30, width=400):
        """The ends of both outputs, for a report."""
        parts = []
        for name, text in (("standard output", self.stdout()), ("standard error", self.stderr())):
            text = text.strip()
            if text:
                last = [line[:width] for line in text.splitlines()[-lines:]]
                parts.append("\n".join([f"-- {name}", *last]))
        return "\n".join(parts)


def run(command, limit, log, environment=None, folder=None):
    """Runs a command for `limit` seconds at most. Its output goes to LOG.out and LOG.err. OSError: not started.

    It leads a process group of its own, and the whole group is ended with it: a hanging kernel's children too. It stays in
    this process's session, and is killed where this process ends without having waited for it: it would keep the GPU busy
    under the next command's measurements.
    """
    parent = os.getpid()

    def before_exec():
        os.setpgid(0, 0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before that was asked for.
        if os.getppid() != parent:
            os._exit(1)

    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = (Path(f"{log}.{end}") for end in ("out", "err"))
    began = time.monotonic()
    with open(out, "wb") as to_out, open(err, "wb") as to_err:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=to_err,
            env=environment,
            cwd=folder,
            preexec_fn=before_exec,
        )
        try:
            status = process.wait(max(limit, 0))
        except subprocess.TimeoutExpired:
            status = None
            end(process)
        except BaseException:
            end(process)
            raise
    return Ended(status, time.monotonic() - began, out, err)


def end(process):
    """Ends a process and all that it started, which may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
