"""Timing contestants against each other: round-robin, so that a slow minute of the machine hits all of them."""

import math
import statistics
import time

# A round of one contestant takes at least this long, so that a timer's or scheduler's tick is small in it.
ROUND_S = 0.3
# Between contestants: thread pools spin for a while after their work and would slow down the next one.
PAUSE_S = 0.2


class Contestant:
    """Something that runs all inputs of a case `count` times and says how long each run took, in seconds."""

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


def fastest(candidates):
    """Of several ways to do the same, the one with the least best time. What a careful user would pick."""
    if len(candidates) == 1:
        return candidates[0]
    best = {}
    for _ in range(2):
        for candidate in candidates:
            candidate.run(1)
            time.sleep(PAUSE_S)
            best[candidate] = min(best.get(candidate, math.inf), *candidate.run(2))
    return min(candidates, key=best.get)


def race(contestants, rounds):
    """{name: {"ms": median over rounds, "min", "max", "rounds": [ms of each], "runs_per_round"}}"""
    counts = {}
    for contestant in contestants:
        contestant.run(2)
        once = min(contestant.run(3))
        counts[contestant] = max(1, math.ceil(ROUND_S / once))
    results = {contestant: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(PAUSE_S)
            contestant.run(1)
            seconds = contestant.run(counts[contestant])
            results[contestant].append(1e3 * sum(seconds) / len(seconds))
    return {
        contestant.name: {
            "ms": statistics.median(times),
            "min": min(times),
            "max": max(times),
            "rounds": times,
            "runs_per_round": counts[contestant],
        }
        for contestant, times in results.items()
    }


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
