// The parameter structs and constants that host and kernels share, defined here alone.
//
// Plain C: nvcc includes it directly, and tools/bindgen generates src/kernels/params.rs from it. A kernel takes one of
// these structs as its only parameter, `const __grid_constant__`. Every pointer is a device address, and its comment
// gives shape and type; an "element" has the 16-bit type of the entry (bfloat16 in embed_bf16). No struct has implicit
// padding.
#ifndef ROPEWAY_PARAMS_H
#define ROPEWAY_PARAMS_H

#include <stdint.h>

// A device address: a pointer for the kernels; an integer of eight bytes for the host, which must never dereference it.
#ifdef __CUDACC__
#define DEVICE(type) type *
#else
#define DEVICE(type) uint64_t
#endif

#ifdef __cplusplus
#define SAME_SIZE(type, bytes) static_assert(sizeof(type) == bytes, #type)
#else
#define SAME_SIZE(type, bytes) _Static_assert(sizeof(type) == bytes, #type)
#endif

// ---- Hopper ----

/// A matrix as bulk tensor copies see it: the driver's CUtensorMap. Its bytes are the driver's own.
struct TensorMap {
    uint64_t words[16];
} __attribute__((aligned(64)));
SAME_SIZE(struct TensorMap, 128);

/// What a thread leaves in memory of the host before it gives up waiting at a barrier. All zero as long as none has.
struct Stall {
    /// The kernel: STALL_GEMM, ….
    uint32_t kernel;
    /// blockIdx.x.
    uint32_t block;
    /// threadIdx.x, which says the role.
    uint32_t thread;
    /// Its shared address.
    uint32_t barrier;
    /// The parity of the phase that did not end.
    uint32_t parity;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct Stall, 24);
/// Stall::kernel of the kernels of sm90/gemm.cu.
#define STALL_GEMM 1u
/// Stall::kernel of the kernels of sm90/attention.cu.
#define STALL_ATTENTION 2u
/// How long a thread waits at a barrier, in nanoseconds.
#define STALL_LIMIT 2000000000u

// ---- Row kernels (embed, layernorm): one row of hidden_size elements, held in registers ----

/// Elements in a 16-byte vector; hidden_size and every stride are multiples of it.
#define ROW_VECTOR 8
/// Vectors that one lane holds, at most.
#define ROW_LANE_VECTORS 4
/// Columns that one warp covers, and so the largest hidden_size with one warp per row: 32 lanes of ROW_LANE_VECTORS
/// vectors.
#define ROW_WARP_COLUMNS 1024
/// The largest number of warps in a block.
#define ROW_MAX_WARPS 8
/// The largest hidden_size: ROW_MAX_WARPS warps.
#define ROW_MAX_HIDDEN 8192
/// Dynamic shared memory of a block whose row has more than one warp: two buffers of LORA_GROUP float32 sums per warp.
/// A block of one-warp rows needs none.
#define ROW_SHARED_BYTES 256

// ---- Adapters ----

/// The number of columns of a down-projection is padded to a multiple of this, the K of one MMA.
#define LORA_COLUMN_STEP 16
/// Columns of h that a row kernel sums together. It skips groups of which the row uses no column.
#define LORA_GROUP 4
/// LoraColumn::slot of a padding column.
#define LORA_NO_SLOT 0xffffffffu

/// The adapters that each sequence uses, with their weights.
struct Mixtures {
    /// [tokens] uint32: the sequence of each row.
    DEVICE(const uint32_t) sequence_of_row;
    /// [sequences, slots] float32: 0 where the sequence does not use the slot.
    DEVICE(const float) weights;
    /// Slots: those of loaded adapters, and empty ones.
    uint32_t slots;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct Mixtures, 24);

/// The owner of one column of a site's down-projection.
struct LoraColumn {
    /// The adapter's slot, or LORA_NO_SLOT.
    uint32_t slot;
    /// alpha / rank of the adapter's factors.
    float scale;
};
SAME_SIZE(struct LoraColumn, 8);

/// The down-projection of a row kernel's output for the linear layer that reads it: h = x Aᵀ, the columns of all loaded
/// adapters concatenated, masked and scaled for the row.
struct LoraDown {
    /// [columns, hidden_size] elements: A of every loaded adapter; the contents of padding columns do not matter.
    DEVICE(const uint16_t) a;
    /// [columns]: the owner of each column.
    DEVICE(const struct LoraColumn) column;
    /// [tokens, columns] elements.
    DEVICE(uint16_t) h;
    /// A multiple of LORA_COLUMN_STEP, or 0 if the batch or the layer has no adapters; the other fields are then not
    /// read.
    uint32_t columns;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LoraDown, 32);

/// An adapter's factors for the embedding tables.
struct EmbedAdapter {
    /// [vocab_size, rank] elements, or null if the adapter does not change the word table.
    DEVICE(const uint16_t) a;
    /// [rank, hidden_size] elements.
    DEVICE(const uint16_t) b;
    /// [hidden_size] float32: scale · A_type[0] B_type, or null if the adapter does not change the token types.
    DEVICE(const float) token_type;
    /// alpha / rank of a and b.
    float scale;
    /// Columns of a.
    uint32_t rank;
};
SAME_SIZE(struct EmbedAdapter, 32);

/// embed_bf16, embed_f16.
struct EmbedParams {
    /// [1] uint32: rows; blocks past them exit at once.
    DEVICE(const uint32_t) tokens;
    /// [tokens] uint32, each below vocab_size.
    DEVICE(const uint32_t) ids;
    /// [tokens] uint32: the row of position for each token. Read if position is not null.
    DEVICE(const uint32_t) position_of_row;
    /// [vocab_size, hidden_size] elements.
    DEVICE(const uint16_t) word;
    /// [hidden_size] elements: token type 0.
    DEVICE(const uint16_t) token_type;
    /// [positions, hidden_size] elements, or null if positions are not learned.
    DEVICE(const uint16_t) position;
    /// [hidden_size] elements: LayerNorm's gain.
    DEVICE(const uint16_t) gamma;
    /// [hidden_size] elements: LayerNorm's offset.
    DEVICE(const uint16_t) beta;
    /// [slots], or null if no sequence of the batch uses an adapter. A slot is read only by sequences that use it.
    DEVICE(const struct EmbedAdapter) adapters;
    /// [tokens, out_stride] elements: hidden_size columns.
    DEVICE(uint16_t) out;
    /// Read if adapters is not null or lora.columns is not 0.
    struct Mixtures mixtures;
    /// For the first layer's Wqkv.
    struct LoraDown lora;
    /// A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN.
    uint32_t hidden_size;
    /// Elements between rows of out: a multiple of ROW_VECTOR.
    uint32_t out_stride;
    /// LayerNorm's epsilon.
    float eps;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct EmbedParams, 152);

/// layernorm_bf16, layernorm_f16.
struct LayerNormParams {
    /// [1] uint32: rows; blocks past them exit at once.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] elements: the residual stream.
    DEVICE(const uint16_t) x;
    /// [tokens, y_stride] elements: the addend.
    DEVICE(const uint16_t) y;
    /// [hidden_size] elements: the gain.
    DEVICE(const uint16_t) gamma;
    /// [hidden_size] elements: the offset.
    DEVICE(const uint16_t) beta;
    /// [tokens, out_stride] elements. May be x or y, if the stride is the same: a whole row is read before it is
    /// written.
    DEVICE(uint16_t) out;
    /// Read if lora.columns is not 0.
    struct Mixtures mixtures;
    /// For the linear layer that reads out: the same layer's fc1, the next layer's Wqkv.
    struct LoraDown lora;
    /// A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN.
    uint32_t hidden_size;
    /// Elements between rows of x: a multiple of ROW_VECTOR.
    uint32_t x_stride;
    /// Elements between rows of y: a multiple of ROW_VECTOR.
    uint32_t y_stride;
    /// Elements between rows of out: a multiple of ROW_VECTOR.
    uint32_t out_stride;
    /// Added to the variance.
    float eps;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LayerNormParams, 128);

// ---- Rotary position embedding ----

/// Rotates pairs (i, i + head_dim / 2) of every head of q and k by the angle of the row's position: (a, b) becomes
/// (a·cos - b·sin, b·cos + a·sin), in float32 before the one rounding (arXiv 2104.09864, half-split pairs).
struct Rope {
    /// [positions, head_dim / 2] pairs of float32, cosine and sine; or null: nothing is rotated or scaled.
    DEVICE(const float) table;
    /// [tokens] uint32: the position of each row in its sequence.
    DEVICE(const uint32_t) position_of_row;
    /// Elements per head: 32, 64 or 128.
    uint32_t head_dim;
    /// The factor of q after its rotation: head_dim^-0.5.
    float q_scale;
};
SAME_SIZE(struct Rope, 24);

// ---- Linear layers ----

/// Tiles of the GEMM kernels. A grid is (⌈n / COLUMNS⌉, ⌈rows / ROWS⌉) blocks of THREADS, with SHARED bytes of dynamic
/// shared memory each. `rows` are those of the bucket, not of the batch: blocks past tokens exit at once.
/// Each warp computes WARP_ROWS x WARP_COLUMNS of it, and a multiprocessor's registers hold BLOCKS at least.
///
/// For many tokens: the fewest bytes per FLOP.
#define GEMM_LARGE_ROWS 128
#define GEMM_LARGE_COLUMNS 128
#define GEMM_LARGE_WARP_ROWS 64
#define GEMM_LARGE_WARP_COLUMNS 64
#define GEMM_LARGE_THREADS 128
#define GEMM_LARGE_SHARED 49152
#define GEMM_LARGE_BLOCKS 2
/// For a few hundred tokens: enough blocks for all multiprocessors.
#define GEMM_MEDIUM_ROWS 64
#define GEMM_MEDIUM_COLUMNS 64
#define GEMM_MEDIUM_WARP_ROWS 32
#define GEMM_MEDIUM_WARP_COLUMNS 32
#define GEMM_MEDIUM_THREADS 128
#define GEMM_MEDIUM_SHARED 49152
#define GEMM_MEDIUM_BLOCKS 3
/// For up to 64 tokens: weights stream through narrow tiles, with most stages in flight at once.
#define GEMM_SMALL64_ROWS 32
#define GEMM_SMALL64_COLUMNS 32
#define GEMM_SMALL64_WARP_ROWS 16
#define GEMM_SMALL64_WARP_COLUMNS 16
#define GEMM_SMALL64_THREADS 128
#define GEMM_SMALL64_SHARED 65536
#define GEMM_SMALL64_BLOCKS 3
/// For up to 16 tokens: narrower still.
#define GEMM_SMALL16_ROWS 16
#define GEMM_SMALL16_COLUMNS 16
#define GEMM_SMALL16_WARP_ROWS 16
#define GEMM_SMALL16_WARP_COLUMNS 8
#define GEMM_SMALL16_THREADS 64
#define GEMM_SMALL16_SHARED 65536
#define GEMM_SMALL16_BLOCKS 3
/// The same with k in PARTS parts, each with two warps and six stages of its own. Not for results that must not depend on their
/// batch: the sums of the parts are added at the end, which gives other bits than one sum.
#define GEMM_SPLIT16_ROWS 16
#define GEMM_SPLIT16_COLUMNS 16
#define GEMM_SPLIT16_PARTS 4
#define GEMM_SPLIT16_WARP_ROWS 16
#define GEMM_SPLIT16_WARP_COLUMNS 8
#define GEMM_SPLIT16_THREADS 256
#define GEMM_SPLIT16_SHARED 98304

/// gemm_*: out = f(x Wᵀ + h Bᵀ + bias + residual), f the identity or GELU; q and k rotated, q scaled, if rope.table is
/// not null. Each element of out has one float32 accumulator: over k in ascending order in steps of 16, then over the
/// columns of h likewise, for every tile. So all variants but split16 give the same bits.
struct GemmParams {
    /// [1] uint32: rows; blocks past them exit at once.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] elements.
    DEVICE(const uint16_t) x;
    /// [n, k] elements.
    DEVICE(const uint16_t) w;
    /// [tokens, columns] elements: the down-projection, masked and scaled. Read if columns is not 0.
    DEVICE(const uint16_t) h;
    /// [n, columns] elements: B of all loaded adapters, concatenated by column, all finite. Read if columns is not 0.
    DEVICE(const uint16_t) b;
    /// [n] elements, or null.
    DEVICE(const uint16_t) bias;
    /// [tokens, residual_stride] elements, or null. May be out, if the stride is the same.
    DEVICE(const uint16_t) residual;
    /// [tokens, out_stride] elements.
    DEVICE(uint16_t) out;
    /// For Wqkv, whose rows are q, k and v, n / 3 each, in whole heads. With a table gelu must be 0.
    struct Rope rope;
    /// Columns of out: a multiple of 8.
    uint32_t n;
    /// Columns of x and w: a multiple of 8.
    uint32_t k;
    /// Columns of h and b: a multiple of LORA_COLUMN_STEP, or 0.
    uint32_t columns;
    /// Elements between rows of x: a multiple of 8.
    uint32_t x_stride;
    /// Elements between rows of residual: a multiple of 8.
    uint32_t residual_stride;
    /// Elements between rows of out: a multiple of 8.
    uint32_t out_stride;
    /// 1: f is GELU in its exact erf form; 0: f is the identity.
    uint32_t gelu;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct GemmParams, 120);

/// The tile of norm_gemm_*: a grid is ⌈n / COLUMNS⌉ blocks of THREADS, with SHARED bytes of dynamic shared memory each.
///
/// The most rows.
#define NORM_GEMM_ROWS 16
#define NORM_GEMM_COLUMNS 32
/// Two rows per warp are normalised; four warps multiply.
#define NORM_GEMM_THREADS 256
/// The most columns of h.
#define NORM_GEMM_MAX_LORA 64
/// Ten stages of 32 rows of w, then x and h: 64 columns of each.
#define NORM_GEMM_SHARED 75776

/// norm_gemm_*: layernorm_*, then gemm_* of what it wrote, in one launch and with the same bits, for few rows.
struct NormGemmParams {
    /// hidden_size at most ROW_WARP_COLUMNS, lora.columns at most NORM_GEMM_MAX_LORA. Every block reads x and y, and the
    /// first writes out and lora.h: these may be neither x nor y.
    struct LayerNormParams norm;
    /// x, x_stride and h are not read: they are norm.out and norm.lora.h. k is norm.hidden_size, columns norm.lora.columns,
    /// and residual null.
    struct GemmParams gemm;
};
SAME_SIZE(struct NormGemmParams, 248);

/// Tiles of the GEMM kernels of compute capability 9.0 (sm90/gemm.cu). A grid is any number of blocks of THREADS, with
/// SHARED bytes of dynamic shared memory each.
///
/// For many tokens.
#define GEMM_WIDE_ROWS 128
#define GEMM_WIDE_COLUMNS 256
#define GEMM_WIDE_THREADS 384
#define GEMM_WIDE_SHARED 230464
/// For many tokens too, where the epilogue is long: its two warpgroups take tiles in turn.
#define GEMM_PINGPONG_ROWS 128
#define GEMM_PINGPONG_COLUMNS 128
#define GEMM_PINGPONG_THREADS 384
#define GEMM_PINGPONG_SHARED 230000
/// For fewer: each of the next three has half of the elements of the one before, so that more multiprocessors have one.
#define GEMM_SQUARE_ROWS 128
#define GEMM_SQUARE_COLUMNS 128
#define GEMM_SQUARE_THREADS 384
#define GEMM_SQUARE_SHARED 229984
#define GEMM_HALF_ROWS 64
#define GEMM_HALF_COLUMNS 128
#define GEMM_HALF_THREADS 256
#define GEMM_HALF_SHARED 213376
/// Not for RoPE on heads of 128 elements, which are two tiles.
#define GEMM_QUARTER_ROWS 64
#define GEMM_QUARTER_COLUMNS 64
#define GEMM_QUARTER_THREADS 256
#define GEMM_QUARTER_SHARED 205120
/// Rows of the boxes by which these kernels store out; those of x and h have ROWS, those of w and b COLUMNS. All have 64
/// columns.
#define GEMM_SM90_OUT_ROWS 64

/// gemm_*_wide, _pingpong, _square, _half, _quarter: the same product, with the matrices as maps too.
struct GemmSm90Params {
    /// Of x: [rows, k], where `rows` are at least tokens: the rows that may be read.
    struct TensorMap x;
    /// [n, k]
    struct TensorMap w;
    /// [rows, columns]. Read if columns is not 0.
    struct TensorMap h;
    /// [n, columns]. Read if columns is not 0.
    struct TensorMap b;
    /// [rows, n]
    struct TensorMap out;
    /// The product; x, w, h and b in it are not read.
    struct GemmParams gemm;
    /// Written by a thread that gives up waiting; or null.
    DEVICE(struct Stall) stall;
};
SAME_SIZE(struct GemmSm90Params, 768);

/// Rows of a block of lora_down, the M of one MMA.
#define LORA_DOWN_ROWS 16
/// Threads of a block.
#define LORA_DOWN_THREADS 256
/// Columns of h that a block accumulates in one pass over its rows of x; if its rows use more, it makes more passes.
#define LORA_DOWN_COLUMNS 32
/// Dynamic shared memory of a block: LORA_DOWN_ROWS by LORA_DOWN_COLUMNS float32 per warp, and the masks of the columns
/// in use.
#define LORA_DOWN_SHARED_BYTES 16512

/// lora_down_*: h = (x Aᵀ) · weight · scale, masked, for linear layers whose x is not the output of a row kernel.
struct LoraDownParams {
    /// [1] uint32: rows; blocks past them exit at once.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] elements.
    DEVICE(const uint16_t) x;
    /// [columns, k] elements: A of every loaded adapter; the contents of padding columns do not matter.
    DEVICE(const uint16_t) a;
    /// [columns]: the owner of each column.
    DEVICE(const struct LoraColumn) column;
    /// [tokens, columns] elements.
    DEVICE(uint16_t) h;
    /// The rows' adapters.
    struct Mixtures mixtures;
    /// Columns of x and a: a multiple of 8.
    uint32_t k;
    /// A multiple of LORA_COLUMN_STEP.
    uint32_t columns;
    /// Elements between rows of x: a multiple of 8.
    uint32_t x_stride;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LoraDownParams, 80);

/// The tile of down_gemm_*: a grid is ⌈n / COLUMNS⌉ blocks of THREADS, with SHARED bytes of dynamic shared memory each.
///
/// The most rows.
#define DOWN_GEMM_ROWS 16
#define DOWN_GEMM_COLUMNS 16
/// Two warps multiply; those of lora_down make h.
#define DOWN_GEMM_THREADS 320
/// The most columns of h.
#define DOWN_GEMM_MAX_LORA 64
/// What gemm_*_small16 has, 64 columns of h and of b, and what lora_down has.
#define DOWN_GEMM_SHARED 86144

/// down_gemm_*: lora_down_*, then gemm_* of its x and of what it wrote, in one launch and with the same bits, for few rows.
struct DownGemmParams {
    /// columns at most DOWN_GEMM_MAX_LORA. Every block reads x, and the first writes h.
    struct LoraDownParams down;
    /// h is not read: it is down.h. x, x_stride, k and columns are those of down.
    struct GemmParams gemm;
};
SAME_SIZE(struct DownGemmParams, 200);

// ---- Attention ----

/// Threads of a block. It needs 2·head_dim·(rows + 4·keys) bytes of dynamic shared memory, for its queries and two
/// stages of keys and values; keys = min(ATTENTION_MAX_KEYS, ATTENTION_TILE_NUMBERS / head_dim).
#define ATTENTION_THREADS 128
/// Queries of a tile of attention_*_large.
#define ATTENTION_LARGE_ROWS 128
/// Queries of a tile of attention_*_small.
#define ATTENTION_SMALL_ROWS 64
/// The largest key tile: keys per update of the online softmax. Both variants of a head_dim have the same, and so give
/// the same bits.
#define ATTENTION_MAX_KEYS 64
/// The most elements in a key tile: with head_dim 128 the registers allow 32 keys.
#define ATTENTION_TILE_NUMBERS 4096

/// A tile of queries: up to the entry's rows, all of one sequence.
struct AttentionTile {
    /// The sequence.
    uint32_t sequence;
    /// Its first query of the tile, counted from the sequence's first row: a multiple of the entry's rows, below
    /// the sequence's length.
    uint32_t first;
};
SAME_SIZE(struct AttentionTile, 8);

/// attention_*: softmax(q kᵀ · scale) v for every head of every sequence, not causal.
struct AttentionParams {
    /// [1] uint32: tiles. Blocks take (tile, head) pairs gridDim.x apart, so a grid of any size covers them.
    DEVICE(const uint32_t) tile_count;
    /// [tiles], longest sequences first.
    DEVICE(const struct AttentionTile) tiles;
    /// [sequences + 1] uint32: first row of each sequence.
    DEVICE(const uint32_t) cu_seqlens;
    /// [tokens, qkv_stride] elements: q of all heads, k of all heads, v of all heads.
    DEVICE(const uint16_t) qkv;
    /// [positions, head_dim / 2] pairs of float32, cosine and sine, to rotate q and k by; or null if q and k are
    /// already rotated or the model has no RoPE.
    DEVICE(const float) rope;
    /// [tokens, out_stride] elements: the heads, concatenated.
    DEVICE(uint16_t) out;
    /// Heads.
    uint32_t heads;
    /// The factor of the scores, above 0: head_dim^-0.5, or 1 if q is already scaled.
    float scale;
    /// Elements between rows of qkv: a multiple of 8.
    uint32_t qkv_stride;
    /// Elements between rows of out: a multiple of 8.
    uint32_t out_stride;
};
SAME_SIZE(struct AttentionParams, 64);

/// Tiles of the attention kernels of compute capability 9.0 (sm90/attention.cu), for a head_dim of 64: THREADS with SHARED
/// bytes of dynamic shared memory, of which a multiprocessor has BLOCKS at a time. They have the key tile of the other
/// kernels, ATTENTION_MAX_KEYS, and so their bits. The boxes by which they read q, k and v have ROWS rows and 64 columns.
///
/// Queries of a tile of attention_*_wgmma64, for one warpgroup.
#define ATTENTION_WGMMA64_ROWS 64
#define ATTENTION_WGMMA64_THREADS 256
#define ATTENTION_WGMMA64_SHARED 65760
#define ATTENTION_WGMMA64_BLOCKS 3
/// Queries of a tile of attention_*_wgmma128, for two.
#define ATTENTION_WGMMA128_ROWS 128
#define ATTENTION_WGMMA128_THREADS 384
#define ATTENTION_WGMMA128_SHARED 147712
#define ATTENTION_WGMMA128_BLOCKS 1

/// attention_*_wgmma64, attention_*_wgmma128: the same for heads of 64 elements, with qkv as a map too.
struct AttentionSm90Params {
    /// [rows, 3·heads·64], where `rows` are at least the tokens: the rows that may be read.
    struct TensorMap qkv;
    /// With rope null: q and k are rotated already.
    struct AttentionParams attention;
    /// Written by a thread that gives up waiting; or null.
    DEVICE(struct Stall) stall;
    /// Zero.
    uint64_t reserved[7];
};
SAME_SIZE(struct AttentionSm90Params, 256);

// ---- Pooling ----

/// PoolRow::encoding: float32.
#define POOL_F32 0u
/// PoolRow::encoding: float16.
#define POOL_F16 1u
/// PoolRow::encoding: round(127·x / max|x|), a byte each.
#define POOL_INT8 2u
/// PoolRow::encoding: x > 0, a bit each, most significant first.
#define POOL_BINARY 3u
/// PoolRow::flags: divide the sum of the rows by the sum of their weights, which are 1 unless POOL_WEIGHTED is set.
#define POOL_MEAN 1u
/// PoolRow::flags: divide by the Euclidean norm, after truncation to `dimensions`.
#define POOL_NORMALIZE 2u
/// PoolRow::flags: the largest of each column in place of the sum; NaN if any is. Without POOL_MEAN.
#define POOL_MAX 4u
/// PoolRow::flags: row r of the vector, counted from 0, has the weight r + 1 in the sum.
#define POOL_WEIGHTED 8u
/// PoolRow::flags, beside POOL_MEAN: divide by the square root of the sum of the weights.
#define POOL_SQRT_LEN 16u
/// Bytes of the head of a record: uint32, 1 if all elements are finite in float32, else 0 (their encoding may not show
/// it); float32, the scale of POOL_INT8, max|x| / 127, else 0.
#define POOL_HEAD_BYTES 8
/// Threads of a block.
#define POOL_THREADS 512
/// The largest number of groups of rows that a block sums concurrently.
#define POOL_MAX_GROUPS 32
/// Dynamic shared memory of a block: the largest record, and the warps' parts of reductions.
#define POOL_SHARED_BYTES 32912

/// One output vector.
struct PoolRow {
    /// First row of x.
    uint32_t first;
    /// Rows, at least 1.
    uint32_t rows;
    /// Columns that are kept: the first `dimensions`.
    uint32_t dimensions;
    /// POOL_MEAN, POOL_NORMALIZE, …
    uint32_t flags;
    /// POOL_F32, …
    uint32_t encoding;
    /// Where its record begins in out, in bytes: a multiple of 8.
    uint32_t out;
};
SAME_SIZE(struct PoolRow, 24);

/// pool_*.
struct PoolParams {
    /// [1] uint32: output vectors. Blocks take them gridDim.x apart, so a grid of any size covers them.
    DEVICE(const uint32_t) count;
    /// [count]
    DEVICE(const struct PoolRow) rows;
    /// [tokens, x_stride] elements.
    DEVICE(const uint16_t) x;
    /// The records.
    DEVICE(uint8_t) out;
    /// Columns of x: a multiple of 8.
    uint32_t hidden_size;
    /// Elements between rows of x: a multiple of 8.
    uint32_t x_stride;
};
SAME_SIZE(struct PoolParams, 40);

#endif
