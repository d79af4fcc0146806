"""The report of tools/peers/gpu as Markdown."""

from race import geometric_mean

MEANINGLESS = (
    "**A rehearsal: without a GPU for ropeway or for PyTorch, or at the smallest sizes only. No time and no ratio here"
    " means anything.**"
)


def means_nothing(report):
    return report["quick"] or report["device"]["kind"] == "cpu"


def markdown(report):
    about = report["device"]
    parts = ["## PyTorch beside ropeway", MEANINGLESS] if means_nothing(report) else ["## PyTorch beside ropeway"]
    asked = {"driver_version": "driver", "clocks.sm": "clock", "clocks.mem": "of memory", "power.limit": "power limit"}
    machine = [about["name"], *(f"{name} {about[key]}" for key, name in asked.items() if key in about)]
    machine += [f"{name} {number}" for name, number in report["versions"].items() if number]
    engine = report["ropeway"].get("version") or "ropeway"
    machine += [f"{engine} on {report['ropeway'].get('device')}", f"model {report['model']}"]
    parts.append("; ".join(machine) + ".")
    if report["end_to_end"]:
        parts += [summary(report["end_to_end"]), end_to_end(report["end_to_end"])]
    for group, title in (("gemm", "Linear layers"), ("attention", "Attention")):
        rows = [row for row in report["kernels"] if row["group"] == group]
        if rows:
            parts.append(kernels(rows, title))
    parts.append(left_out(report))
    return "\n\n".join(part for part in parts if part)


def peers_of(entry):
    return [row for row in entry["rows"] if row["way"] != "ropeway"]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def summary(entries):
    """A line for each case: PyTorch as it comes, and the fastest way of all. Each ratio is from one race."""
    cases = {}
    for entry in entries:
        cases.setdefault(entry["case"], []).extend((row, entry) for row in peers_of(entry))
    rows, ratios = [], []
    for case, found in cases.items():
        if not found:
            continue
        plain = [f"{row['ratio']:.2f}" for row, _ in found if row["way"] == "eager, SDPA, padded"]
        best, entry = min(found, key=lambda pair: pair[0]["ratio"])
        ours = next(row for row in entry["rows"] if row["way"] == "ropeway")
        ratios.append(best["ratio"])
        rows.append([case, f"{ours['ms']:.3f}", *(plain or ["–"]), f"{best['ratio']:.2f}", best["way"]])
    if not rows:
        return ""
    head = ["case", "ropeway ms", "× eager, SDPA, padded", "× the fastest", "which is"]
    mean = f"Geometric mean of {len(ratios)} ratios to the fastest: {geometric_mean(ratios):.2f}"
    worst = f"the least {min(ratios):.2f}"
    title = "### End to end: ids in, normalised mean vectors out"
    return "\n\n".join([title, table(head, rows), f"{mean}, {worst}."])


def end_to_end(entries):
    rows = []
    for entry in entries:
        for row in entry["rows"]:
            ours, one = row["way"] == "ropeway", row["setting"] in (None, "one batch")
            rows.append([
                entry["case"],
                row["way"] if one else f"{row['way']}; {row['setting']}",
                spread(row["ms"], row["min"], row["max"], 3),
                f"{row['p50']:.3f} / {row['p99']:.3f}",
                "–" if row.get("device_ms") is None else f"{row['device_ms']:.3f}",
                f"{row['tokens_per_s'] / 1e3:.1f}",
                "1" if ours else f"{row['ratio']:.2f}",
                "–" if ours else f"{row['to_ropeway']['cosine']:.6f}",
                f"{row['to_f32']['cosine']:.6f}",
            ])  # fmt: skip
    head = ["case", "contestant", "ms (min–max)", "p50 / p99", "on the device", "1000 tokens/s", "× ropeway"]
    return table([*head, "cosine to ropeway", "to float32"], rows)


def kernels(entries, title):
    rows = []
    for entry in entries:
        notes = [entry["note"]] if entry["note"] else []
        if entry["group"] == "attention" and entry["parameters"].get("rope"):
            notes.append("ropeway's with RoPE")
        for row in entry["rows"][1:]:
            ours, theirs = entry["rows"][0]["micros"], row["micros"]
            rows.append([
                entry["case"],
                "; ".join([entry["shape"], *notes]),
                spread(ours["median"], ours["min"], ours["max"], 1),
                row["name"] if row["same"] else f"{row['name']} (another function)",
                spread(theirs["median"], theirs["min"], theirs["max"], 1),
                f"{row['ratio']:.2f}",
                f"{entry['rows'][0]['tflops']:.1f} / {row['tflops']:.1f}",
            ])  # fmt: skip
    if not rows:
        return ""
    head = ["kernel", "shape", "ropeway µs (min–max)", "peer", "µs (min–max)", "ratio", "TFLOP/s, ropeway / peer"]
    return f"### {title}\n\n" + table(head, rows)


def spread(middle, least, most, digits):
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def left_out(report):
    """Everything that is not in the tables, and why."""
    lines = [f"- {name}: skipped: {why}" for name, why in report["skipped"]]
    for part, key in (("end_to_end", "case"), ("kernels", "shape")):
        reasons = {}
        for entry in report[part]:
            for name, why in entry["skipped"]:
                reasons.setdefault((name, why), []).append(entry[key])
            lines += [f"- {entry[key]}: **WRONG**, so in no ratio: {sentence}" for sentence in entry["wrong"]]
        lines += [f"- {name} ({', '.join(where)}): skipped: {why}" for (name, why), where in reasons.items()]
    lines += [f"- {name}: **FAILED**: {why}" for name, why in report["failed"]]
    if report["cut"]:
        lines.append(f"- Cut, {report['minutes']:g} minutes being over: {'; '.join(report['cut'])}.")
    return "### Left out\n\n" + "\n".join(lines) if lines else ""
