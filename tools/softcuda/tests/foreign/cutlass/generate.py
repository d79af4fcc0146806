"""Compiles products of CUTLASS for sm_90a and writes the PTX beside this file: what tests/foreign/cutlass.rs runs.

    git clone --branch v4.7.0 https://github.com/NVIDIA/cutlass
    python3 generate.py cutlass [name ...]

Made with CUTLASS at commit 7107b05535f8 (4.7.0) and nvcc of CUDA 13.0. No GPU is needed, and no more of CUTLASS than its headers,
which have the licence in LICENSE.txt. The head of each file says for which shape its parameters are, how it is launched, what
tensor maps CUTLASS asked the driver for, and the parameters, in which a map has bytes of its number and a matrix the address
number << 40.
"""

import os
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
NVCC = os.environ.get("NVCC") or os.path.join(FOLDER, "../../../../../.cuda/bin/nvcc")
SCHEDULE = "cutlass::gemm::KernelTmaWarpSpecialized"
EPILOGUE = "cutlass::epilogue::"
BF16, F16 = "cutlass::bfloat16_t", "cutlass::half_t"


def kernel(tile, cluster, left, right, output, epilogue, schedule, shape, along=("k", "k")):
    """LEFT [m, k] times RIGHT [n, k], each with adjacent elements along k or along its rows."""
    layouts = {"k": ("RowMajor", "ColumnMajor"), "rows": ("ColumnMajor", "RowMajor")}
    return {
        "TILE": "Shape<" + ", ".join(f"_{n}" for n in tile) + ">",
        "CLUSTER": "Shape<" + ", ".join(f"_{n}" for n in cluster) + ">",
        "LEFT": left, "LEFT_LAYOUT": layouts[along[0]][0],
        "RIGHT": right, "RIGHT_LAYOUT": layouts[along[1]][1],
        "OUTPUT": output, "EPILOGUE": EPILOGUE + epilogue, "SCHEDULE": SCHEDULE + schedule,
        "STAGES": 3, "ROWS": shape[0], "COLUMNS": shape[1], "DEPTH": shape[2], "BLOCKS": 4,
    }


KERNELS = {
    "pingpong_bf16": kernel((64, 128, 64), (2, 1, 1), BF16, BF16, BF16, "TmaWarpSpecialized", "Pingpong", (200, 264, 328)),
    "cooperative_f16": kernel((128, 96, 64), (1, 2, 1), F16, F16, F16, "TmaWarpSpecializedCooperative", "Cooperative",
                              (200, 264, 328), along=("rows", "rows")),
    "narrow_f16": kernel((64, 8, 64), (1, 1, 1), F16, F16, F16, "NoSmemWarpSpecialized", "", (72, 24, 328),
                         along=("k", "rows")),
    "narrow_bf16": kernel((64, 16, 64), (1, 1, 1), BF16, BF16, BF16, "NoSmemWarpSpecialized", "", (72, 24, 328),
                          along=("rows", "rows")),
    "e5m2": kernel((64, 64, 128), (1, 1, 1), "cutlass::float_e5m2_t", "cutlass::float_e4m3_t", F16, "TmaWarpSpecialized",
                   "FP8FastAccum", (80, 144, 336)),
}


def compile(name, cutlass):
    with tempfile.TemporaryDirectory() as scratch:
        with open(os.path.join(scratch, "config.h"), "w") as config:
            for key, value in {"NAME": name, **KERNELS[name]}.items():
                config.write(f"#define {key} {value}\n")
        nvcc = [NVCC, "-std=c++17", "-gencode", "arch=compute_90a,code=compute_90a", "--expt-relaxed-constexpr", "-DNDEBUG",
                "-DCUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL", "-diag-suppress", "20012,177",
                "-I", os.path.join(cutlass, "include"), "-I", scratch]
        describe, ptx = os.path.join(scratch, "describe"), os.path.join(scratch, "ptx")
        subprocess.run([*nvcc, "-DDESCRIBE", "--cudart", "none", "gemm.cu", "runtime.c", "-o", describe], cwd=FOLDER, check=True)
        head = subprocess.run([describe], check=True, capture_output=True, text=True).stdout
        subprocess.run([*nvcc, "--ptx", "gemm.cu", "-o", ptx], cwd=FOLDER, check=True)
        with open(ptx) as text:
            return head + text.read()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or KERNELS:
        text = compile(name, os.path.abspath(sys.argv[1]))
        with open(os.path.join(FOLDER, name + ".ptx"), "w") as file:
            file.write(text)
        print(f"{name}: {len(text) // 1024} KB")
