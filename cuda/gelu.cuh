// GELU in float32, with one instruction of the special-function unit.
#pragma once

#include "ptx.cuh"

/// x·Φ(x), the exact form of GELU. Φ(-a) for a ≥ 0 is 2^q(a), q a polynomial fitted for the least relative error of
/// Φ(-a) on [0, 6]: there it is at most 6e-6, roundings and ex2 included. Above 6 q keeps falling, down to where ex2
/// gives 0, and the result is within 1e-13 of x·Φ(x). Computed as 1 + erf it would lose its digits where x < -3.
/// NaN and infinities give NaN.
__device__ __forceinline__ float gelu(float x) {
    const float a = fabsf(x);
    float q = -1.83481089e-06f;
    q = __fmaf_rn(q, a, 6.1598284e-05f);
    q = __fmaf_rn(q, a, -0.000930524783f);
    q = __fmaf_rn(q, a, 0.00850789073f);
    q = __fmaf_rn(q, a, -0.0539600689f);
    q = __fmaf_rn(q, a, -0.458464393f);
    q = __fmaf_rn(q, a, -1.15125105f);
    q = __fmaf_rn(q, a, -0.999995294f);
    // x - x·Φ(-x) for x ≥ 0, and x·Φ(x) below.
    return __fmaf_rn(-a, ex2_approx_ftz_f32(q), fmaxf(x, 0.0f));
}
