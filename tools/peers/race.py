"""Timing contestants against each other: round-robin, so that a slow minute of the machine hits all of them."""

import math
import statistics
import time
from dataclasses import dataclass


class Unavailable(Exception):
    """A contestant that cannot take part here, and why."""

    @classmethod
    def because(cls, error):
        """Of whatever a library said, in one short line."""
        if isinstance(error, cls):
            return error
        words = " ".join(str(error).split())
        return cls(f"{type(error).__name__}: {words[:160]}{'…' * (len(words) > 160)}")


@dataclass(frozen=True)
class Pace:
    """How long and how often contestants run."""

    rounds: int = 5
    # A round of one contestant takes at least this long, so that a timer's or scheduler's tick is small in it.
    round_s: float = 0.3
    # Between contestants: thread pools spin for a while after their work and would slow down the next one.
    pause_s: float = 0.2
    least_runs: int = 1
    # Whether runs that nobody counts come first. A rehearsal, in which each run is slow, goes without.
    warm_up: bool = True


class Contestant:
    """Something that runs all inputs of a case `count` times and says how long each run took, in seconds.

    Where one is too short for a timer, a run is many of them and their mean.
    """

    def __init__(self, name, run, vectors):
        self.name, self.run, self.vectors = name, run, vectors


def timed(function):
    """A `run` for `Contestant` out of a function that goes over the inputs once."""

    def run(count):
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


def timed_on_device(launch, start, end, synchronize):
    """The same by the device's clock: two events around what `launch` submits."""

    def run(count):
        seconds = []
        for _ in range(count):
            # Untimed, and not waited for. On an idle stream `start` would happen at once, and the time until the host's
            # launch has arrived would count. ropeway's own kernels are timed like this.
            launch()
            start.record()
            launch()
            end.record()
            synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        return seconds

    return run


def fastest(candidates, pace=Pace()):
    """Of several ways to do the same, the one with the least best time. What a careful user would pick."""
    if len(candidates) == 1:
        return candidates[0]
    best = {}
    for _ in range(2 if pace.warm_up else 1):
        for candidate in candidates:
            if pace.warm_up:
                candidate.run(1)
            time.sleep(pace.pause_s)
            best[candidate] = min(best.get(candidate, math.inf), *candidate.run(2))
    return min(candidates, key=best.get)


def race(contestants, pace=Pace()):
    """{name: {"ms": median over rounds, "min", "max", "rounds": [ms of each], "runs_per_round",
    "p50", "p99": of all runs}}"""
    counts = {}
    for contestant in contestants:
        if pace.warm_up:
            contestant.run(2)
        once = min(contestant.run(3 if pace.warm_up else 1))
        counts[contestant] = max(pace.least_runs, math.ceil(pace.round_s / max(once, 1e-9)))
    runs = {contestant: [] for contestant in contestants}
    for _ in range(pace.rounds):
        for contestant in contestants:
            time.sleep(pace.pause_s)
            if pace.warm_up:
                contestant.run(1)
            runs[contestant].append([1e3 * seconds for seconds in contestant.run(counts[contestant])])
    return {contestant.name: summary(rounds, counts[contestant]) for contestant, rounds in runs.items()}


def summary(rounds, runs_per_round):
    """Of the milliseconds of each run of each round."""
    means = [statistics.fmean(times) for times in rounds]
    every = sorted(time for times in rounds for time in times)
    return {
        "ms": statistics.median(means),
        "min": min(means),
        "max": max(means),
        "p50": statistics.median(every),
        "p99": every[math.ceil(0.99 * len(every)) - 1],
        "rounds": means,
        "runs_per_round": runs_per_round,
    }


def ratio(theirs, ours):
    """The median over rounds of a peer's time over ours. On a shared machine the two of one round, seconds apart, had the
    same share of it; those of two rounds may not."""
    return statistics.median(peer / mine for peer, mine in zip(theirs["rounds"], ours["rounds"]))


def compare(ours, theirs):
    """How far two lists of vectors are apart: the largest difference of a value, the smallest cosine of a pair."""
    if [len(vector) for vector in ours] != [len(vector) for vector in theirs]:
        raise ValueError(
            f"ropeway and a peer differ in shape: {len(ours)} vectors of {len(ours[0])} values against"
            f" {len(theirs)} of {len(theirs[0])}"
        )
    difference, cosine = 0.0, 1.0
    for a, b in zip(ours, theirs):
        apart = max((abs(x - y) for x, y in zip(a, b)), key=lambda value: (math.isnan(value), value))
        # Once NaN, always NaN: max() alone would pass over it.
        difference = apart if math.isnan(apart) or apart > difference else difference
        length = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
        cosine = min(math.fsum(x * y for x, y in zip(a, b)) / length if length else 0.0, cosine)
    return {"max_abs": difference, "cosine": cosine}


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))
