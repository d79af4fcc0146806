// Made from cuda/params.h by tools/bindgen/run. Do not edit: change the header and run it again.

/// The header that this was made from, as FNV-1a of its bytes.
pub const HEADER_FNV1A: u64 = 0x1166b8c3934c47b1;

pub const STALL_GEMM: u32 = 1;
pub const STALL_ATTENTION: u32 = 2;
pub const STALL_LIMIT: u32 = 2000000000;
pub const ROW_VECTOR: u32 = 8;
pub const ROW_LANE_VECTORS: u32 = 4;
pub const ROW_WARP_COLUMNS: u32 = 1024;
pub const ROW_MAX_WARPS: u32 = 8;
pub const ROW_MAX_HIDDEN: u32 = 8192;
pub const ROW_SHARED_BYTES: u32 = 256;
pub const LORA_COLUMN_STEP: u32 = 16;
pub const LORA_GROUP: u32 = 4;
pub const LORA_NO_SLOT: u32 = 4294967295;
pub const GEMM_LARGE_ROWS: u32 = 128;
pub const GEMM_LARGE_COLUMNS: u32 = 128;
pub const GEMM_LARGE_WARP_ROWS: u32 = 64;
pub const GEMM_LARGE_WARP_COLUMNS: u32 = 64;
pub const GEMM_LARGE_THREADS: u32 = 128;
pub const GEMM_LARGE_SHARED: u32 = 49152;
pub const GEMM_LARGE_BLOCKS: u32 = 2;
pub const GEMM_MEDIUM_ROWS: u32 = 64;
pub const GEMM_MEDIUM_COLUMNS: u32 = 64;
pub const GEMM_MEDIUM_WARP_ROWS: u32 = 32;
pub const GEMM_MEDIUM_WARP_COLUMNS: u32 = 32;
pub const GEMM_MEDIUM_THREADS: u32 = 128;
pub const GEMM_MEDIUM_SHARED: u32 = 49152;
pub const GEMM_MEDIUM_BLOCKS: u32 = 3;
pub const GEMM_SMALL64_ROWS: u32 = 32;
pub const GEMM_SMALL64_COLUMNS: u32 = 32;
pub const GEMM_SMALL64_WARP_ROWS: u32 = 16;
pub const GEMM_SMALL64_WARP_COLUMNS: u32 = 16;
pub const GEMM_SMALL64_THREADS: u32 = 128;
pub const GEMM_SMALL64_SHARED: u32 = 65536;
pub const GEMM_SMALL64_BLOCKS: u32 = 3;
pub const GEMM_SMALL16_ROWS: u32 = 16;
pub const GEMM_SMALL16_COLUMNS: u32 = 16;
pub const GEMM_SMALL16_WARP_ROWS: u32 = 16;
pub const GEMM_SMALL16_WARP_COLUMNS: u32 = 8;
pub const GEMM_SMALL16_THREADS: u32 = 64;
pub const GEMM_SMALL16_SHARED: u32 = 65536;
pub const GEMM_SMALL16_BLOCKS: u32 = 3;
pub const GEMM_SPLIT16_ROWS: u32 = 16;
pub const GEMM_SPLIT16_COLUMNS: u32 = 16;
pub const GEMM_SPLIT16_PARTS: u32 = 4;
pub const GEMM_SPLIT16_WARP_ROWS: u32 = 16;
pub const GEMM_SPLIT16_WARP_COLUMNS: u32 = 8;
pub const GEMM_SPLIT16_THREADS: u32 = 256;
pub const GEMM_SPLIT16_SHARED: u32 = 98304;
pub const NORM_GEMM_ROWS: u32 = 16;
pub const NORM_GEMM_COLUMNS: u32 = 32;
pub const NORM_GEMM_THREADS: u32 = 256;
pub const NORM_GEMM_MAX_LORA: u32 = 64;
pub const NORM_GEMM_SHARED: u32 = 75776;
pub const GEMM_WIDE_ROWS: u32 = 128;
pub const GEMM_WIDE_COLUMNS: u32 = 256;
pub const GEMM_WIDE_THREADS: u32 = 384;
pub const GEMM_WIDE_SHARED: u32 = 230464;
pub const GEMM_PINGPONG_ROWS: u32 = 128;
pub const GEMM_PINGPONG_COLUMNS: u32 = 128;
pub const GEMM_PINGPONG_THREADS: u32 = 384;
pub const GEMM_PINGPONG_SHARED: u32 = 230000;
pub const GEMM_SQUARE_ROWS: u32 = 128;
pub const GEMM_SQUARE_COLUMNS: u32 = 128;
pub const GEMM_SQUARE_THREADS: u32 = 384;
pub const GEMM_SQUARE_SHARED: u32 = 229984;
pub const GEMM_HALF_ROWS: u32 = 64;
pub const GEMM_HALF_COLUMNS: u32 = 128;
pub const GEMM_HALF_THREADS: u32 = 256;
pub const GEMM_HALF_SHARED: u32 = 213376;
pub const GEMM_QUARTER_ROWS: u32 = 64;
pub const GEMM_QUARTER_COLUMNS: u32 = 64;
pub const GEMM_QUARTER_THREADS: u32 = 256;
pub const GEMM_QUARTER_SHARED: u32 = 205120;
pub const GEMM_SM90_OUT_ROWS: u32 = 64;
pub const LORA_DOWN_ROWS: u32 = 16;
pub const LORA_DOWN_THREADS: u32 = 256;
pub const LORA_DOWN_COLUMNS: u32 = 32;
pub const LORA_DOWN_SHARED_BYTES: u32 = 16512;
pub const DOWN_GEMM_ROWS: u32 = 16;
pub const DOWN_GEMM_COLUMNS: u32 = 16;
pub const DOWN_GEMM_THREADS: u32 = 320;
pub const DOWN_GEMM_MAX_LORA: u32 = 64;
pub const DOWN_GEMM_SHARED: u32 = 86144;
pub const ATTENTION_THREADS: u32 = 128;
pub const ATTENTION_LARGE_ROWS: u32 = 128;
pub const ATTENTION_SMALL_ROWS: u32 = 64;
pub const ATTENTION_MAX_KEYS: u32 = 64;
pub const ATTENTION_TILE_NUMBERS: u32 = 4096;
pub const ATTENTION_WGMMA64_ROWS: u32 = 64;
pub const ATTENTION_WGMMA64_THREADS: u32 = 256;
pub const ATTENTION_WGMMA64_SHARED: u32 = 65760;
pub const ATTENTION_WGMMA64_BLOCKS: u32 = 3;
pub const ATTENTION_WGMMA128_ROWS: u32 = 128;
pub const ATTENTION_WGMMA128_THREADS: u32 = 384;
pub const ATTENTION_WGMMA128_SHARED: u32 = 147712;
pub const ATTENTION_WGMMA128_BLOCKS: u32 = 1;
pub const POOL_F32: u32 = 0;
pub const POOL_F16: u32 = 1;
pub const POOL_INT8: u32 = 2;
pub const POOL_BINARY: u32 = 3;
pub const POOL_MEAN: u32 = 1;
pub const POOL_NORMALIZE: u32 = 2;
pub const POOL_MAX: u32 = 4;
pub const POOL_WEIGHTED: u32 = 8;
pub const POOL_SQRT_LEN: u32 = 16;
pub const POOL_HEAD_BYTES: u32 = 8;
pub const POOL_THREADS: u32 = 512;
pub const POOL_MAX_GROUPS: u32 = 32;
pub const POOL_SHARED_BYTES: u32 = 32912;
#[doc = " A matrix as bulk tensor copies see it: the driver's CUtensorMap. Its bytes are the driver's own."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct TensorMap {
    pub words: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TensorMap"][::core::mem::size_of::<TensorMap>() - 128usize];
    ["Alignment of TensorMap"][::core::mem::align_of::<TensorMap>() - 64usize];
    ["Offset of field: TensorMap::words"][::core::mem::offset_of!(TensorMap, words) - 0usize];
};
#[doc = " What a thread leaves in memory of the host before it gives up waiting at a barrier. All zero as long as none has."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Stall {
    #[doc = " The kernel: STALL_GEMM, …."]
    pub kernel: u32,
    #[doc = " blockIdx.x."]
    pub block: u32,
    #[doc = " threadIdx.x, which says the role."]
    pub thread: u32,
    #[doc = " Its shared address."]
    pub barrier: u32,
    #[doc = " The parity of the phase that did not end."]
    pub parity: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Stall"][::core::mem::size_of::<Stall>() - 24usize];
    ["Alignment of Stall"][::core::mem::align_of::<Stall>() - 4usize];
    ["Offset of field: Stall::kernel"][::core::mem::offset_of!(Stall, kernel) - 0usize];
    ["Offset of field: Stall::block"][::core::mem::offset_of!(Stall, block) - 4usize];
    ["Offset of field: Stall::thread"][::core::mem::offset_of!(Stall, thread) - 8usize];
    ["Offset of field: Stall::barrier"][::core::mem::offset_of!(Stall, barrier) - 12usize];
    ["Offset of field: Stall::parity"][::core::mem::offset_of!(Stall, parity) - 16usize];
    ["Offset of field: Stall::reserved"][::core::mem::offset_of!(Stall, reserved) - 20usize];
};
#[doc = " The adapters that each sequence uses, with their weights."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Mixtures {
    #[doc = " [tokens] uint32: the sequence of each row."]
    pub sequence_of_row: u64,
    #[doc = " [sequences, slots] float32: 0 where the sequence does not use the slot."]
    pub weights: u64,
    #[doc = " Slots: those of loaded adapters, and empty ones."]
    pub slots: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Mixtures"][::core::mem::size_of::<Mixtures>() - 24usize];
    ["Alignment of Mixtures"][::core::mem::align_of::<Mixtures>() - 8usize];
    ["Offset of field: Mixtures::sequence_of_row"]
        [::core::mem::offset_of!(Mixtures, sequence_of_row) - 0usize];
    ["Offset of field: Mixtures::weights"][::core::mem::offset_of!(Mixtures, weights) - 8usize];
    ["Offset of field: Mixtures::slots"][::core::mem::offset_of!(Mixtures, slots) - 16usize];
    ["Offset of field: Mixtures::reserved"][::core::mem::offset_of!(Mixtures, reserved) - 20usize];
};
#[doc = " The owner of one column of a site's down-projection."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LoraColumn {
    #[doc = " The adapter's slot, or LORA_NO_SLOT."]
    pub slot: u32,
    #[doc = " alpha / rank of the adapter's factors."]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraColumn"][::core::mem::size_of::<LoraColumn>() - 8usize];
    ["Alignment of LoraColumn"][::core::mem::align_of::<LoraColumn>() - 4usize];
    ["Offset of field: LoraColumn::slot"][::core::mem::offset_of!(LoraColumn, slot) - 0usize];
    ["Offset of field: LoraColumn::scale"][::core::mem::offset_of!(LoraColumn, scale) - 4usize];
};
#[doc = " The down-projection of a row kernel's output for the linear layer that reads it: h = x Aᵀ, the columns of all loaded\n adapters concatenated, masked and scaled for the row."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LoraDown {
    #[doc = " [columns, hidden_size] elements: A of every loaded adapter; the contents of padding columns do not matter."]
    pub a: u64,
    #[doc = " [columns]: the owner of each column."]
    pub column: u64,
    #[doc = " [tokens, columns] elements."]
    pub h: u64,
    #[doc = " A multiple of LORA_COLUMN_STEP, or 0 if the batch or the layer has no adapters; the other fields are then not\n read."]
    pub columns: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraDown"][::core::mem::size_of::<LoraDown>() - 32usize];
    ["Alignment of LoraDown"][::core::mem::align_of::<LoraDown>() - 8usize];
    ["Offset of field: LoraDown::a"][::core::mem::offset_of!(LoraDown, a) - 0usize];
    ["Offset of field: LoraDown::column"][::core::mem::offset_of!(LoraDown, column) - 8usize];
    ["Offset of field: LoraDown::h"][::core::mem::offset_of!(LoraDown, h) - 16usize];
    ["Offset of field: LoraDown::columns"][::core::mem::offset_of!(LoraDown, columns) - 24usize];
    ["Offset of field: LoraDown::reserved"][::core::mem::offset_of!(LoraDown, reserved) - 28usize];
};
#[doc = " An adapter's factors for the embedding tables."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct EmbedAdapter {
    #[doc = " [vocab_size, rank] elements, or null if the adapter does not change the word table."]
    pub a: u64,
    #[doc = " [rank, hidden_size] elements."]
    pub b: u64,
    #[doc = " [hidden_size] float32: scale · A_type[0] B_type, or null if the adapter does not change the token types."]
    pub token_type: u64,
    #[doc = " alpha / rank of a and b."]
    pub scale: f32,
    #[doc = " Columns of a."]
    pub rank: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedAdapter"][::core::mem::size_of::<EmbedAdapter>() - 32usize];
    ["Alignment of EmbedAdapter"][::core::mem::align_of::<EmbedAdapter>() - 8usize];
    ["Offset of field: EmbedAdapter::a"][::core::mem::offset_of!(EmbedAdapter, a) - 0usize];
    ["Offset of field: EmbedAdapter::b"][::core::mem::offset_of!(EmbedAdapter, b) - 8usize];
    ["Offset of field: EmbedAdapter::token_type"]
        [::core::mem::offset_of!(EmbedAdapter, token_type) - 16usize];
    ["Offset of field: EmbedAdapter::scale"][::core::mem::offset_of!(EmbedAdapter, scale) - 24usize];
    ["Offset of field: EmbedAdapter::rank"][::core::mem::offset_of!(EmbedAdapter, rank) - 28usize];
};
#[doc = " embed_bf16, embed_f16."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct EmbedParams {
    #[doc = " [1] uint32: rows; blocks past them exit at once."]
    pub tokens: u64,
    #[doc = " [tokens] uint32, each below vocab_size."]
    pub ids: u64,
    #[doc = " [tokens] uint32: the row of position for each token. Read if position is not null."]
    pub position_of_row: u64,
    #[doc = " [vocab_size, hidden_size] elements."]
    pub word: u64,
    #[doc = " [hidden_size] elements: token type 0."]
    pub token_type: u64,
    #[doc = " [positions, hidden_size] elements, or null if positions are not learned."]
    pub position: u64,
    #[doc = " [hidden_size] elements: LayerNorm's gain."]
    pub gamma: u64,
    #[doc = " [hidden_size] elements: LayerNorm's offset."]
    pub beta: u64,
    #[doc = " [slots], or null if no sequence of the batch uses an adapter. A slot is read only by sequences that use it."]
    pub adapters: u64,
    #[doc = " [tokens, out_stride] elements: hidden_size columns."]
    pub out: u64,
    #[doc = " Read if adapters is not null or lora.columns is not 0."]
    pub mixtures: Mixtures,
    #[doc = " For the first layer's Wqkv."]
    pub lora: LoraDown,
    #[doc = " A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN."]
    pub hidden_size: u32,
    #[doc = " Elements between rows of out: a multiple of ROW_VECTOR."]
    pub out_stride: u32,
    #[doc = " LayerNorm's epsilon."]
    pub eps: f32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedParams"][::core::mem::size_of::<EmbedParams>() - 152usize];
    ["Alignment of EmbedParams"][::core::mem::align_of::<EmbedParams>() - 8usize];
    ["Offset of field: EmbedParams::tokens"][::core::mem::offset_of!(EmbedParams, tokens) - 0usize];
    ["Offset of field: EmbedParams::ids"][::core::mem::offset_of!(EmbedParams, ids) - 8usize];
    ["Offset of field: EmbedParams::position_of_row"]
        [::core::mem::offset_of!(EmbedParams, position_of_row) - 16usize];
    ["Offset of field: EmbedParams::word"][::core::mem::offset_of!(EmbedParams, word) - 24usize];
    ["Offset of field: EmbedParams::token_type"][::core::mem::offset_of!(EmbedParams, token_type) - 32usize];
    ["Offset of field: EmbedParams::position"][::core::mem::offset_of!(EmbedParams, position) - 40usize];
    ["Offset of field: EmbedParams::gamma"][::core::mem::offset_of!(EmbedParams, gamma) - 48usize];
    ["Offset of field: EmbedParams::beta"][::core::mem::offset_of!(EmbedParams, beta) - 56usize];
    ["Offset of field: EmbedParams::adapters"][::core::mem::offset_of!(EmbedParams, adapters) - 64usize];
    ["Offset of field: EmbedParams::out"][::core::mem::offset_of!(EmbedParams, out) - 72usize];
    ["Offset of field: EmbedParams::mixtures"][::core::mem::offset_of!(EmbedParams, mixtures) - 80usize];
    ["Offset of field: EmbedParams::lora"][::core::mem::offset_of!(EmbedParams, lora) - 104usize];
    ["Offset of field: EmbedParams::hidden_size"]
        [::core::mem::offset_of!(EmbedParams, hidden_size) - 136usize];
    ["Offset of field: EmbedParams::out_stride"][::core::mem::offset_of!(EmbedParams, out_stride) - 140usize];
    ["Offset of field: EmbedParams::eps"][::core::mem::offset_of!(EmbedParams, eps) - 144usize];
    ["Offset of field: EmbedParams::reserved"][::core::mem::offset_of!(EmbedParams, reserved) - 148usize];
};
#[doc = " layernorm_bf16, layernorm_f16."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LayerNormParams {
    #[doc = " [1] uint32: rows; blocks past them exit at once."]
    pub tokens: u64,
    #[doc = " [tokens, x_stride] elements: the residual stream."]
    pub x: u64,
    #[doc = " [tokens, y_stride] elements: the addend."]
    pub y: u64,
    #[doc = " [hidden_size] elements: the gain."]
    pub gamma: u64,
    #[doc = " [hidden_size] elements: the offset."]
    pub beta: u64,
    #[doc = " [tokens, out_stride] elements. May be x or y, if the stride is the same: a whole row is read before it is\n written."]
    pub out: u64,
    #[doc = " Read if lora.columns is not 0."]
    pub mixtures: Mixtures,
    #[doc = " For the linear layer that reads out: the same layer's fc1, the next layer's Wqkv."]
    pub lora: LoraDown,
    #[doc = " A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN."]
    pub hidden_size: u32,
    #[doc = " Elements between rows of x: a multiple of ROW_VECTOR."]
    pub x_stride: u32,
    #[doc = " Elements between rows of y: a multiple of ROW_VECTOR."]
    pub y_stride: u32,
    #[doc = " Elements between rows of out: a multiple of ROW_VECTOR."]
    pub out_stride: u32,
    #[doc = " Added to the variance."]
    pub eps: f32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormParams"][::core::mem::size_of::<LayerNormParams>() - 128usize];
    ["Alignment of LayerNormParams"][::core::mem::align_of::<LayerNormParams>() - 8usize];
    ["Offset of field: LayerNormParams::tokens"][::core::mem::offset_of!(LayerNormParams, tokens) - 0usize];
    ["Offset of field: LayerNormParams::x"][::core::mem::offset_of!(LayerNormParams, x) - 8usize];
    ["Offset of field: LayerNormParams::y"][::core::mem::offset_of!(LayerNormParams, y) - 16usize];
    ["Offset of field: LayerNormParams::gamma"][::core::mem::offset_of!(LayerNormParams, gamma) - 24usize];
    ["Offset of field: LayerNormParams::beta"][::core::mem::offset_of!(LayerNormParams, beta) - 32usize];
    ["Offset of field: LayerNormParams::out"][::core::mem::offset_of!(LayerNormParams, out) - 40usize];
    ["Offset of field: LayerNormParams::mixtures"]
        [::core::mem::offset_of!(LayerNormParams, mixtures) - 48usize];
    ["Offset of field: LayerNormParams::lora"][::core::mem::offset_of!(LayerNormParams, lora) - 72usize];
    ["Offset of field: LayerNormParams::hidden_size"]
        [::core::mem::offset_of!(LayerNormParams, hidden_size) - 104usize];
    ["Offset of field: LayerNormParams::x_stride"]
        [::core::mem::offset_of!(LayerNormParams, x_stride) - 108usize];
    ["Offset of field: LayerNormParams::y_stride"]
        [::core::mem::offset_of!(LayerNormParams, y_stride) - 112usize];
    ["Offset of field: LayerNormParams::out_stride"]
        [::core::mem::offset_of!(LayerNormParams, out_stride) - 116usize];
    ["Offset of field: LayerNormParams::eps"][::core::mem::offset_of!(LayerNormParams, eps) - 120usize];
    ["Offset of field: LayerNormParams::reserved"]
        [::core::mem::offset_of!(LayerNormParams, reserved) - 124usize];
};
#[doc = " Rotates pairs (i, i + head_dim / 2) of every head of q and k by the angle of the row's position: (a, b) becomes\n (a·cos - b·sin, b·cos + a·sin), in float32 before the one rounding (arXiv 2104.09864, half-split pairs)."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Rope {
    #[doc = " [positions, head_dim / 2] pairs of float32, cosine and sine; or null: nothing is rotated or scaled."]
    pub table: u64,
    #[doc = " [tokens] uint32: the position of each row in its sequence."]
    pub position_of_row: u64,
    #[doc = " Elements per head: 32, 64 or 128."]
    pub head_dim: u32,
    #[doc = " The factor of q after its rotation: head_dim^-0.5."]
    pub q_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Rope"][::core::mem::size_of::<Rope>() - 24usize];
    ["Alignment of Rope"][::core::mem::align_of::<Rope>() - 8usize];
    ["Offset of field: Rope::table"][::core::mem::offset_of!(Rope, table) - 0usize];
    ["Offset of field: Rope::position_of_row"][::core::mem::offset_of!(Rope, position_of_row) - 8usize];
    ["Offset of field: Rope::head_dim"][::core::mem::offset_of!(Rope, head_dim) - 16usize];
    ["Offset of field: Rope::q_scale"][::core::mem::offset_of!(Rope, q_scale) - 20usize];
};
#[doc = " gemm_*: out = f(x Wᵀ + h Bᵀ + bias + residual), f the identity or GELU; q and k rotated, q scaled, if rope.table is\n not null. Each element of out has one float32 accumulator: over k in ascending order in steps of 16, then over the\n columns of h likewise, for every tile. So all variants but split16 give the same bits."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GemmParams {
    #[doc = " [1] uint32: rows; blocks past them exit at once."]
    pub tokens: u64,
    #[doc = " [tokens, x_stride] elements."]
    pub x: u64,
    #[doc = " [n, k] elements."]
    pub w: u64,
    #[doc = " [tokens, columns] elements: the down-projection, masked and scaled. Read if columns is not 0."]
    pub h: u64,
    #[doc = " [n, columns] elements: B of all loaded adapters, concatenated by column, all finite. Read if columns is not 0."]
    pub b: u64,
    #[doc = " [n] elements, or null."]
    pub bias: u64,
    #[doc = " [tokens, residual_stride] elements, or null. May be out, if the stride is the same."]
    pub residual: u64,
    #[doc = " [tokens, out_stride] elements."]
    pub out: u64,
    #[doc = " For Wqkv, whose rows are q, k and v, n / 3 each, in whole heads. With a table gelu must be 0."]
    pub rope: Rope,
    #[doc = " Columns of out: a multiple of 8."]
    pub n: u32,
    #[doc = " Columns of x and w: a multiple of 8."]
    pub k: u32,
    #[doc = " Columns of h and b: a multiple of LORA_COLUMN_STEP, or 0."]
    pub columns: u32,
    #[doc = " Elements between rows of x: a multiple of 8."]
    pub x_stride: u32,
    #[doc = " Elements between rows of residual: a multiple of 8."]
    pub residual_stride: u32,
    #[doc = " Elements between rows of out: a multiple of 8."]
    pub out_stride: u32,
    #[doc = " 1: f is GELU in its exact erf form; 0: f is the identity."]
    pub gelu: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmParams"][::core::mem::size_of::<GemmParams>() - 120usize];
    ["Alignment of GemmParams"][::core::mem::align_of::<GemmParams>() - 8usize];
    ["Offset of field: GemmParams::tokens"][::core::mem::offset_of!(GemmParams, tokens) - 0usize];
    ["Offset of field: GemmParams::x"][::core::mem::offset_of!(GemmParams, x) - 8usize];
    ["Offset of field: GemmParams::w"][::core::mem::offset_of!(GemmParams, w) - 16usize];
    ["Offset of field: GemmParams::h"][::core::mem::offset_of!(GemmParams, h) - 24usize];
    ["Offset of field: GemmParams::b"][::core::mem::offset_of!(GemmParams, b) - 32usize];
    ["Offset of field: GemmParams::bias"][::core::mem::offset_of!(GemmParams, bias) - 40usize];
    ["Offset of field: GemmParams::residual"][::core::mem::offset_of!(GemmParams, residual) - 48usize];
    ["Offset of field: GemmParams::out"][::core::mem::offset_of!(GemmParams, out) - 56usize];
    ["Offset of field: GemmParams::rope"][::core::mem::offset_of!(GemmParams, rope) - 64usize];
    ["Offset of field: GemmParams::n"][::core::mem::offset_of!(GemmParams, n) - 88usize];
    ["Offset of field: GemmParams::k"][::core::mem::offset_of!(GemmParams, k) - 92usize];
    ["Offset of field: GemmParams::columns"][::core::mem::offset_of!(GemmParams, columns) - 96usize];
    ["Offset of field: GemmParams::x_stride"][::core::mem::offset_of!(GemmParams, x_stride) - 100usize];
    ["Offset of field: GemmParams::residual_stride"]
        [::core::mem::offset_of!(GemmParams, residual_stride) - 104usize];
    ["Offset of field: GemmParams::out_stride"][::core::mem::offset_of!(GemmParams, out_stride) - 108usize];
    ["Offset of field: GemmParams::gelu"][::core::mem::offset_of!(GemmParams, gelu) - 112usize];
    ["Offset of field: GemmParams::reserved"][::core::mem::offset_of!(GemmParams, reserved) - 116usize];
};
#[doc = " norm_gemm_*: layernorm_*, then gemm_* of what it wrote, in one launch and with the same bits, for few rows."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct NormGemmParams {
    #[doc = " hidden_size at most ROW_WARP_COLUMNS, lora.columns at most NORM_GEMM_MAX_LORA. Every block reads x and y, and the\n first writes out and lora.h: these may be neither x nor y."]
    pub norm: LayerNormParams,
    #[doc = " x, x_stride and h are not read: they are norm.out and norm.lora.h. k is norm.hidden_size, columns norm.lora.columns,\n and residual null."]
    pub gemm: GemmParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormGemmParams"][::core::mem::size_of::<NormGemmParams>() - 248usize];
    ["Alignment of NormGemmParams"][::core::mem::align_of::<NormGemmParams>() - 8usize];
    ["Offset of field: NormGemmParams::norm"][::core::mem::offset_of!(NormGemmParams, norm) - 0usize];
    ["Offset of field: NormGemmParams::gemm"][::core::mem::offset_of!(NormGemmParams, gemm) - 128usize];
};
#[doc = " gemm_*_wide, _pingpong, _square, _half, _quarter: the same product, with the matrices as maps too."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GemmSm90Params {
    #[doc = " Of x: [rows, k], where `rows` are at least tokens: the rows that may be read."]
    pub x: TensorMap,
    #[doc = " [n, k]"]
    pub w: TensorMap,
    #[doc = " [rows, columns]. Read if columns is not 0."]
    pub h: TensorMap,
    #[doc = " [n, columns]. Read if columns is not 0."]
    pub b: TensorMap,
    #[doc = " [rows, n]"]
    pub out: TensorMap,
    #[doc = " The product; x, w, h and b in it are not read."]
    pub gemm: GemmParams,
    #[doc = " Written by a thread that gives up waiting; or null."]
    pub stall: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmSm90Params"][::core::mem::size_of::<GemmSm90Params>() - 768usize];
    ["Alignment of GemmSm90Params"][::core::mem::align_of::<GemmSm90Params>() - 64usize];
    ["Offset of field: GemmSm90Params::x"][::core::mem::offset_of!(GemmSm90Params, x) - 0usize];
    ["Offset of field: GemmSm90Params::w"][::core::mem::offset_of!(GemmSm90Params, w) - 128usize];
    ["Offset of field: GemmSm90Params::h"][::core::mem::offset_of!(GemmSm90Params, h) - 256usize];
    ["Offset of field: GemmSm90Params::b"][::core::mem::offset_of!(GemmSm90Params, b) - 384usize];
    ["Offset of field: GemmSm90Params::out"][::core::mem::offset_of!(GemmSm90Params, out) - 512usize];
    ["Offset of field: GemmSm90Params::gemm"][::core::mem::offset_of!(GemmSm90Params, gemm) - 640usize];
    ["Offset of field: GemmSm90Params::stall"][::core::mem::offset_of!(GemmSm90Params, stall) - 760usize];
};
#[doc = " lora_down_*: h = (x Aᵀ) · weight · scale, masked, for linear layers whose x is not the output of a row kernel."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LoraDownParams {
    #[doc = " [1] uint32: rows; blocks past them exit at once."]
    pub tokens: u64,
    #[doc = " [tokens, x_stride] elements."]
    pub x: u64,
    #[doc = " [columns, k] elements: A of every loaded adapter; the contents of padding columns do not matter."]
    pub a: u64,
    #[doc = " [columns]: the owner of each column."]
    pub column: u64,
    #[doc = " [tokens, columns] elements."]
    pub h: u64,
    #[doc = " The rows' adapters."]
    pub mixtures: Mixtures,
    #[doc = " Columns of x and a: a multiple of 8."]
    pub k: u32,
    #[doc = " A multiple of LORA_COLUMN_STEP."]
    pub columns: u32,
    #[doc = " Elements between rows of x: a multiple of 8."]
    pub x_stride: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraDownParams"][::core::mem::size_of::<LoraDownParams>() - 80usize];
    ["Alignment of LoraDownParams"][::core::mem::align_of::<LoraDownParams>() - 8usize];
    ["Offset of field: LoraDownParams::tokens"][::core::mem::offset_of!(LoraDownParams, tokens) - 0usize];
    ["Offset of field: LoraDownParams::x"][::core::mem::offset_of!(LoraDownParams, x) - 8usize];
    ["Offset of field: LoraDownParams::a"][::core::mem::offset_of!(LoraDownParams, a) - 16usize];
    ["Offset of field: LoraDownParams::column"][::core::mem::offset_of!(LoraDownParams, column) - 24usize];
    ["Offset of field: LoraDownParams::h"][::core::mem::offset_of!(LoraDownParams, h) - 32usize];
    ["Offset of field: LoraDownParams::mixtures"]
        [::core::mem::offset_of!(LoraDownParams, mixtures) - 40usize];
    ["Offset of field: LoraDownParams::k"][::core::mem::offset_of!(LoraDownParams, k) - 64usize];
    ["Offset of field: LoraDownParams::columns"][::core::mem::offset_of!(LoraDownParams, columns) - 68usize];
    ["Offset of field: LoraDownParams::x_stride"]
        [::core::mem::offset_of!(LoraDownParams, x_stride) - 72usize];
    ["Offset of field: LoraDownParams::reserved"]
        [::core::mem::offset_of!(LoraDownParams, reserved) - 76usize];
};
#[doc = " down_gemm_*: lora_down_*, then gemm_* of its x and of what it wrote, in one launch and with the same bits, for few rows."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct DownGemmParams {
    #[doc = " columns at most DOWN_GEMM_MAX_LORA. Every block reads x, and the first writes h."]
    pub down: LoraDownParams,
    #[doc = " h is not read: it is down.h. x, x_stride, k and columns are those of down."]
    pub gemm: GemmParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DownGemmParams"][::core::mem::size_of::<DownGemmParams>() - 200usize];
    ["Alignment of DownGemmParams"][::core::mem::align_of::<DownGemmParams>() - 8usize];
    ["Offset of field: DownGemmParams::down"][::core::mem::offset_of!(DownGemmParams, down) - 0usize];
    ["Offset of field: DownGemmParams::gemm"][::core::mem::offset_of!(DownGemmParams, gemm) - 80usize];
};
#[doc = " A tile of queries: up to the entry's rows, all of one sequence."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionTile {
    #[doc = " The sequence."]
    pub sequence: u32,
    #[doc = " Its first query of the tile, counted from the sequence's first row: a multiple of the entry's rows, below\n the sequence's length."]
    pub first: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionTile"][::core::mem::size_of::<AttentionTile>() - 8usize];
    ["Alignment of AttentionTile"][::core::mem::align_of::<AttentionTile>() - 4usize];
    ["Offset of field: AttentionTile::sequence"][::core::mem::offset_of!(AttentionTile, sequence) - 0usize];
    ["Offset of field: AttentionTile::first"][::core::mem::offset_of!(AttentionTile, first) - 4usize];
};
#[doc = " attention_*: softmax(q kᵀ · scale) v for every head of every sequence, not causal."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionParams {
    #[doc = " [1] uint32: tiles. Blocks take (tile, head) pairs gridDim.x apart, so a grid of any size covers them."]
    pub tile_count: u64,
    #[doc = " [tiles], longest sequences first."]
    pub tiles: u64,
    #[doc = " [sequences + 1] uint32: first row of each sequence."]
    pub cu_seqlens: u64,
    #[doc = " [tokens, qkv_stride] elements: q of all heads, k of all heads, v of all heads."]
    pub qkv: u64,
    #[doc = " [positions, head_dim / 2] pairs of float32, cosine and sine, to rotate q and k by; or null if q and k are\n already rotated or the model has no RoPE."]
    pub rope: u64,
    #[doc = " [tokens, out_stride] elements: the heads, concatenated."]
    pub out: u64,
    #[doc = " Heads."]
    pub heads: u32,
    #[doc = " The factor of the scores, above 0: head_dim^-0.5, or 1 if q is already scaled."]
    pub scale: f32,
    #[doc = " Elements between rows of qkv: a multiple of 8."]
    pub qkv_stride: u32,
    #[doc = " Elements between rows of out: a multiple of 8."]
    pub out_stride: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::core::mem::size_of::<AttentionParams>() - 64usize];
    ["Alignment of AttentionParams"][::core::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::tile_count"]
        [::core::mem::offset_of!(AttentionParams, tile_count) - 0usize];
    ["Offset of field: AttentionParams::tiles"][::core::mem::offset_of!(AttentionParams, tiles) - 8usize];
    ["Offset of field: AttentionParams::cu_seqlens"]
        [::core::mem::offset_of!(AttentionParams, cu_seqlens) - 16usize];
    ["Offset of field: AttentionParams::qkv"][::core::mem::offset_of!(AttentionParams, qkv) - 24usize];
    ["Offset of field: AttentionParams::rope"][::core::mem::offset_of!(AttentionParams, rope) - 32usize];
    ["Offset of field: AttentionParams::out"][::core::mem::offset_of!(AttentionParams, out) - 40usize];
    ["Offset of field: AttentionParams::heads"][::core::mem::offset_of!(AttentionParams, heads) - 48usize];
    ["Offset of field: AttentionParams::scale"][::core::mem::offset_of!(AttentionParams, scale) - 52usize];
    ["Offset of field: AttentionParams::qkv_stride"]
        [::core::mem::offset_of!(AttentionParams, qkv_stride) - 56usize];
    ["Offset of field: AttentionParams::out_stride"]
        [::core::mem::offset_of!(AttentionParams, out_stride) - 60usize];
};
#[doc = " attention_*_wgmma64, attention_*_wgmma128: the same for heads of 64 elements, with qkv as a map too."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionSm90Params {
    #[doc = " [rows, 3·heads·64], where `rows` are at least the tokens: the rows that may be read."]
    pub qkv: TensorMap,
    #[doc = " With rope null: q and k are rotated already."]
    pub attention: AttentionParams,
    #[doc = " Written by a thread that gives up waiting; or null."]
    pub stall: u64,
    #[doc = " Zero."]
    pub reserved: [u64; 7usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionSm90Params"][::core::mem::size_of::<AttentionSm90Params>() - 256usize];
    ["Alignment of AttentionSm90Params"][::core::mem::align_of::<AttentionSm90Params>() - 64usize];
    ["Offset of field: AttentionSm90Params::qkv"][::core::mem::offset_of!(AttentionSm90Params, qkv) - 0usize];
    ["Offset of field: AttentionSm90Params::attention"]
        [::core::mem::offset_of!(AttentionSm90Params, attention) - 128usize];
    ["Offset of field: AttentionSm90Params::stall"]
        [::core::mem::offset_of!(AttentionSm90Params, stall) - 192usize];
    ["Offset of field: AttentionSm90Params::reserved"]
        [::core::mem::offset_of!(AttentionSm90Params, reserved) - 200usize];
};
#[doc = " One output vector."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct PoolRow {
    #[doc = " First row of x."]
    pub first: u32,
    #[doc = " Rows, at least 1."]
    pub rows: u32,
    #[doc = " Columns that are kept: the first `dimensions`."]
    pub dimensions: u32,
    #[doc = " POOL_MEAN, POOL_NORMALIZE, …"]
    pub flags: u32,
    #[doc = " POOL_F32, …"]
    pub encoding: u32,
    #[doc = " Where its record begins in out, in bytes: a multiple of 8."]
    pub out: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PoolRow"][::core::mem::size_of::<PoolRow>() - 24usize];
    ["Alignment of PoolRow"][::core::mem::align_of::<PoolRow>() - 4usize];
    ["Offset of field: PoolRow::first"][::core::mem::offset_of!(PoolRow, first) - 0usize];
    ["Offset of field: PoolRow::rows"][::core::mem::offset_of!(PoolRow, rows) - 4usize];
    ["Offset of field: PoolRow::dimensions"][::core::mem::offset_of!(PoolRow, dimensions) - 8usize];
    ["Offset of field: PoolRow::flags"][::core::mem::offset_of!(PoolRow, flags) - 12usize];
    ["Offset of field: PoolRow::encoding"][::core::mem::offset_of!(PoolRow, encoding) - 16usize];
    ["Offset of field: PoolRow::out"][::core::mem::offset_of!(PoolRow, out) - 20usize];
};
#[doc = " pool_*."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct PoolParams {
    #[doc = " [1] uint32: output vectors. Blocks take them gridDim.x apart, so a grid of any size covers them."]
    pub count: u64,
    #[doc = " [count]"]
    pub rows: u64,
    #[doc = " [tokens, x_stride] elements."]
    pub x: u64,
    #[doc = " The records."]
    pub out: u64,
    #[doc = " Columns of x: a multiple of 8."]
    pub hidden_size: u32,
    #[doc = " Elements between rows of x: a multiple of 8."]
    pub x_stride: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PoolParams"][::core::mem::size_of::<PoolParams>() - 40usize];
    ["Alignment of PoolParams"][::core::mem::align_of::<PoolParams>() - 8usize];
    ["Offset of field: PoolParams::count"][::core::mem::offset_of!(PoolParams, count) - 0usize];
    ["Offset of field: PoolParams::rows"][::core::mem::offset_of!(PoolParams, rows) - 8usize];
    ["Offset of field: PoolParams::x"][::core::mem::offset_of!(PoolParams, x) - 16usize];
    ["Offset of field: PoolParams::out"][::core::mem::offset_of!(PoolParams, out) - 24usize];
    ["Offset of field: PoolParams::hidden_size"][::core::mem::offset_of!(PoolParams, hidden_size) - 32usize];
    ["Offset of field: PoolParams::x_stride"][::core::mem::offset_of!(PoolParams, x_stride) - 36usize];
};
