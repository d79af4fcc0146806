"""From JSON to Markdown. The figures in report.json are made up; `UPDATE=1` writes report.md anew."""

import copy
import json
import os
import unittest
from pathlib import Path

from measure import rehearsal, report, targets

HERE = Path(__file__).parent


def made():
    return json.loads((HERE / "report.json").read_text())


class Markdown(unittest.TestCase):
    maxDiff = None

    def test_the_whole_report(self):
        """A failing test, a stage that was cut, one that did not end in its time, and one that lacks something."""
        text = report.markdown({**made(), "targets": targets.judge(made()["stages"])})
        if os.environ.get("UPDATE"):
            (HERE / "report.md").write_text(text)
        self.assertEqual(text, (HERE / "report.md").read_text())

    def test_a_rehearsal_has_no_times(self):
        full = made()
        text = json.dumps(rehearsal.without_times(full)) + report.markdown(rehearsal.without_times(full))
        self.assertIn("This is a rehearsal", text)
        self.assertNotIn("## Targets", text)
        # Figures of the rows and the seconds of the stages; what was run stays.
        for figure in ("61.2", "700.1", "0.71", "812345", "61.5", "1830 MHz", "31 °C"):
            self.assertIn(figure, json.dumps(full, ensure_ascii=False))
            self.assertNotIn(figure, text)
        self.assertIn("8192 tokens, n 3072, k 1024, rope", text)

    def test_no_cell_breaks_its_table(self):
        self.assertEqual(report.table(("a",), [("x|y\nz",)]), "| a |\n| --- |\n| x\\|y z |")


class Targets(unittest.TestCase):
    def verdicts(self, stages):
        return {of["target"]: (of["measured"], of["verdict"]) for of in targets.judge(stages)}

    def test_nothing_measured_is_nothing_met(self):
        self.assertEqual({verdict for _, verdict in self.verdicts({}).values()}, {"not measured"})
        cut = {name: {"outcome": "cut", "note": ""} for name in ("kernels", "encoder", "adapters", "peers")}
        self.assertEqual({verdict for _, verdict in self.verdicts(cut).values()}, {"not measured"})

    def test_peers_are_in_their_own_words(self):
        gemm = {"group": "gemm", "case": "gemm", "shape": "s"}
        gemm["rows"] = [{"name": "ropeway", "ratio": 1.0}, {"name": "cuBLASLt", "ratio": 0.49, "same": True}]
        gemm["rows"].append({"name": "cuBLASLt, GELU by tanh", "ratio": 0.2, "same": False})
        ways = {"ropeway": 1.0, "eager, SDPA, padded": 1.31, "eager, SDPA flash": 0.9}
        mixed = [{"way": way, "ratio": ratio} for way, ratio in ways.items()]
        single = [{"way": "eager, SDPA, padded", "ratio": 1.0}]
        cases = [{"case": "256 × 16…512 tokens", "rows": mixed}, {"case": "1 × 16 tokens", "rows": single}]
        verdicts = self.verdicts({"peers": {"report": {"end_to_end": cases, "kernels": [gemm]}}})
        self.assertEqual(verdicts["GEMM beside cuBLASLt"], (0.49, "not met"))
        self.assertEqual(verdicts["end to end beside PyTorch eager, padded, mixed lengths"], (1.31, "met"))

    def test_the_engines_rows(self):
        def row(group, micros, ratio=None, **parameters):
            of = {"group": group, "case": "c", "shape": "s", "micros": {"median": micros}}
            # As the benches write them: what is empty is left out.
            return {**of, **({"parameters": parameters} if parameters else {}), **({"ratio": ratio} if ratio else {})}

        encoder = [row("latency", 999.0, tokens=16), row("latency", 5000.0, tokens=512), row("startup", 1.1e6)]
        mixed = {"way": "extended", "rank": 4, "adapters": 4}
        others = [{**mixed, "way": "separate"}, {**mixed, "rank": 16}, {**mixed, "adapters": 1}]
        adapters = [row("adapters", 1.0, 1.5, **other) for other in others]
        adapters += [row("adapters", 1.0, 1.05, **mixed), row("adapters", 0.0, None, **mixed)]
        verdicts = self.verdicts({"encoder": {"report": {"rows": encoder}}, "adapters": {"report": {"rows": adapters}}})
        self.assertEqual(verdicts["one query of 16 tokens, text in to vector out"], (0.999, "met"))
        self.assertEqual(verdicts["process start to first vector"], (1.1, "not met"))
        self.assertEqual(verdicts["adapters mixed, beside merged"], (1.05, "met"))

    def test_the_worst_row_counts(self):
        stages = copy.deepcopy(made()["stages"])
        rows = stages["kernels"]["report"]["rows"]
        long = next(row for row in rows if row["group"] == "attention")
        self.assertEqual(self.verdicts(stages)["attention at 4096 tokens"], (301.5, "met"))
        rows.append({**long, "case": "slow", "tflops": 249.9})
        self.assertEqual(self.verdicts(stages)["attention at 4096 tokens"], (249.9, "not met"))
        # Other lengths are another matter.
        rows[-1]["parameters"] = {"lengths": [4096, 64]}
        self.assertEqual(self.verdicts(stages)["attention at 4096 tokens"], (301.5, "met"))
