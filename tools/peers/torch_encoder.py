"""PyTorch's ways to run the encoder: ids in, normalised mean vectors out, from host memory to host memory."""

import contextlib
import copy
import gc
import os
import time
import warnings
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import torch
import torch.nn.functional as F
from checkpoint import cast, folder_of
from race import Pace, Unavailable, fastest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_batches import batches
from torch_stack import refusal

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:

    def varlen_attn(*_):
        raise Unavailable("this torch has no torch.nn.attention.varlen")


BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
COMPILED_BATCH = 64


@dataclass(frozen=True)
class Way:
    """How to run the model. `layout`: "given" pads batches in the order given, "sorted" in the order of length,
    "packed" puts all inputs end to end. `weights`: "merged" has a model for each task, "peft" adapters beside one."""

    name: str
    layout: str
    attention: str = "sdpa"
    backend: str = None
    graph: bool = False
    compiled: bool = False
    weights: str = "merged"


BY_HAND = Way("eager, attention by hand, padded", "given", attention="eager")
PADDED = Way("eager, SDPA, padded", "given")
GRAPH_PACKED = Way("CUDA graph, packed, varlen attention", "packed", attention="varlen", graph=True)
EQUAL_LENGTHS = [
    BY_HAND,
    PADDED,
    Way("eager, SDPA flash", "given", backend="flash"),
    Way("eager, SDPA cuDNN", "given", backend="cudnn"),
    Way("CUDA graph, SDPA", "given", graph=True),
    Way("CUDA graph, SDPA cuDNN", "given", backend="cudnn", graph=True),
]
MIXED_LENGTHS = [
    BY_HAND,
    PADDED,
    Way("eager, SDPA, sorted", "sorted"),
    Way("eager, SDPA flash, sorted", "sorted", backend="flash"),
    Way("eager, SDPA cuDNN, sorted", "sorted", backend="cudnn"),
    Way("eager, packed, varlen attention", "packed", attention="varlen"),
    Way("eager, packed, nested tensors", "packed", attention="nested"),
    Way("CUDA graph, SDPA, sorted", "sorted", graph=True),
    GRAPH_PACKED,
]
COMPILED_EQUAL = [Way("compiled, CUDA graph, SDPA", "given", graph=True, compiled=True)]
COMPILED_MIXED = [
    Way("compiled, CUDA graph, packed, varlen attention", "packed", attention="varlen", graph=True, compiled=True),
    Way("compiled, CUDA graph, SDPA, sorted into buckets", "sorted", graph=True, compiled=True),
]
WITH_TASKS = [
    Way("merged, eager, SDPA, sorted", "sorted"),
    Way("merged, CUDA graph, packed, varlen attention", "packed", attention="varlen", graph=True),
    Way("PEFT unmerged, eager, SDPA, sorted", "sorted", weights="peft"),
]
# A CPU has no varlen attention; this rehearses all the rest of the packed ways.
ON_CPU = [Way("eager, packed, one SDPA for each input", "packed", attention="each")]


def ways(case, compiled, device):
    lengths = {len(row["input_ids"]) for row in case.inputs}
    if any("task" in row for row in case.inputs):
        return [] if compiled else WITH_TASKS
    if compiled:
        return COMPILED_EQUAL if len(lengths) == 1 else COMPILED_MIXED
    if len(lengths) == 1:
        return EQUAL_LENGTHS
    return MIXED_LENGTHS + (ON_CPU if device == "cpu" else [])


# ---- attention over packed inputs -----------------------------------------------------------------------------------
# As transformers calls it: q, k, v [1, heads, tokens, head_dim] → [1, tokens, heads, head_dim].


def varlen(module, query, key, value, attention_mask, cu_seqlens=None, longest=None, **_):
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest).unsqueeze(0), None


def nested(module, query, key, value, attention_mask, cu_seqlens=None, longest=None, shortest=None, **_):
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            tensor[0].transpose(0, 1), offsets=cu_seqlens, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for tensor in (query, key, value)
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values().unsqueeze(0), None


def each(module, query, key, value, attention_mask, bounds=None, **_):
    parts = [
        F.scaled_dot_product_attention(*(tensor[:, :, start:end] for tensor in (query, key, value)))
        for start, end in zip(bounds, bounds[1:])
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


PACKED_ATTENTION = {"varlen": varlen, "nested": nested, "each": each}


# ---- the forward pass -----------------------------------------------------------------------------------------------


def mean_of_padded(hidden, mask):
    """[rows, longest, hidden] → [rows, hidden], normalised, summed in float32."""
    if mask is None:
        return F.normalize(hidden.mean(dim=1, dtype=torch.float32), dim=-1)
    total = (hidden * mask[:, :, None]).sum(dim=1, dtype=torch.float32)
    return F.normalize(total / mask.sum(dim=1, keepdim=True), dim=-1)


def mean_of_packed(hidden, segments, lengths):
    """[tokens, hidden] → [inputs, hidden]"""
    total = hidden.new_zeros(lengths.shape[0], hidden.shape[1], dtype=torch.float32)
    total.index_add_(0, segments, hidden.float())
    return F.normalize(total / lengths[:, None], dim=-1)


def through_layers(model, ids, positions, mask, **about):
    """transformers' modules one after another: what its `forward` does, without deciding anything by tensors' values,
    so that it can be captured."""
    hidden = model.embeddings(input_ids=ids)
    angles = model.rotary_emb(hidden, positions)
    for layer in model.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=angles, **about)
    return hidden


class Encoders:
    """Builds the contestants of a case, and holds the weights that they share."""

    def __init__(self, checkpoint, device, pace, dtype=torch.bfloat16):
        import transformers
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        for name, function in PACKED_ATTENTION.items():
            ALL_ATTENTION_FUNCTIONS.register(f"packed-{name}", function)
        self.checkpoint, self.device, self.dtype, self.pace = checkpoint, device, dtype, pace
        self.exact = checkpoint.model(device)
        self.models = {None: cast(copy.deepcopy(self.exact), dtype)}

    def ways(self, case, compiled):
        return ways(case, compiled, self.device)

    @torch.inference_mode()
    def reference(self, case, rows):
        """The inputs at `rows` through the model in float32, each alone, its task's adapter merged in float32."""
        models, vectors = {None: self.exact}, []
        for row in rows:
            task, ids = case.inputs[row].get("task"), case.inputs[row]["input_ids"]
            if task not in models:
                models[task] = self.checkpoint.merged(self.exact, task)
            hidden = models[task](input_ids=torch.tensor([ids], device=self.device)).last_hidden_state
            vectors.append(mean_of_padded(hidden, None)[0].tolist())
        return vectors

    @torch.inference_mode()
    def build(self, way, case):
        """The way with the size of batch that suits it best. Raises Unavailable."""
        if way.compiled or way.layout == "packed":
            sizes = [COMPILED_BATCH]
        else:
            sizes = sorted({min(size, len(case.inputs)) for size in (32, 64, len(case.inputs))})
        made, why = [], None
        for size in sizes:
            try:
                made.append(Pass(self, way, case, size))
            except Exception as error:
                why = refusal(error, self.device == "cuda")
                if not isinstance(error, torch.OutOfMemoryError):
                    break
        if not made:
            raise why
        return fastest(made, Pace(pause_s=0.0, warm_up=self.pace.warm_up))

    def weights(self, way, batch, case):
        if way.weights == "peft":
            key = "peft"
            make = lambda: self.checkpoint.with_peft(self.exact, tasks_of(case), self.dtype)
        elif way.compiled:
            key = ("compiled", way.name)
            make = lambda: compiled(copy.deepcopy(self.models[None]), way)
        else:
            key = batch.task
            make = lambda: cast(self.checkpoint.merged(self.exact, batch.task), self.dtype)
        if key not in self.models:
            self.models[key] = make()
        return self.models[key]

    def free(self):
        """Drops all but the base weights."""
        self.models = {None: self.models[None]}
        torch._dynamo.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def tasks_of(case):
    return list(dict.fromkeys(row["task"] for row in case.inputs))


def compiled(model, way):
    """Each module by itself: all layers then share what is compiled once, and the pass is captured as a whole."""
    torch._dynamo.config.recompile_limit = 64
    model.config._attn_implementation = implementation(way)
    for module in (model.embeddings, *model.layers):
        module.compile(mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)
    return model


def implementation(way):
    return f"packed-{way.attention}" if way.layout == "packed" else way.attention


class Pass:
    """A contestant: a case's inputs through the model in one way."""

    def __init__(self, encoders, way, case, size):
        self.encoders, self.way, self.case = encoders, way, case
        self.name = way.name
        self.cuda = encoders.device == "cuda"
        self.host = batches(case, way, size)
        self.setting = f"{len(self.host)} batches of up to {size}" if len(self.host) > 1 else "one batch"
        if self.cuda:
            for batch in self.host:
                batch.tensors = {name: tensor.pin_memory() for name, tensor in batch.tensors.items()}
        self.there = [batch.on(encoders.device) for batch in self.host]
        order = torch.tensor([row for batch in self.host for row in batch.rows])
        self.order = torch.argsort(order).to(encoders.device)
        self.means = [mean_of_padded, mean_of_packed]
        if way.compiled:
            self.means = [torch.compile(mean, dynamic=False) for mean in self.means]
        self.graph = None
        result = self.compute()
        self.out = torch.empty(result.shape, dtype=torch.float32, pin_memory=self.cuda)
        if way.graph and self.cuda:
            self.capture()
        self.once()

    def compute(self):
        """On the device, from and to its memory."""
        backend = sdpa_kernel(BACKENDS[self.way.backend]) if self.way.backend else contextlib.nullcontext()
        with backend:
            parts = [self.forward(batch) for batch in self.there]
        return torch.cat(parts)[self.order]

    def forward(self, batch):
        model = self.encoders.weights(self.way, batch, self.case)
        tensors, way = batch.tensors, self.way
        if not way.compiled:
            model.config._attn_implementation = implementation(way)
        if way.layout == "packed":
            about = {"cu_seqlens": tensors["cu_seqlens"], "longest": batch.known["longest"]}
            if way.attention != "varlen":
                about |= {"shortest": batch.known["shortest"], "bounds": batch.known["bounds"]}
            hidden = through_layers(model, tensors["ids"], tensors["positions"], None, **about)
            return self.means[1](hidden[0], tensors["segments"], tensors["lengths"])
        ids, mask = tensors["ids"], tensors.get("mask")
        if way.graph:
            rows, length = ids.shape
            wide = mask.bool()[:, None, None, :].expand(rows, 1, length, length) if mask is not None else None
            hidden = through_layers(model, ids, torch.arange(length, device=ids.device)[None], wide)
        elif way.weights == "peft" and len(tasks_of(self.case)) > 1:
            names = [folder_of(task) for task in batch.known["tasks"]]
            hidden = model(input_ids=ids, attention_mask=mask, adapter_names=names).last_hidden_state
        else:
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.means[0](hidden, mask)

    def capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.compute()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.captured = self.compute()

    def replay(self):
        if self.graph is None:
            return self.compute()
        self.graph.replay()
        return self.captured

    @torch.inference_mode()
    def once(self, events=None):
        """ids up, the pass, vectors down, and waiting for them."""
        for host, there in zip(self.host, self.there):
            for name, tensor in host.tensors.items():
                there.tensors[name].copy_(tensor, non_blocking=True)
        if events:
            events[0].record()
        result = self.replay()
        if events:
            events[1].record()
        self.out.copy_(result, non_blocking=True)
        if self.cuda:
            torch.cuda.synchronize()

    def run(self, count):
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.once()
            seconds.append(time.perf_counter() - start)
        return seconds

    def vectors(self):
        self.once()
        return self.out.tolist()

    def device_ms(self):
        """Median ms on the device, from the first kernel's start to the last one's end: context, not a result."""
        if not self.cuda:
            return None
        times = []
        for _ in range(5):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.once(events)
            times.append(events[0].elapsed_time(events[1]))
        return sorted(times)[2]
