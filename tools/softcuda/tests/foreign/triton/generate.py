"""Compiles kernels with Triton for sm_80 and writes the PTX beside this file: what tests/foreign/triton.rs runs.

    python3 -m venv venv && venv/bin/pip install triton==3.9.0
    venv/bin/python generate.py --regenerate [name ...]

No GPU is needed. The head of each file says what it was made from and how it is launched.
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
    """Registers a compilation of the function below; pointers and `s16` integers are multiples of 16."""

    def add(function):
        KERNELS[name] = (function, signature.split(), warps, stages, constants)
        return function

    return add


@kernel("add", "*fp32 *fp32 *fp32 i32", BLOCK=1024)
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@kernel("softmax", "*fp32 *fp32 i32 i32 i32", warps=8, BLOCK=1024)
@triton.jit
def softmax(x, out, rows, columns, stride, BLOCK: tl.constexpr):
    """Programs walk the rows; each row in registers."""
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        i = tl.arange(0, BLOCK)
        v = tl.load(x + row * stride + i, mask=i < columns, other=-float("inf"))
        e = tl.exp(v - tl.max(v, axis=0))
        tl.store(out + row * stride + i, e / tl.sum(e, axis=0), mask=i < columns)


@kernel("layer_norm", "*fp16 *fp32 *fp32 *fp16 *fp32 *fp32 i32 s16 fp32", BLOCK=256)
@triton.jit
def layer_norm(x, weight, bias, out, means, rstds, columns, stride, eps, BLOCK: tl.constexpr):
    """Rows longer than a block, in three sweeps."""
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, columns, BLOCK):
        i = first + tl.arange(0, BLOCK)
        total += tl.load(x + row * stride + i, mask=i < columns, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / columns
    square = tl.zeros([BLOCK], tl.float32)
    for first in range(0, columns, BLOCK):
        i = first + tl.arange(0, BLOCK)
        v = tl.load(x + row * stride + i, mask=i < columns, other=0.0).to(tl.float32)
        d = tl.where(i < columns, v - mean, 0.0)
        square += d * d
    rstd = 1 / tl.sqrt(tl.sum(square, axis=0) / columns + eps)
    tl.store(means + row, mean)
    tl.store(rstds + row, rstd)
    for first in range(0, columns, BLOCK):
        i = first + tl.arange(0, BLOCK)
        mask = i < columns
        v = tl.load(x + row * stride + i, mask=mask, other=0.0).to(tl.float32)
        w, b = tl.load(weight + i, mask=mask), tl.load(bias + i, mask=mask)
        tl.store(out + row * stride + i, (v - mean) * rstd * w + b, mask=mask)


@triton.jit
def gelu(x):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


MATMUL = "i32 s16 s16 s16 s16 s16"


@kernel("matmul_f16_64x64x32", "*fp16 *fp16 *fp16 " + MATMUL, stages=4, M=64, N=64, K=32, GROUP=4, GELU=False)
@kernel("matmul_f16_128x64x64", "*fp16 *fp16 *fp32 i32 i32 i32 s16 s16 s16", stages=3, M=128, N=64, K=64, GROUP=8, GELU=True)
@kernel("matmul_bf16_64x128x32", "*bf16 *bf16 *bf16 " + MATMUL, stages=3, M=64, N=128, K=32, GROUP=8, GELU=True)
@kernel("matmul_bf16_32x32x64", "*bf16 *bf16 *fp32 " + MATMUL, warps=2, stages=4, M=32, N=32, K=64, GROUP=1, GELU=False)
@kernel("matmul_tf32_64x64x32", "*fp32 *fp32 *fp32 " + MATMUL, stages=3, M=64, N=64, K=32, GROUP=1, GELU=False)
@triton.jit
def matmul(a, b, c, m, n, k, stride_a, stride_b, stride_c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
           GROUP: tl.constexpr, GELU: tl.constexpr):
    """c [m, n] = a [m, k] · b [k, n]; programs go down GROUP rows of tiles at a time."""
    tiles_m, tiles_n = tl.cdiv(m, M), tl.cdiv(n, N)
    program = tl.program_id(0)
    group = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + program % (GROUP * tiles_n) % height
    tile_n = program % (GROUP * tiles_n) // height
    rows = tile_m * M + tl.arange(0, M)
    columns = tile_n * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    at_a = a + (rows % m)[:, None] * stride_a + inner[None, :]
    at_b = b + inner[:, None] * stride_b + (columns % n)[None, :]
    sums = tl.zeros([M, N], tl.float32)
    for step in range(0, tl.cdiv(k, K)):
        left = k - step * K
        x = tl.load(at_a, mask=inner[None, :] < left, other=0.0)
        y = tl.load(at_b, mask=inner[:, None] < left, other=0.0)
        sums = tl.dot(x, y, sums)
        at_a += K
        at_b += K * stride_b
    if GELU:
        sums = gelu(sums)
    mask = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c + rows[:, None] * stride_c + columns[None, :], sums.to(c.dtype.element_ty), mask=mask)


@kernel("matmul_i8_64x64x64", "*i8 *i8 *i32 i32", stages=3, M=64, N=64, K=64)
@triton.jit
def matmul_i8(a, b, c, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """One tile of integers: c [M, N] = a [M, k] · b [N, k]ᵀ."""
    rows, columns, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    sums = tl.zeros([M, N], tl.int32)
    for step in range(0, k, K):
        x = tl.load(a + rows[:, None] * k + step + inner[None, :], mask=step + inner[None, :] < k, other=0)
        y = tl.load(b + columns[None, :] * k + step + inner[:, None], mask=step + inner[:, None] < k, other=0)
        sums = tl.dot(x, y, sums, out_dtype=tl.int32)
    tl.store(c + rows[:, None] * N + columns[None, :], sums)


ATTENTION = "*fp16 *fp16 *fp16 *fp16 *fp32 i32 fp32"


@kernel("attention_64x32", ATTENTION, stages=3, M=64, N=32, D=64, CAUSAL=False)
@kernel("attention_causal_64x64", ATTENTION, stages=4, M=64, N=64, D=64, CAUSAL=True)
@triton.jit
def attention(q, k, v, out, lse, length, scale, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
              CAUSAL: tl.constexpr):
    """Heads of [length, D], one after the other: softmax(scale · q kᵀ) v, and the logarithm of each row's sum."""
    head = tl.program_id(1).to(tl.int64) * length * D
    rows = tl.program_id(0) * M + tl.arange(0, M)
    dims = tl.arange(0, D)
    inside = rows[:, None] < length
    queries = tl.load(q + head + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    sums = tl.zeros([M, D], tl.float32)
    scale *= 1.4426950408889634
    end = tl.minimum(length, (tl.program_id(0) + 1) * M) if CAUSAL else length
    for first in range(0, end, N):
        columns = first + tl.arange(0, N)
        keys = tl.load(k + head + columns[None, :] * D + dims[:, None], mask=columns[None, :] < length, other=0.0)
        scores = tl.dot(queries, keys) * scale
        seen = columns[None, :] < length
        if CAUSAL:
            seen = seen & (columns[None, :] <= rows[:, None])
        scores = tl.where(seen, scores, -float("inf"))
        most = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - most[:, None])
        shrink = tl.exp2(top - most)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(v + head + columns[:, None] * D + dims[None, :], mask=columns[:, None] < length, other=0.0)
        sums = tl.dot(weights.to(tl.float16), values, sums * shrink[:, None])
        top = most
    tl.store(out + head + rows[:, None] * D + dims[None, :], (sums / total[:, None]).to(tl.float16), mask=inside)
    tl.store(lse + tl.program_id(1) * length + rows, (top + tl.log2(total)) * 0.6931471805599453, mask=rows < length)


@kernel("reductions", "*fp32 *fp32 *i32 *fp32 *i32", R=32, C=64)
@triton.jit
def reductions(x, sums, places, largest, parity, R: tl.constexpr, C: tl.constexpr):
    """Of a block [R, C]: sums of rows, places of the columns' largest, largest of the rows' least, exclusive or."""
    i, j = tl.arange(0, R), tl.arange(0, C)
    v = tl.load(x + tl.program_id(0) * R * C + i[:, None] * C + j[None, :])
    tl.store(sums + tl.program_id(0) * R + i, tl.sum(v, axis=1))
    tl.store(places + tl.program_id(0) * C + j, tl.argmax(v, axis=0))
    tl.store(largest + tl.program_id(0), tl.max(tl.min(v, axis=1), axis=0))
    bits = v.to(tl.int32, bitcast=True)
    tl.store(parity + tl.program_id(0), tl.xor_sum(tl.xor_sum(bits, axis=1), axis=0))


@triton.jit
def compose(scale, shift, next_scale, next_shift):
    return scale * next_scale, shift * next_scale + next_shift


@kernel("scans", "*i32 *i32 *i32 *i32 *i32", R=8, C=128)
@triton.jit
def scans(x, scales, shifts, sums, reversed_max, R: tl.constexpr, C: tl.constexpr):
    """Along rows: compositions of the maps v ↦ x·v + 1 (mod 2^32); along columns: sums, and maxima from the end."""
    i = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    v = tl.load(x + tl.program_id(0) * R * C + i)
    scale, shift = tl.associative_scan((v, tl.full([R, C], 1, tl.int32)), 1, compose)
    at = tl.program_id(0) * R * C + i
    tl.store(scales + at, scale)
    tl.store(shifts + at, shift)
    tl.store(sums + at, tl.cumsum(v, axis=0))
    tl.store(reversed_max + at, tl.associative_scan(v, 1, maximum, reverse=True))


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b)


@kernel("atomics", "*i32 *fp32 *i32 *i32 *i32 *fp16 i32", BLOCK=256)
@triton.jit
def atomics(x, sums, extremes, lock, guarded, halves, n, BLOCK: tl.constexpr):
    """Sums and extremes by value modulo 16; a plain counter behind a lock."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    v = tl.load(x + i, mask=mask, other=0)
    tl.atomic_add(sums + v % 16, v.to(tl.float32), mask=mask)
    tl.atomic_max(extremes + v % 16, v, mask=mask)
    tl.atomic_min(extremes + 16 + v % 16, v, mask=mask, sem="relaxed")
    tl.atomic_xor(extremes + 32 + v % 16, v, mask=mask)
    tl.atomic_add(halves + v % 16, tl.full([BLOCK], 1, tl.float16), mask=mask)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    # Every thread loads, one stores: without the barrier the others might load what it has stored.
    held = tl.load(guarded)
    tl.debug_barrier()
    tl.store(guarded, held * 2 + 1)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@kernel("histogram", "*i32 *i32 i32", BLOCK=512, BINS=64)
@triton.jit
def histogram(x, counts, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.histogram(tl.load(x + i, mask=i < n, other=0), BINS, mask=i < n)
    tl.atomic_add(counts + tl.arange(0, BINS), count)


@kernel("sort", "*i32 *i32 *fp32", R=4, C=128)
@triton.jit
def sort(x, ascending, largest, R: tl.constexpr, C: tl.constexpr):
    """Rows sorted; and the eight largest of them, as floats, downwards."""
    i = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    j = tl.arange(0, C)[None, :]
    v = tl.load(x + i * C + j)
    tl.store(ascending + i * C + j, tl.sort(v))
    tl.store(largest + i * 8 + tl.arange(0, 8)[None, :], tl.topk(v.to(tl.float32), 8))


@kernel("casts", "*fp32 *u8 *fp32 *fp16 *bf16 *i8 i32", BLOCK=512)
@triton.jit
def casts(x, eights, back, halves, brains, bytes, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    v = tl.load(x + i, mask=mask)
    e = v.to(tl.float8e5)
    tl.store(eights + i, e.to(tl.uint8, bitcast=True), mask=mask)
    tl.store(back + i, e.to(tl.float32), mask=mask)
    tl.store(halves + i, v.to(tl.float16), mask=mask)
    tl.store(brains + i, v.to(tl.bfloat16), mask=mask)
    tl.store(bytes + i, tl.clamp(v, -100.0, 100.0).to(tl.int8), mask=mask)


@kernel("gather", "*i64 *fp16 *fp32 *fp32 i32 i32 i32", BLOCK=128, R=16)
@triton.jit
def gather(ids, table, out, turned, count, rows, width, BLOCK: tl.constexpr, R: tl.constexpr):
    """Rows of a table by number, zero where the number is no row; and the same turned about within the block."""
    i = tl.program_id(0) * R + tl.arange(0, R)
    j = tl.arange(0, BLOCK)
    id = tl.load(ids + i, mask=i < count, other=-1)
    known = (id >= 0) & (id < rows)
    mask = known[:, None] & (j[None, :] < width)
    v = tl.load(table + id[:, None] * width + j[None, :], mask=mask, other=0.0).to(tl.float32)
    inside = (i[:, None] < count) & (j[None, :] < width)
    tl.store(out + i[:, None] * width + j[None, :], v, mask=inside)
    order = tl.broadcast_to((BLOCK - 1 - j)[None, :], [R, BLOCK])
    tl.store(turned + i[:, None] * BLOCK + j[None, :], tl.gather(v, order, 1), mask=i[:, None] < count)


@kernel("dropout", "*fp32 *fp32 i32 i32", BLOCK=256)
@triton.jit
def dropout(x, out, n, seed, BLOCK: tl.constexpr):
    """Half of the values, chosen by Philox, doubled."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    tl.store(out + i, tl.where(tl.randint(seed, i) & 1 == 0, 0.0, 2 * v), mask=i < n)


def compile(name):
    function, signature, warps, stages, constants = KERNELS[name]
    arguments = [a for a in function.arg_names if a not in constants]
    assert len(arguments) == len(signature), name
    types, attributes = {}, {}
    for argument, type in zip(arguments, signature):
        if type[0] == "*" or type == "s16":
            attributes[(function.arg_names.index(argument),)] = [["tt.divisibility", 16]]
        types[argument] = "i32" if type == "s16" else type
    types |= {constant: "constexpr" for constant in constants}
    types = {argument: types[argument] for argument in function.arg_names}
    source = ASTSource(function, types, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    made = " ".join(f"{key}={value}" for key, value in constants.items())
    return (f"// Triton {triton.__version__}: {name}, {made}; stages={stages}\n"
            f"// launch: kernel={compiled.metadata.name} warps={warps} shared={compiled.metadata.shared}\n"
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
