// Made from cuda/params.h by tools/bindgen/run. Do not edit: change the header and run it again.

/// The header that this was made from, as FNV-1a of its bytes.
pub const HEADER_FNV1A: u64 = 0xf069a7034c9e3cb6;

pub const ROW_VECTOR: u32 = 8;
pub const ROW_LANE_VECTORS: u32 = 4;
pub const ROW_WARP_COLUMNS: u32 = 1024;
pub const ROW_MAX_WARPS: u32 = 8;
pub const ROW_MAX_HIDDEN: u32 = 8192;
pub const ROW_SHARED_BYTES: u32 = 256;
pub const LORA_COLUMN_STEP: u32 = 16;
pub const LORA_GROUP: u32 = 4;
pub const LORA_NO_SLOT: u32 = 4294967295;
#[doc = " Which adapters each sequence uses, and how much."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Mixtures {
    #[doc = " [tokens] uint32: the sequence of each row."]
    pub sequence_of_row: u64,
    #[doc = " [sequences, slots] float32: 0 where the sequence does not use the slot."]
    pub weights: u64,
    #[doc = " Slots, resident adapters and gaps."]
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
#[doc = " What one column of a site's down-projection belongs to."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LoraColumn {
    #[doc = " The adapter's slot, or LORA_NO_SLOT."]
    pub slot: u32,
    #[doc = " alpha / rank of its part."]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraColumn"][::core::mem::size_of::<LoraColumn>() - 8usize];
    ["Alignment of LoraColumn"][::core::mem::align_of::<LoraColumn>() - 4usize];
    ["Offset of field: LoraColumn::slot"][::core::mem::offset_of!(LoraColumn, slot) - 0usize];
    ["Offset of field: LoraColumn::scale"][::core::mem::offset_of!(LoraColumn, scale) - 4usize];
};
#[doc = " The down-projection of a row kernel's output for the linear layer that reads it: h = x Aᵀ for all\n resident adapters side by side, masked and scaled for the row, written behind the row as\n columns hidden_size .. hidden_size + columns of it."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LoraDown {
    #[doc = " [columns, hidden_size] numbers: A of every resident adapter; what padding columns hold does not\n matter."]
    pub a: u64,
    #[doc = " [columns]: what each column belongs to."]
    pub column: u64,
    #[doc = " A multiple of LORA_COLUMN_STEP; 0 where the batch or the layer has no adapters, and the\n other fields are then not read."]
    pub columns: u32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraDown"][::core::mem::size_of::<LoraDown>() - 24usize];
    ["Alignment of LoraDown"][::core::mem::align_of::<LoraDown>() - 8usize];
    ["Offset of field: LoraDown::a"][::core::mem::offset_of!(LoraDown, a) - 0usize];
    ["Offset of field: LoraDown::column"][::core::mem::offset_of!(LoraDown, column) - 8usize];
    ["Offset of field: LoraDown::columns"][::core::mem::offset_of!(LoraDown, columns) - 16usize];
    ["Offset of field: LoraDown::reserved"][::core::mem::offset_of!(LoraDown, reserved) - 20usize];
};
#[doc = " An adapter's factors of the embedding tables."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct EmbedAdapter {
    #[doc = " [vocab_size, rank] numbers, or null if the words are not adapted."]
    pub a: u64,
    #[doc = " [rank, hidden_size] numbers."]
    pub b: u64,
    #[doc = " [hidden_size] float32: scale · A_type[0] B_type, or null if the token types are not adapted."]
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
    #[doc = " [1] uint32: rows; blocks past them exit."]
    pub tokens: u64,
    #[doc = " [tokens] uint32, each below vocab_size."]
    pub ids: u64,
    #[doc = " [sequences + 1] uint32: first row of each sequence. Read if position is not null."]
    pub cu_seqlens: u64,
    #[doc = " [vocab_size, hidden_size] numbers."]
    pub word: u64,
    #[doc = " [hidden_size] numbers: token type 0."]
    pub token_type: u64,
    #[doc = " [positions, hidden_size] numbers, or null if positions are not learned."]
    pub position: u64,
    #[doc = " [hidden_size] numbers: LayerNorm's gain."]
    pub gamma: u64,
    #[doc = " [hidden_size] numbers: LayerNorm's offset."]
    pub beta: u64,
    #[doc = " [slots], or null if no sequence of the batch uses an adapter; weight 0 keeps a slot unread."]
    pub adapters: u64,
    #[doc = " [tokens, out_stride] numbers: hidden_size columns, then lora.columns."]
    pub out: u64,
    #[doc = " Read if adapters is not null, lora.columns is not 0, or position is not null (the rows' sequences)."]
    pub mixtures: Mixtures,
    #[doc = " For the first layer's Wqkv."]
    pub lora: LoraDown,
    #[doc = " A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN."]
    pub hidden_size: u32,
    #[doc = " Numbers between rows of out: a multiple of ROW_VECTOR, at least hidden_size + lora.columns."]
    pub out_stride: u32,
    #[doc = " Row of position that a sequence's first token has."]
    pub position_offset: u32,
    #[doc = " LayerNorm's epsilon."]
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedParams"][::core::mem::size_of::<EmbedParams>() - 144usize];
    ["Alignment of EmbedParams"][::core::mem::align_of::<EmbedParams>() - 8usize];
    ["Offset of field: EmbedParams::tokens"][::core::mem::offset_of!(EmbedParams, tokens) - 0usize];
    ["Offset of field: EmbedParams::ids"][::core::mem::offset_of!(EmbedParams, ids) - 8usize];
    ["Offset of field: EmbedParams::cu_seqlens"][::core::mem::offset_of!(EmbedParams, cu_seqlens) - 16usize];
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
        [::core::mem::offset_of!(EmbedParams, hidden_size) - 128usize];
    ["Offset of field: EmbedParams::out_stride"][::core::mem::offset_of!(EmbedParams, out_stride) - 132usize];
    ["Offset of field: EmbedParams::position_offset"]
        [::core::mem::offset_of!(EmbedParams, position_offset) - 136usize];
    ["Offset of field: EmbedParams::eps"][::core::mem::offset_of!(EmbedParams, eps) - 140usize];
};
#[doc = " layernorm_bf16, layernorm_f16."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LayerNormParams {
    #[doc = " [1] uint32: rows; blocks past them exit."]
    pub tokens: u64,
    #[doc = " [tokens, x_stride] numbers: the residual stream."]
    pub x: u64,
    #[doc = " [tokens, y_stride] numbers: what is added to it."]
    pub y: u64,
    #[doc = " [hidden_size] numbers: the gain."]
    pub gamma: u64,
    #[doc = " [hidden_size] numbers: the offset."]
    pub beta: u64,
    #[doc = " [tokens, out_stride] numbers: hidden_size columns, then lora.columns. May be x or y, if the\n stride is the same: a row is read whole before it is written."]
    pub out: u64,
    #[doc = " Read if lora.columns is not 0."]
    pub mixtures: Mixtures,
    #[doc = " For the linear layer that reads out: the same layer's fc1, the next layer's Wqkv."]
    pub lora: LoraDown,
    #[doc = " A multiple of ROW_VECTOR, at most ROW_MAX_HIDDEN."]
    pub hidden_size: u32,
    #[doc = " Numbers between rows of x: a multiple of ROW_VECTOR."]
    pub x_stride: u32,
    #[doc = " Numbers between rows of y: a multiple of ROW_VECTOR."]
    pub y_stride: u32,
    #[doc = " Numbers between rows of out: a multiple of ROW_VECTOR, at least hidden_size + lora.columns."]
    pub out_stride: u32,
    #[doc = " Added to the variance."]
    pub eps: f32,
    #[doc = " Zero."]
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormParams"][::core::mem::size_of::<LayerNormParams>() - 120usize];
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
        [::core::mem::offset_of!(LayerNormParams, hidden_size) - 96usize];
    ["Offset of field: LayerNormParams::x_stride"]
        [::core::mem::offset_of!(LayerNormParams, x_stride) - 100usize];
    ["Offset of field: LayerNormParams::y_stride"]
        [::core::mem::offset_of!(LayerNormParams, y_stride) - 104usize];
    ["Offset of field: LayerNormParams::out_stride"]
        [::core::mem::offset_of!(LayerNormParams, out_stride) - 108usize];
    ["Offset of field: LayerNormParams::eps"][::core::mem::offset_of!(LayerNormParams, eps) - 112usize];
    ["Offset of field: LayerNormParams::reserved"]
        [::core::mem::offset_of!(LayerNormParams, reserved) - 116usize];
};
