"""A case's inputs as tensors: padded to the longest of a batch, or end to end."""

import torch
import torch.nn.functional as F

# A graph is compiled for one length, so lengths are rounded up to a multiple of this.
BUCKET = 64


class Batch:
    """Some of a case's inputs: their places in it, their task, their tensors, and what is known of them on the host."""

    def __init__(self, rows, task, tensors, **known):
        self.rows, self.task, self.tensors, self.known = rows, task, tensors, known

    def on(self, device):
        return Batch(self.rows, self.task, {k: t.to(device) for k, t in self.tensors.items()}, **self.known)


def padded(inputs, rows, task, multiple):
    """ids and mask [rows, longest]; no mask where nothing is padded."""
    lengths = [len(inputs[row]["input_ids"]) for row in rows]
    longest = -(-max(lengths) // multiple) * multiple
    ids = torch.ones(len(rows), longest, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : lengths[place]] = torch.tensor(inputs[row]["input_ids"])
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    tensors = {"ids": ids} if mask.all() else {"ids": ids, "mask": mask}
    return Batch(rows, task, tensors, tasks=[inputs[row].get("task") for row in rows])


def packed(inputs, rows, task):
    """ids and positions [1, tokens], the inputs' bounds [inputs + 1], and of each token the input that it is of."""
    ids = [torch.tensor(inputs[row]["input_ids"]) for row in rows]
    lengths = torch.tensor([len(part) for part in ids])
    bounds = F.pad(lengths.cumsum(0), (1, 0))
    tensors = {
        "ids": torch.cat(ids)[None],
        "positions": torch.cat([torch.arange(len(part)) for part in ids])[None],
        "cu_seqlens": bounds.int(),
        "segments": torch.repeat_interleave(torch.arange(len(rows)), lengths),
        "lengths": lengths,
    }
    known = {"longest": max(lengths.tolist()), "shortest": min(lengths.tolist()), "bounds": bounds.tolist()}
    return Batch(rows, task, tensors, **known)


def batches(case, way, size):
    groups = {}
    for place, row in enumerate(case.inputs):
        groups.setdefault(row.get("task") if way.weights == "merged" else None, []).append(place)
    made = []
    for task, rows in groups.items():
        if way.layout == "packed":
            made.append(packed(case.inputs, rows, task))
            continue
        if way.layout == "sorted":
            rows = sorted(rows, key=lambda row: len(case.inputs[row]["input_ids"]))
        multiple = BUCKET if way.compiled and way.layout == "sorted" else 1
        made += [padded(case.inputs, rows[at : at + size], task, multiple) for at in range(0, len(rows), size)]
    return made
