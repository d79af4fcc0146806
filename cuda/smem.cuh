// Dynamic shared memory, declared once: a kernel lays a struct or byte offsets over `smem`. No kernel uses static
// __shared__ variables, because each would count against every kernel of its file.
#pragma once

// 1024: the alignment that 128-byte-swizzled TMA tiles need.
extern __shared__ __align__(1024) unsigned char smem[];
