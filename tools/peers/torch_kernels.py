"""cuBLASLt and SDPA through torch, on the shapes of ropeway's kernel rows."""

import contextlib
import math
import time

import torch
import torch.nn.functional as F
from race import timed_on_device
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_stack import refusal

# Launches in one graph, at least: as ropeway does it.
LAUNCHES = 8
LEAST_COSINE = 0.999


class Kernels:
    def __init__(self, device):
        self.device, self.cuda = device, device == "cuda"
        self.generator = torch.Generator(device).manual_seed(1)
        # More than 3 × L2, so that each launch finds its operands in memory and not in the cache.
        self.rotation = 3 * torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0
        if self.cuda:
            torch.backends.cuda.preferred_blas_library("cublaslt")

    def peers(self, row):
        """[(name, whether it computes the same, function that builds the contestant)]"""
        listed = {"gemm": gemm_peers, "attention": attention_peers}[row["group"]](row["parameters"])
        if row["group"] == "attention" and not self.cuda:
            # Nobody would take it on a GPU; here it gives the rehearsal something to time.
            listed = [*listed, ("SDPA, one input after the other", True, one_by_one)]
        dtype = torch.float16 if "f16" in row["case"].split("_") else torch.bfloat16
        make = {"gemm": Gemm, "attention": Attention}[row["group"]]

        def builder(name, function):
            def build():
                try:
                    return Kernel(name, function, make(row["parameters"], dtype, self), self)
                except Exception as error:
                    raise refusal(error, self.cuda) from error

            return build

        return [(name, same, builder(name, function)) for name, same, function in listed]

    def random(self, *shape, dtype, scale=1.0):
        return (torch.randn(*shape, device=self.device, generator=self.generator) * scale).to(dtype)

    def free(self):
        if self.cuda:
            torch.cuda.empty_cache()


# ---- linear layers --------------------------------------------------------------------------------------------------


class Gemm:
    """x [tokens, k], w [n, k], bias [n]"""

    def __init__(self, parameters, dtype, kernels):
        self.shape = parameters["tokens"], parameters["n"], parameters["k"]
        self.dtype, self.kernels = dtype, kernels
        self.gelu = parameters["epilogue"] == "gelu"
        tokens, n, k = self.shape
        self.bytes = 2 * (tokens * k + n * k + tokens * n)

    def operands(self):
        (tokens, n, k), random, dtype = self.shape, self.kernels.random, self.dtype
        x, w = random(tokens, k, dtype=dtype), random(n, k, dtype=dtype, scale=k**-0.5)
        return x, w, random(n, dtype=dtype)

    def exact(self, x, w, bias):
        y = x.float() @ w.float().T + bias.float()
        return F.gelu(y) if self.gelu else y

    def part(self, output):
        return output


def gemm_peers(parameters):
    """RoPE is left out: torch has no product that rotates, so that peer does less than ropeway. LoRA's columns are
    too: the peer's weights are merged ones."""
    tanh = lambda x, w, b: torch._addmm_activation(b, x, w.t(), use_gelu=True)
    return {
        "bias": [("cuBLASLt, bias", True, F.linear)],
        "rope": [("cuBLASLt, bias, no RoPE", True, F.linear)],
        "gelu": [
            ("cuBLASLt, bias; then GELU", True, lambda x, w, b: F.gelu(F.linear(x, w, b))),
            ("cuBLASLt, bias and tanh GELU", False, tanh),
        ],
    }.get(parameters["epilogue"], [])


# ---- attention ------------------------------------------------------------------------------------------------------


class Attention:
    """q, k, v: [inputs, heads, length, head_dim] where all lengths are the same, else [tokens, heads, head_dim]; in
    memory a token's heads are neighbours, as the product before leaves them."""

    def __init__(self, parameters, dtype, kernels):
        self.lengths, self.dtype, self.kernels = parameters["lengths"], dtype, kernels
        self.heads, self.head_dim = parameters["heads"], parameters["head_dim"]
        self.equal = len(set(self.lengths)) == 1
        self.bytes = 2 * 4 * sum(self.lengths) * self.heads * self.head_dim
        bounds = [0]
        for length in self.lengths:
            bounds.append(bounds[-1] + length)
        self.bounds = torch.tensor(bounds, dtype=torch.int32, device=kernels.device)

    def operands(self):
        made = [self.kernels.random(sum(self.lengths), self.heads, self.head_dim, dtype=self.dtype) for _ in range(3)]
        if self.equal:
            made = [t.view(len(self.lengths), self.lengths[0], self.heads, -1).transpose(1, 2) for t in made]
        return *made, self

    def exact(self, q, k, v, _):
        """The first head of the first input."""
        q, k, v = ((t[0, 0] if self.equal else t[: self.lengths[0], 0]).float() for t in (q, k, v))
        return torch.softmax(q @ k.T / math.sqrt(self.head_dim), dim=-1) @ v

    def part(self, output):
        return output[0, 0] if self.equal else output[: self.lengths[0], 0]


def dense(backend):
    def attend(q, k, v, _):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return attend


def varlen(q, k, v, about):
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, about.bounds, about.bounds, max(about.lengths), max(about.lengths))


def one_by_one(q, k, v, about):
    if about.equal:
        return F.scaled_dot_product_attention(q, k, v)
    parts = [t.split(about.lengths) for t in (q, k, v)]
    # [length, heads, head_dim] and back, for each input
    heads_first = lambda t: t.transpose(0, 1)
    return torch.cat([heads_first(F.scaled_dot_product_attention(*map(heads_first, three))) for three in zip(*parts)])


def nested(backend):
    def attend(q, k, v, about):
        jagged = [
            torch.nested.nested_tensor_from_jagged(
                t, offsets=about.bounds, min_seqlen=min(about.lengths), max_seqlen=max(about.lengths)
            ).transpose(1, 2)
            for t in (q, k, v)
        ]
        with sdpa_kernel(backend) if backend else contextlib.nullcontext():
            return F.scaled_dot_product_attention(*jagged).transpose(1, 2).values()

    return attend


def attention_peers(parameters):
    flash, cudnn = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
    if len(set(parameters["lengths"])) == 1:
        return [("SDPA flash", True, dense(flash)), ("SDPA cuDNN", True, dense(cudnn))]
    return [
        ("varlen attention", True, varlen),
        ("nested tensors, flash", True, nested(flash)),
        ("nested tensors, cuDNN", True, nested(cudnn)),
    ]


# ---- timing ---------------------------------------------------------------------------------------------------------


class Kernel:
    """A contestant: `function` over sets of operands in rotation, captured in one graph where there are graphs."""

    def __init__(self, name, function, problem, kernels):
        self.name, self.function, self.cuda = name, function, kernels.cuda
        sets = max(2, math.ceil(kernels.rotation / problem.bytes) + 1)
        self.sets = [problem.operands() for _ in range(sets)]
        with torch.no_grad():
            output = problem.part(self.function(*self.sets[0])).float().flatten()
            exact = problem.exact(*self.sets[0]).flatten()
            self.cosine = F.cosine_similarity(output, exact, dim=0).item()
            # A cosine over all values forgives a few bad ones.
            self.right = self.cosine >= LEAST_COSINE and bool(output.isfinite().all())
            del output, exact
            self.turns = self.sets * math.ceil(LAUNCHES / sets)
            self.graph = self._capture() if self.cuda else None

    def _capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for operands in self.sets[:3]:
                self.function(*operands)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # Kept until the end, so that outputs go round as operands do.
            outputs = []
            for operands in self.turns:
                outputs = [*outputs[-len(self.sets) + 1 :], self.function(*operands)]
        return graph

    def run(self, count):
        """Seconds of one launch: of each of `count` graphs, by the device's clock, the mean over its launches."""
        if not self.cuda:
            return self._on_cpu(count)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graphs = timed_on_device(self.graph.replay, start, end, torch.cuda.synchronize)
        return [seconds / len(self.turns) for seconds in graphs(count)]

    @torch.no_grad()
    def _on_cpu(self, count):
        seconds = []
        for at in range(count):
            start = time.perf_counter()
            self.function(*self.sets[at % len(self.sets)])
            seconds.append(time.perf_counter() - start)
        return seconds
