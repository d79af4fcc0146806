// Control flow that tears warps apart: loops of different lengths, nested breaks and continues, a dense switch,
// brx.idx, early exits, goto into a common tail.
// Launch: any block, one block.

extern "C" __global__ void collatz(int *steps) {
    long long n = threadIdx.x + 1;
    int count = 0;
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        count++;
    }
    steps[threadIdx.x] = count;
}

extern "C" __global__ void nested(int *out, int n) {
    int i = threadIdx.x, sum = 0;
    for (int a = 0; a < n; a++) {
        if ((a + i) % 3 == 0) continue;
        for (int b = 0; b < i; b++) {
            if (b * a > 40) break;
            if ((b ^ i) & 1) {
                sum += b;
                continue;
            }
            sum -= a;
            if (sum < -200) goto tail;
        }
        sum += 1;
    }
tail:
    out[i] = sum;
}

// Twenty cases of work that cannot be turned into a table of numbers.
extern "C" __global__ void dense_switch(const int *which, int *out) {
    int i = threadIdx.x, x = i;
    switch (which[i]) {
    case 0: x = x * 3 + 1; break;
    case 1: x ^= 0x55; break;
    case 2: x = out[i] - x; break;
    case 3: x <<= 3;
    case 4: x += 1000; break;
    case 5:
        for (int k = 0; k < i; k++) x += out[i] ^ k;
        break;
    case 6: out[i] += x; return;
    case 7: x = __popc(x); break;
    case 8: x = -x; break;
    case 9: return;
    case 10: x = out[i] / (x + 1); break;
    case 11: x = out[i] % (x + 1); break;
    case 12: out[i] = 12;
    case 13: x = out[i] * 2; break;
    case 14: x = __clz(x); break;
    case 15: x = __brev(x) >> 24; break;
    case 16: x = max(x, 20); break;
    case 17: x = min(x, 20); break;
    case 18: x = x * x; break;
    case 19: x = x * x * x - 1; break;
    default: x = 7777;
    }
    out[i] = x;
}

// A jump table, which nvcc does not make of a switch by itself: lanes of one warp go four ways. which[i] is 0 to 3.
extern "C" __global__ void jump_table(const int *which, int *out) {
    int i = threadIdx.x, x = i;
    asm volatile("{\n"
                 "ways: .branchtargets same, triple, negative, same;\n"
                 "brx.idx %1, ways;\n"
                 "same:\n"
                 "add.s32 %0, %0, 500;\n"
                 "bra done;\n"
                 "triple:\n"
                 "mul.lo.s32 %0, %0, 3;\n"
                 "bra done;\n"
                 "negative:\n"
                 "neg.s32 %0, %0;\n"
                 "done:\n"
                 "}"
                 : "+r"(x)
                 : "r"(which[i]));
    out[i] = x;
}

// Threads leave one after the other; the rest go on meeting at the barrier.
extern "C" __global__ void early_exit(int *out) {
    for (int round = 0; round < 8; round++) {
        if (threadIdx.x / 32 == round) return;
        __syncthreads();
        out[threadIdx.x] = round + 1;
    }
}
