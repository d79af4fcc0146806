"""Under softcuda everything is rehearsed but time, of which no figure may look like a result."""

from .stages import ROWS

STATEMENT = (
    "This is a rehearsal: the device is softcuda, which runs the kernels on the CPU. Nothing was measured; times, and"
    " what follows from them, are left out, and no target is judged."
)
# What is left of a stage, and of a row: what was run, and nothing of how long it took.
STAGE = ("outcome", "note", "counts", "tests", "tools", "skipped", "failures")
ROW = ("group", "case", "shape", "parameters")


def only(keys, mapping):
    return {key: mapping[key] for key in keys if key in mapping}


def without_times(made):
    """A report from which every time is gone: by what may stay, so that a new figure is gone as well."""
    stages = {}
    for name, stage in made["stages"].items():
        stages[name] = only(STAGE, stage)
        if stage.get("report"):
            lists = {key: rows for key, rows in stage["report"].items() if key in ROWS}
            stages[name]["report"] = {key: [only(ROW, row) for row in rows] for key, rows in lists.items()}
    return {**made, "rehearsal": STATEMENT, "stages": stages}
