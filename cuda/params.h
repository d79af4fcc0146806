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
/// resident adapters side by side, masked and scaled for the row, written behind the row as
/// columns hidden_size .. hidden_size + columns of it.
struct LoraDown {
    /// [columns, hidden_size] numbers: A of every resident adapter; what padding columns hold does not
    /// matter.
    DEVICE(const uint16_t) a;
    /// [columns]: what each column belongs to.
    DEVICE(const struct LoraColumn) column;
    /// A multiple of LORA_COLUMN_STEP; 0 where the batch or the layer has no adapters, and the
    /// other fields are then not read.
    uint32_t columns;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LoraDown, 24);

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
    /// [tokens, out_stride] numbers: hidden_size columns, then lora.columns.
    DEVICE(uint16_t) out;
    /// Read if adapters is not null, lora.columns is not 0, or position is not null (the rows' sequences).
    struct Mixtures mixtures;
    /// For the first layer's Wqkv.
    struct LoraDown lora;
    /// A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN.
    uint32_t hidden_size;
    /// Numbers between rows of out: a multiple of ROW_VECTOR, at least hidden_size + lora.columns.
    uint32_t out_stride;
    /// Row of position that a sequence's first token has.
    uint32_t position_offset;
    /// LayerNorm's epsilon.
    float eps;
};
SAME_SIZE(struct EmbedParams, 144);

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
    /// [tokens, out_stride] numbers: hidden_size columns, then lora.columns. May be x or y, if the
    /// stride is the same: a row is read whole before it is written.
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
    /// Numbers between rows of out: a multiple of ROW_VECTOR, at least hidden_size + lora.columns.
    uint32_t out_stride;
    /// Added to the variance.
    float eps;
    /// Zero.
    uint32_t reserved;
};
SAME_SIZE(struct LayerNormParams, 120);

#endif
