//! arch: compute_90a
//! reads: ../../../../cuda
// The engine's own kernels, as they are.
#include "../../../../cuda/sm90/attention.cu"
