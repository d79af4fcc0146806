"""From the report's JSON to Markdown for people."""

from .stages import ROWS

TAIL_LINES = 40

BENCHES = "kernels kernels-sm90 encoder encoder-sm90 encoder-sm90-dependent adapters peers".split()


def markdown(report):
    """The whole report; sections that have nothing to say are left out."""
    sections = [head(report), first_marks(report), what_ran(report), failures(report)]
    sections += [bench(name, report["stages"].get(name, {})) for name in BENCHES]
    sections.append(conditions(report))
    return "\n\n".join(section for section in sections if section) + "\n"


def head(report):
    facts, pack = report["facts"], report["pack"]
    device, smi = facts["device"], facts["nvidia_smi"] or {}
    lines = [f"# ropeway on {device['name']}"]
    if report.get("rehearsal"):
        lines += [f"**{report['rehearsal']}**"]
    capability = f"compute capability {device['capability']}, {device['multiprocessors']} multiprocessors"
    gpu = f"{device['name']}: {capability}, {device['memory'] / 2**30:.0f} GiB"
    built = f"{commit(pack)}, {pack['profile']}, {pack['compiler']['rustc']}, {pack['compiler']['nvcc']}"
    quick = ", --quick: a small model, few tests" if report["quick"] else ""
    rows = [("GPU", gpu)]
    if smi:
        rows += [
            ("driver", f"{smi['driver']}, CUDA {smi['cuda']}"),
            ("clocks at most", f"SM {smi['max_sm_clock']}, memory {smi['max_memory_clock']}"),
            ("power limit", smi["power_limit"]),
            ("ECC, MIG, persistence", ", ".join(smi[name] or "unknown" for name in ("ecc", "mig", "persistence"))),
        ]
    else:
        rows.append(("driver, clocks, power, temperature", "unknown: there is no nvidia-smi"))
    rows += [
        ("CPU", f"{facts['cpu']['name']}, {facts['cpu']['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB"),
        ("system", f"{facts['system']}, Python {facts['python']}"),
        ("built", built),
        ("run", f"{report['date']}, {report['minutes']:g} minutes given{quick}"),
    ]
    return "\n\n".join(lines + [table(("", ""), rows)])


def commit(pack):
    return f"commit {pack['commit'][:12]}" + (" with changes that are in no commit" if pack["dirty"] else "")


def first_marks(report):
    if not report.get("targets"):
        return None
    rows = []
    for target in report["targets"]:
        measured = "–"
        if target["measured"] is not None:
            measured = f"{target['measured']:.4g} {target['unit']} ({target['of']})"
        verdict = target["verdict"] if target["verdict"] == "met" else f"**{target['verdict']}**"
        rows.append((target["target"], target["wanted"], measured, verdict))
    text = "## Targets\n\n"
    if report["quick"]:
        text += "A small model was measured, which the targets are not about. "
    return text + "Of several rows the worst counts.\n\n" + table(("target", "wanted", "measured", ""), rows)


def what_ran(report):
    rows = []
    for name, stage in report["stages"].items():
        outcome = stage["outcome"] if stage["outcome"] in ("agreed", "left out") else f"**{stage['outcome']}**"
        took = f"{stage['seconds']:.0f} of {stage['limit_seconds']:.0f}" if "seconds" in stage else None
        rows.append((name, outcome, took, stage["note"]))
    text = "## What ran\n\n" + table(("stage", "", "seconds", ""), rows)
    boards = {stage["uuid"] for stage in report["stages"].values() if stage.get("uuid")}
    if len(boards) > 1:
        stages = [f"{name} on {stage['uuid']}" for name, stage in report["stages"].items() if stage.get("uuid")]
        text += f"\n\n**{len(boards)} boards of the same name**: {', '.join(stages)}."
    for name, stage in report["stages"].items():
        if stage.get("skipped"):
            text += f"\n\nSkipped in {name}:\n\n" + "\n".join(f"- {line}" for line in stage["skipped"])
    return text


def failures(report):
    found = [(name, failure) for name, stage in report["stages"].items() for failure in stage.get("failures", ())]
    if not found:
        return None
    parts = ["## Failures"]
    for name, failure in found:
        parts.append(f"### {name}: {failure['name']}\n\n{failure['outcome']}, {failure['how']}")
        if failure["tail"]:
            lines = failure["tail"].splitlines()[-TAIL_LINES:]
            # A fence longer than any in the output.
            parts.append("\n".join(["`````text", *lines, "`````"]))
    return "\n\n".join(parts)


def bench(name, stage):
    """The tables that the bench itself made of its rows, their heads below ours; of a cut one, the rows that it had."""
    if not stage.get("tables"):
        return rows_so_far(name, stage)
    lines = ["##" + line if line.startswith("#") else line for line in stage["tables"].strip().splitlines()]
    return "\n".join([f"## {name}", "", *lines])


def rows_so_far(name, stage):
    rows = [row for key in ROWS for row in (stage.get("report") or {}).get(key, ())]
    if not rows:
        return None
    times = [row.get("micros", {}).get("median") for row in rows]
    lines = [
        (row.get("group"), row.get("case"), row.get("shape"), None if time is None else f"{time:.1f}")
        for row, time in zip(rows, times)
    ]
    heads = ("group", "case", "shape", "µs: median")
    if not any(times):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    return f"## {name}\n\nIt was ended before it had made its tables. The rows until then:\n\n" + table(heads, lines)


def conditions(report):
    """Clocks and temperature around the stages: whether the GPU was held back."""
    rows = []
    for name, stage in report["stages"].items():
        for when in ("before", "after"):
            now = stage.get(when)
            if now:
                rows.append(
                    (f"{when} {name}", now["temperature"], now["sm_clock"], now["memory_clock"], now["power"],
                     now["utilisation"], now["memory_used"], ", ".join(now["clocks_held_by"]))
                )
    if not rows:
        return None
    heads = ("", "temperature", "SM clock", "memory clock", "power", "busy", "memory used", "clocks held down by")
    return "## Conditions\n\n" + table(heads, rows)


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text):
    return "–" if text is None else str(text).replace("|", "\\|").replace("\n", " ")
