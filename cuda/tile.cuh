// Shared memory. There is one name for it, so that a kernel's plan is a struct or an offset over
// these bytes; a static __shared__ would count against every kernel of its file.
#pragma once

// 1024: the alignment that 128-byte-swizzled TMA tiles need.
extern __shared__ __align__(1024) unsigned char smem[];
