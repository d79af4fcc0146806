"""Compiles kernels with Triton for sm_90 and writes the PTX beside this file: what tests/foreign/triton_sm_90.rs runs.

    python3 -m venv venv && venv/bin/pip install triton==3.9.0
    venv/bin/python generate.py --regenerate [name ...]

No GPU is needed. The head of each file says what it was made from, how it is launched, and the box and swizzle of each
tensor map, which the compiler chooses.
"""

import os
import sys

# Positions in this file would carry its path along.
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

KERNELS = {}


def kernel(name, signature, warps=4, stages=3, **constants):
    """Registers a compilation of the function below; `TYPE[ROWS,COLUMNS]` in the signature is a tensor map of boxes."""

    def add(function):
        KERNELS[name] = (function, signature.split(), warps, stages, constants)
        return function

    return add


@kernel("matmul_f16_64x64x64", "f16[64,64] f16[64,64] f16[64,64] i32 i32", stages=3, M=64, N=64, K=64, ALONG_N=False)
@kernel("matmul_bf16_128x128x64", "bf16[128,64] bf16[128,64] bf16[128,128] i32 i32", warps=8, stages=3, M=128, N=128, K=64,
        ALONG_N=False)
@kernel("matmul_f16_64x128x32", "f16[64,32] f16[32,128] f16[64,128] i32 i32", stages=4, M=64, N=128, K=32, ALONG_N=True)
@kernel("matmul_bf16_64x32x16", "bf16[64,16] bf16[16,32] bf16[64,32] i32 i32", stages=2, M=64, N=32, K=16, ALONG_N=True)
@kernel("matmul_e4m3_64x64x128", "fp8e4nv[64,128] fp8e4nv[64,128] f16[64,64] i32 i32", stages=3, M=64, N=64, K=128,
        ALONG_N=False)
@triton.jit
def matmul(a, b, c, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ALONG_N: tl.constexpr):
    """c [m, n] = a [m, k] · b, which is [k, n] (ALONG_N) or [n, k]; all by tensor copies."""
    tiles_n = tl.cdiv(n, N)
    row = tl.program_id(0) // tiles_n * M
    column = tl.program_id(0) % tiles_n * N
    sums = tl.zeros([M, N], tl.float32)
    for step in range(0, tl.cdiv(k, K)):
        x = a.load([row, step * K])
        if ALONG_N:
            sums = tl.dot(x, b.load([step * K, column]), sums)
        else:
            sums = tl.dot(x, b.load([column, step * K]).T, sums)
    c.store([row, column], sums.to(c.dtype))


@kernel("attention_128x64", "f16[128,64] f16[64,64] f16[64,64] f16[128,64] i32 fp32", warps=8, stages=2, M=128, N=64, D=64)
@kernel("attention_64x128", "f16[64,64] f16[128,64] f16[128,64] f16[64,64] i32 fp32", warps=4, stages=2, M=64, N=128, D=64)
@triton.jit
def attention(q, k, v, out, length, scale, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Heads of [length, D], one after the other; a length is a multiple of M: softmax(scale · q kᵀ) v."""
    head = tl.program_id(1) * length
    row = head + tl.program_id(0) * M
    queries = q.load([row, 0])
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    sums = tl.zeros([M, D], tl.float32)
    scale *= 1.4426950408889634
    for first in range(0, length, N):
        scores = tl.dot(queries, k.load([head + first, 0]).T) * scale
        columns = first + tl.arange(0, N)
        scores = tl.where(columns[None, :] < length, scores, -float("inf"))
        most = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - most[:, None])
        shrink = tl.exp2(top - most)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(tl.float16), v.load([head + first, 0]), sums * shrink[:, None])
        top = most
    out.store([row, 0], (sums / total[:, None]).to(tl.float16))


def compile(name):
    function, signature, warps, stages, constants = KERNELS[name]
    arguments = [a for a in function.arg_names if a not in constants]
    assert len(arguments) == len(signature), name
    names = {"f16": "fp16", "bf16": "bf16"}
    types = {}
    for argument, type in zip(arguments, signature):
        if "[" in type:
            element, box = type[:-1].split("[")
            type = f"tensordesc<{names.get(element, element)}[{box.replace(',', ', ')}]>"
        types[argument] = type
    types |= {constant: "constexpr" for constant in constants}
    types = {argument: types[argument] for argument in function.arg_names}
    source = ASTSource(function, types, constants, {})
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    made = " ".join(f"{key}={value}" for key, value in constants.items())
    maps = " ".join(
        f"{m['elem_size']}:{'x'.join(map(str, m['block_size']))}:{m['swizzle']}" for m in compiled.metadata.tensordesc_meta)
    return (f"// Triton {triton.__version__}: {name}, {made}; stages={stages}\n"
            f"// launch: kernel={compiled.metadata.name} warps={compiled.metadata.num_warps}"
            f" shared={compiled.metadata.shared}\n"
            f"// maps: {maps}\n"
            + compiled.asm["ptx"].lstrip("/\n ").replace("Generated by", "// Generated by", 1))


if __name__ == "__main__":
    if "--regenerate" not in sys.argv:
        sys.exit(__doc__)
    folder = os.path.dirname(os.path.abspath(__file__))
    for name in sys.argv[2:] or KERNELS:
        text = compile(name)
        with open(os.path.join(folder, name + ".ptx"), "w") as file:
            file.write(text)
        print(f"{name}: {len(text) // 1024} KB")
