// The structs and constants that host and kernels share: the one source of both sides.
//
// Plain C. nvcc includes it as it is; tools/bindgen makes src/gpu/params.rs of it. A kernel takes one
// of these structs as its only parameter, `const __grid_constant__`. Every pointer is to device
// memory and says its shape and type; "number" is the 16-bit type of the entry (embed_bf16: bfloat16).
// No struct has implicit padding.
#ifndef ROPEWAY_PARAMS_H
#define ROPEWAY_PARAMS_H

#include <stdint.h>

// An address on the device: a pointer for the kernels, eight bytes for the host, which must never
// follow it.
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

// ---- Row kernels (embed, layernorm): one row of hidden_size numbers, held in registers ----

/// Numbers in one 16-byte access; hidden_size and every stride are multiples of it.
#define ROW_VECTOR 8
/// Accesses per lane that cover a row's share of one warp.
#define ROW_LANE_VECTORS 4
/// Columns that one warp covers, and so hidden_size up to which a row has one warp: 32 lanes of
/// ROW_LANE_VECTORS vectors.
#define ROW_WARP_COLUMNS 1024
/// Warps in a block at most.
#define ROW_MAX_WARPS 8
/// The largest hidden_size: ROW_MAX_WARPS warps.
#define ROW_MAX_HIDDEN 8192
/// Dynamic shared memory of a block whose rows have more than one warp: two sets of
/// LORA_GROUP float32 sums per warp. A block of one-warp rows needs none.
#define ROW_SHARED_BYTES 256

// ---- Adapters ----

/// Columns of a down-projection are padded to a multiple of this, the K of one MMA.
#define LORA_COLUMN_STEP 16
/// Columns whose sums are taken together; groups that a row does not use cost it nothing.
#define LORA_GROUP 4
/// LoraColumn::slot of a padding column.
#define LORA_NO_SLOT 0xffffffffu

/// Which adapters each sequence uses, and how much.
struct Mixtures {
    /// [tokens] uint32: the sequence of each row.
    DEVICE(const uint32_t) sequence_of_row;
    /// [sequences, slots] float32: 0 where the sequence does not use the slot.
    DEVICE(const float) weights;
    /// Slots, resident adapters and gaps.
    uint32_t slots;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct Mixtures, 24);

/// What one column of a site's down-projection belongs to.
struct LoraColumn {
    /// The adapter's slot, or LORA_NO_SLOT.
    uint32_t slot;
    /// alpha / rank of its part.
    float scale;
};
SAME_SIZE(struct LoraColumn, 8);

/// The down-projection of a row kernel's output for the linear layer that reads it: h = x Aᵀ for all
/// resident adapters side by side, masked and scaled for the row.
struct LoraDown {
    /// [columns, hidden_size] numbers: A of every resident adapter; what padding columns hold does not
    /// matter.
    DEVICE(const uint16_t) a;
    /// [columns]: what each column belongs to.
    DEVICE(const struct LoraColumn) column;
    /// [tokens, columns] numbers.
    DEVICE(uint16_t) h;
    /// A multiple of LORA_COLUMN_STEP; 0 where the batch or the layer has no adapters, and the
    /// other fields are then not read.
    uint32_t columns;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LoraDown, 32);

/// An adapter's factors of the embedding tables.
struct EmbedAdapter {
    /// [vocab_size, rank] numbers, or null if the words are not adapted.
    DEVICE(const uint16_t) a;
    /// [rank, hidden_size] numbers.
    DEVICE(const uint16_t) b;
    /// [hidden_size] float32: scale · A_type[0] B_type, or null if the token types are not adapted.
    DEVICE(const float) token_type;
    /// alpha / rank of a and b.
    float scale;
    /// Columns of a.
    uint32_t rank;
};
SAME_SIZE(struct EmbedAdapter, 32);

/// embed_bf16, embed_f16.
struct EmbedParams {
    /// [1] uint32: rows; blocks past them exit.
    DEVICE(const uint32_t) tokens;
    /// [tokens] uint32, each below vocab_size.
    DEVICE(const uint32_t) ids;
    /// [sequences + 1] uint32: first row of each sequence. Read if position is not null.
    DEVICE(const uint32_t) cu_seqlens;
    /// [vocab_size, hidden_size] numbers.
    DEVICE(const uint16_t) word;
    /// [hidden_size] numbers: token type 0.
    DEVICE(const uint16_t) token_type;
    /// [positions, hidden_size] numbers, or null if positions are not learned.
    DEVICE(const uint16_t) position;
    /// [hidden_size] numbers: LayerNorm's gain.
    DEVICE(const uint16_t) gamma;
    /// [hidden_size] numbers: LayerNorm's offset.
    DEVICE(const uint16_t) beta;
    /// [slots], or null if no sequence of the batch uses an adapter; weight 0 keeps a slot unread.
    DEVICE(const struct EmbedAdapter) adapters;
    /// [tokens, out_stride] numbers: hidden_size columns.
    DEVICE(uint16_t) out;
    /// Read if adapters is not null, lora.columns is not 0, or position is not null (the rows' sequences).
    struct Mixtures mixtures;
    /// For the first layer's Wqkv.
    struct LoraDown lora;
    /// A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN.
    uint32_t hidden_size;
    /// Numbers between rows of out: a multiple of ROW_VECTOR.
    uint32_t out_stride;
    /// Row of position that a sequence's first token has.
    uint32_t position_offset;
    /// LayerNorm's epsilon.
    float eps;
};
SAME_SIZE(struct EmbedParams, 152);

/// layernorm_bf16, layernorm_f16.
struct LayerNormParams {
    /// [1] uint32: rows; blocks past them exit.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] numbers: the residual stream.
    DEVICE(const uint16_t) x;
    /// [tokens, y_stride] numbers: what is added to it.
    DEVICE(const uint16_t) y;
    /// [hidden_size] numbers: the gain.
    DEVICE(const uint16_t) gamma;
    /// [hidden_size] numbers: the offset.
    DEVICE(const uint16_t) beta;
    /// [tokens, out_stride] numbers. May be x or y, if the stride is the same: a row is read whole before
    /// it is written.
    DEVICE(uint16_t) out;
    /// Read if lora.columns is not 0.
    struct Mixtures mixtures;
    /// For the linear layer that reads out: the same layer's fc1, the next layer's Wqkv.
    struct LoraDown lora;
    /// A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN.
    uint32_t hidden_size;
    /// Numbers between rows of x: a multiple of ROW_VECTOR.
    uint32_t x_stride;
    /// Numbers between rows of y: a multiple of ROW_VECTOR.
    uint32_t y_stride;
    /// Numbers between rows of out: a multiple of ROW_VECTOR.
    uint32_t out_stride;
    /// Added to the variance.
    float eps;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LayerNormParams, 128);

// ---- Rotary position embedding ----

/// Rotates pairs (i, i + head_dim / 2) of every head of q and k by the angle of the row's position:
/// (a, b) becomes (a·cos - b·sin, b·cos + a·sin), in float32 before the one rounding
/// (arXiv 2104.09864, half-split pairs).
struct Rope {
    /// [positions, head_dim / 2] pairs of float32, cosine and sine; or null: nothing is rotated or scaled.
    DEVICE(const float) table;
    /// [tokens] uint32: the position of each row in its sequence.
    DEVICE(const uint32_t) position_of_row;
    /// Numbers per head: 32, 64 or 128.
    uint32_t head_dim;
    /// What q is multiplied by, after its rotation: head_dim^-0.5.
    float q_scale;
};
SAME_SIZE(struct Rope, 24);

// ---- Linear layers ----

/// Tiles of the linear layers' kernels. A grid is (⌈n / COLUMNS⌉, ⌈rows / ROWS⌉) blocks of THREADS, with SHARED bytes of
/// dynamic shared memory each. Rows of the bucket, not of the batch: blocks past tokens exit.
///
/// Many tokens: the least bytes per product.
#define GEMM_LARGE_ROWS 128
#define GEMM_LARGE_COLUMNS 128
#define GEMM_LARGE_THREADS 128
#define GEMM_LARGE_SHARED 69632
/// A few hundred tokens: enough blocks for all multiprocessors.
#define GEMM_MEDIUM_ROWS 64
#define GEMM_MEDIUM_COLUMNS 64
#define GEMM_MEDIUM_THREADS 128
#define GEMM_MEDIUM_SHARED 49152
/// Up to 64 tokens: weights stream through narrow tiles, most of the stages are under way at once.
#define GEMM_SMALL64_ROWS 32
#define GEMM_SMALL64_COLUMNS 32
#define GEMM_SMALL64_THREADS 128
#define GEMM_SMALL64_SHARED 65536
/// Up to 16 tokens: narrower still.
#define GEMM_SMALL16_ROWS 16
#define GEMM_SMALL16_COLUMNS 16
#define GEMM_SMALL16_THREADS 64
#define GEMM_SMALL16_SHARED 65536

/// gemm_*: out = f(x Wᵀ + h Bᵀ + bias + residual), f the identity or GELU; q and k rotated, q scaled, if
/// rope.table is not null. One sum per number of out, in float32: over k in ascending order in steps of
/// 16, then over the columns of h likewise, whatever the tile. So every variant gives the same bits.
struct GemmParams {
    /// [1] uint32: rows; blocks past them exit.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] numbers.
    DEVICE(const uint16_t) x;
    /// [n, k] numbers.
    DEVICE(const uint16_t) w;
    /// [tokens, columns] numbers: the down-projection, masked and scaled. Read if columns is not 0.
    DEVICE(const uint16_t) h;
    /// [n, columns] numbers: B of all resident adapters side by side, all finite. Read if columns is not 0.
    DEVICE(const uint16_t) b;
    /// [n] numbers, or null.
    DEVICE(const uint16_t) bias;
    /// [tokens, residual_stride] numbers, or null. May be out, if the stride is the same.
    DEVICE(const uint16_t) residual;
    /// [tokens, out_stride] numbers.
    DEVICE(uint16_t) out;
    /// For Wqkv, whose rows are q, k and v, n / 3 each, whole heads. With a table there is no GELU.
    struct Rope rope;
    /// Columns of out: a multiple of 8.
    uint32_t n;
    /// Columns of x and w: a multiple of 8.
    uint32_t k;
    /// Columns of h and b: a multiple of LORA_COLUMN_STEP, or 0.
    uint32_t columns;
    /// Numbers between rows of x: a multiple of 8.
    uint32_t x_stride;
    /// Numbers between rows of residual: a multiple of 8.
    uint32_t residual_stride;
    /// Numbers between rows of out: a multiple of 8.
    uint32_t out_stride;
    /// 1: out is GELU, exact erf form, of the sum; 0: the sum.
    uint32_t gelu;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct GemmParams, 120);

/// Rows of a block of lora_down, the M of one MMA.
#define LORA_DOWN_ROWS 16
/// Threads of a block.
#define LORA_DOWN_THREADS 256
/// Columns whose sums a block takes in one pass over its rows of x; if they use more, it makes more passes.
#define LORA_DOWN_COLUMNS 32
/// Dynamic shared memory of a block: LORA_DOWN_ROWS by LORA_DOWN_COLUMNS float32 per warp, and which columns are
/// in use.
#define LORA_DOWN_SHARED_BYTES 16448

/// lora_down_*: h = (x Aᵀ) · weight · scale, masked, for linear layers whose x comes from no row kernel.
struct LoraDownParams {
    /// [1] uint32: rows; blocks past them exit.
    DEVICE(const uint32_t) tokens;
    /// [tokens, x_stride] numbers.
    DEVICE(const uint16_t) x;
    /// [columns, k] numbers: A of every resident adapter; what padding columns hold does not matter.
    DEVICE(const uint16_t) a;
    /// [columns]: what each column belongs to.
    DEVICE(const struct LoraColumn) column;
    /// [tokens, columns] numbers.
    DEVICE(uint16_t) h;
    /// The rows' adapters.
    struct Mixtures mixtures;
    /// Columns of x and a: a multiple of 8.
    uint32_t k;
    /// A multiple of LORA_COLUMN_STEP.
    uint32_t columns;
    /// Numbers between rows of x: a multiple of 8.
    uint32_t x_stride;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LoraDownParams, 80);

// ---- Attention ----

/// Threads of a block. It needs 2·head_dim·(rows + 4·keys) bytes of shared memory: its queries, and two stages of
/// keys and values; keys = min(ATTENTION_MAX_KEYS, ATTENTION_TILE_NUMBERS / head_dim).
#define ATTENTION_THREADS 128
/// Queries of a tile of attention_*_large.
#define ATTENTION_LARGE_ROWS 128
/// Queries of a tile of attention_*_small.
#define ATTENTION_SMALL_ROWS 64
/// Keys of one step of the softmax at most: the same in both variants of a head_dim, and so are the bits.
#define ATTENTION_MAX_KEYS 64
/// Numbers of the keys of one step at most: head_dim 128 has registers for 32 keys.
#define ATTENTION_TILE_NUMBERS 4096

/// Queries of one block: up to the entry's rows of one sequence.
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
    /// [1] uint32: tiles. Blocks take (tile, head) pairs in turn until there are no more, so that any
    /// grid does.
    DEVICE(const uint32_t) tile_count;
    /// [tiles], longest sequences first.
    DEVICE(const struct AttentionTile) tiles;
    /// [sequences + 1] uint32: first row of each sequence.
    DEVICE(const uint32_t) cu_seqlens;
    /// [tokens, qkv_stride] numbers: q of all heads, k of all heads, v of all heads.
    DEVICE(const uint16_t) qkv;
    /// [positions, head_dim / 2] pairs of float32, cosine and sine, to rotate q and k by; or null, if they
    /// are rotated already or never.
    DEVICE(const float) rope;
    /// [tokens, out_stride] numbers: heads side by side.
    DEVICE(uint16_t) out;
    /// Heads.
    uint32_t heads;
    /// What scores are multiplied by, above 0: head_dim^-0.5, or 1 if q is scaled already.
    float scale;
    /// Numbers between rows of qkv: a multiple of 8.
    uint32_t qkv_stride;
    /// Numbers between rows of out: a multiple of 8.
    uint32_t out_stride;
};
SAME_SIZE(struct AttentionParams, 64);

// ---- Pooling ----

/// PoolRow::encoding: float32.
#define POOL_F32 0u
/// PoolRow::encoding: float16.
#define POOL_F16 1u
/// PoolRow::encoding: round(127·x / max|x|), a byte each.
#define POOL_INT8 2u
/// PoolRow::encoding: x > 0, a bit each, most significant first.
#define POOL_BINARY 3u
/// PoolRow::flags: divide the sum of the rows by their number.
#define POOL_MEAN 1u
/// PoolRow::flags: divide by the Euclidean norm, after cutting.
#define POOL_NORMALIZE 2u
/// Bytes ahead of a record's numbers: uint32, 1 if all of them are finite in float32 and else 0 (what
/// they are encoded to then does not say); float32, the scale of POOL_INT8, max|x| / 127, and else 0.
#define POOL_HEAD_BYTES 8
/// Threads of a block.
#define POOL_THREADS 512
/// Groups of rows that are summed side by side, at most: narrow rows leave threads for many.
#define POOL_MAX_GROUPS 32
/// Dynamic shared memory of a block: the largest record, and what its warps tell each other.
#define POOL_SHARED_BYTES 32912

/// One output vector.
struct PoolRow {
    /// First row of x.
    uint32_t first;
    /// Rows, at least 1.
    uint32_t rows;
    /// The first so many columns are kept.
    uint32_t dimensions;
    /// POOL_MEAN, POOL_NORMALIZE.
    uint32_t flags;
    /// POOL_F32, …
    uint32_t encoding;
    /// Where its record begins in out, in bytes: a multiple of 8.
    uint32_t out;
};
SAME_SIZE(struct PoolRow, 24);

/// pool_*.
struct PoolParams {
    /// [1] uint32: output vectors. Blocks take them in turn, so that any grid does.
    DEVICE(const uint32_t) count;
    /// [count]
    DEVICE(const struct PoolRow) rows;
    /// [tokens, x_stride] numbers.
    DEVICE(const uint16_t) x;
    /// The records.
    DEVICE(uint8_t) out;
    /// Columns of x: a multiple of 8.
    uint32_t hidden_size;
    /// Numbers between rows of x: a multiple of 8.
    uint32_t x_stride;
};
SAME_SIZE(struct PoolParams, 40);

#endif
