//! The constants and structs of the header, under the names that C knows them by. In everything the
//! caller fills in, zero is the default.

use std::ffi::{c_char, c_void};

/// As a length: the string ends with a NUL. In the header by `cbindgen.toml`.
///
/// cbindgen:ignore
pub const ROPEWAY_NUL_TERMINATED: usize = usize::MAX;

/// As `window_overlap`: windows do not overlap. In the header by `cbindgen.toml`.
///
/// cbindgen:ignore
pub const ROPEWAY_NO_OVERLAP: usize = usize::MAX;

/// What became of a call, or of one request in it. Later versions may add values: anything but
/// ROPEWAY_OK is an error.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ropeway_status {
    /// It worked.
    ROPEWAY_OK = 0,
    /// An argument or a field is NULL, too long, out of its range, or none of the values it can have.
    ROPEWAY_ERROR_ARGUMENT = 1,
    /// A string is not UTF-8.
    ROPEWAY_ERROR_UTF8 = 2,
    /// A file could not be opened, mapped or read.
    ROPEWAY_ERROR_IO = 3,
    /// A file of the model has wrong contents.
    ROPEWAY_ERROR_MODEL = 4,
    /// A tensor is missing, or has the wrong type, shape or values.
    ROPEWAY_ERROR_TENSOR = 5,
    /// An adapter cannot be added, removed or used.
    ROPEWAY_ERROR_ADAPTER = 6,
    /// The model cannot serve this input with these options, and none of the values below says why.
    ROPEWAY_ERROR_REQUEST = 7,
    /// The model could not be had from the hub.
    ROPEWAY_ERROR_HUB = 8,
    /// The device cannot be used.
    ROPEWAY_ERROR_DEVICE = 9,
    /// The GPU failed.
    ROPEWAY_ERROR_GPU = 10,
    /// The GPU failed earlier, and CUDA in this process with it: start the process anew.
    ROPEWAY_ERROR_DEVICE_LOST = 11,
    /// A bug in ropeway. The engine stays usable.
    ROPEWAY_ERROR_INTERNAL = 12,
    /// An error of a kind that this interface has no value for; its message tells.
    ROPEWAY_ERROR_OTHER = 13,
    /// There is no task or adapter of the name asked for.
    ROPEWAY_ERROR_UNKNOWN_TASK = 14,
    /// The input is longer than the model's limit, and `no_truncate` was set.
    ROPEWAY_ERROR_TOO_LONG = 15,
    /// The model cannot be cut to these dimensions.
    ROPEWAY_ERROR_DIMENSIONS = 16,
    /// Token ids are missing, or outside the vocabulary.
    ROPEWAY_ERROR_IDS = 17,
}

/// How token vectors become one vector.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub enum ropeway_pooling {
    /// The model's own.
    ROPEWAY_POOLING_DEFAULT = 0,
    /// The mean over all tokens, special tokens and the prompt included.
    ROPEWAY_POOLING_MEAN = 1,
    /// The first token's vector.
    ROPEWAY_POOLING_CLS = 2,
    /// No pooling: one vector per token.
    ROPEWAY_POOLING_NONE = 3,
    /// The last token's vector.
    ROPEWAY_POOLING_LAST_TOKEN = 4,
    /// The largest number of each dimension.
    ROPEWAY_POOLING_MAX = 5,
    /// The sum over all tokens, divided by the square root of their number.
    ROPEWAY_POOLING_MEAN_SQRT_LEN = 6,
    /// The mean with weights: the first token 1, the next 2, and so on.
    ROPEWAY_POOLING_WEIGHTED_MEAN = 7,
}

/// Whether vectors are divided by their Euclidean norm.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub enum ropeway_normalize {
    /// As the model does it, which is nearly always yes.
    ROPEWAY_NORMALIZE_DEFAULT = 0,
    /// Yes.
    ROPEWAY_NORMALIZE_YES = 1,
    /// No.
    ROPEWAY_NORMALIZE_NO = 2,
}

/// Late chunking: one forward pass over a document, one vector per chunk.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub enum ropeway_chunking {
    /// The input is not cut.
    ROPEWAY_CHUNKING_NONE = 0,
    /// Runs of `chunk_tokens` tokens.
    ROPEWAY_CHUNKING_TOKENS = 1,
    /// Sentences, by Unicode's rules (UAX 29).
    ROPEWAY_CHUNKING_SENTENCES = 2,
    /// The caller's `spans`; they may overlap and leave gaps. No more of them than tokens.
    ROPEWAY_CHUNKING_SPANS = 3,
}

/// The form of the numbers handed back, and of one row of an embedding's `data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ropeway_encoding {
    /// `float[dimensions]`.
    ROPEWAY_ENCODING_F32 = 0,
    /// `uint16_t[dimensions]`: the bits of IEEE 754 half-precision numbers.
    ROPEWAY_ENCODING_F16 = 1,
    /// `int8_t[dimensions]`, -127 to 127; a number is its value times the row's scale.
    ROPEWAY_ENCODING_INT8 = 2,
    /// `uint8_t[dimensions / 8]`: one bit per dimension, whether it is above 0, the first in the highest bit.
    ROPEWAY_ENCODING_BINARY = 3,
    /// `char[]`: base64 of the little-endian floats, as a string that ends with a NUL.
    ROPEWAY_ENCODING_BASE64 = 4,
}

/// What the rows of an embedding are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ropeway_kind {
    /// One row: the pooled vector.
    ROPEWAY_KIND_VECTOR = 0,
    /// One row per token (ROPEWAY_POOLING_NONE).
    ROPEWAY_KIND_TOKENS = 1,
    /// One row per chunk, each with its span.
    ROPEWAY_KIND_CHUNKS = 2,
}

/// Settings of an engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ropeway_options {
    /// `sizeof(ropeway_options)`.
    pub struct_size: usize,
    /// "auto" (also NULL: a GPU if there is one that can be used, else the CPU), "cpu", "cuda" or
    /// "cuda:N". CUDA_VISIBLE_DEVICES selects GPUs by UUID.
    pub device: *const c_char,
    /// The type of weights and of what products read: "f32", "bf16" or "int8" on a CPU, "bf16" or "f16" on a GPU.
    /// NULL: "f32" on a CPU, "bf16" on a GPU.
    pub precision: *const c_char,
    /// What a GPU's results may depend on beside their own input: "invariant" (also NULL), nothing, or
    /// "fastest", the rest of the batch.
    pub numerics: *const c_char,
    /// Tasks and adapters that a GPU keeps a merged copy of the weights for; "fastest" uses them.
    pub merge: *const *const c_char,
    /// How many.
    pub merge_len: usize,
    /// CPU threads, up to 1024. 0: all cores.
    pub threads: usize,
    /// Calls that compute at the same time, up to `threads`; further ones wait. 0: 1.
    pub concurrency: usize,
    /// Tokens that go through the model at once; they bound the memory. 0: the engine's choice.
    pub batch_tokens: usize,
    /// Non-zero: ropeway_open_hub downloads nothing.
    pub offline: i32,
    /// 0.
    pub reserved: i32,
}

/// An adapter or a task of the model, and its share of a mixture.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ropeway_weight {
    /// Its name.
    pub adapter: *const c_char,
    /// From -1000 to 1000.
    pub weight: f32,
}

/// From `start` up to but not including `end`, in Unicode code points of the text without prompt,
/// or in tokens where ids are given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ropeway_span {
    /// The first of it.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

/// How an input is embedded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ropeway_embed_options {
    /// `sizeof(ropeway_embed_options)`.
    pub struct_size: usize,
    /// A task of the model (its adapter and its prompt) or the name of an added adapter. NULL, with no
    /// mixture and no base_weights: the base weights, or for chunks the model's retrieval.passage
    /// task where it has one; and the model's default prompt.
    pub task: *const c_char,
    /// A mixture of tasks and adapters, W + sum of weight * delta W, without prompt; instead of `task`.
    pub mixture: *const ropeway_weight,
    /// How many. 0: no mixture.
    pub mixture_len: usize,
    /// Replaces the task's prompt; "" is none. NULL: the task's. Not used for token ids.
    pub prompt: *const c_char,
    /// Keep the first so many dimensions (Matryoshka), before normalising. 0: all.
    pub dimensions: usize,
    /// For ROPEWAY_CHUNKING_TOKENS.
    pub chunk_tokens: usize,
    /// For ROPEWAY_CHUNKING_SPANS.
    pub spans: *const ropeway_span,
    /// How many.
    pub spans_len: usize,
    /// Tokens of the windows that a document past the model's limit is chunked in. 0: the limit.
    pub window_size: usize,
    /// Tokens by which a window overlaps the one before. 0: 256, or half the window if that is less;
    /// ROPEWAY_NO_OVERLAP: none.
    pub window_overlap: usize,
    /// Non-zero: the base weights without prompt; instead of `task`.
    pub base_weights: i32,
    /// Non-zero: accept `dimensions` that the model was not trained to be cut to.
    pub any_dimensions: i32,
    /// A ropeway_pooling.
    pub pooling: i32,
    /// A ropeway_normalize.
    pub normalize: i32,
    /// Non-zero: refuse a text that is longer than the model's limit instead of cutting it.
    pub no_truncate: i32,
    /// A ropeway_chunking.
    pub chunking: i32,
    /// A ropeway_encoding.
    pub encoding: i32,
    /// 0.
    pub reserved: i32,
}

/// One input: a text or token ids. This struct does not grow, so arrays of it stay as they are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ropeway_request {
    /// The text; NULL where ids are given.
    pub text: *const c_char,
    /// Its bytes, or ROPEWAY_NUL_TERMINATED.
    pub text_len: usize,
    /// Token ids, special tokens included; NULL where a text is given.
    pub ids: *const u32,
    /// How many.
    pub ids_len: usize,
    /// How to embed it; many requests may share one. NULL: all defaults.
    pub options: *const ropeway_embed_options,
}

/// What became of one request. Later versions may add fields at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ropeway_embedding {
    /// ROPEWAY_OK, or why there is none; then `message` tells, and all else is zero.
    pub status: ropeway_status,
    /// What the rows are.
    pub kind: ropeway_kind,
    /// What is in a row.
    pub encoding: ropeway_encoding,
    /// Non-zero: the text was cut at the model's limit.
    pub truncated: i32,
    /// What went wrong and the way out; "" if nothing did.
    pub message: *const c_char,
    /// `count` rows of `row_bytes` bytes, end to end, aligned for their type. NULL if there are none.
    pub data: *const c_void,
    /// Rows.
    pub count: usize,
    /// Dimensions of each vector.
    pub dimensions: usize,
    /// From one row to the next.
    pub row_bytes: usize,
    /// One per row for ROPEWAY_ENCODING_INT8, else NULL.
    pub scales: *const f32,
    /// One per row for ROPEWAY_KIND_CHUNKS, else NULL.
    pub spans: *const ropeway_span,
    /// Tokens that went through the model, special tokens and prompt included.
    pub tokens: usize,
}

/// What an engine is and needs. Its pointers hold until ropeway_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ropeway_info {
    /// `sizeof(ropeway_info)`, set by the caller.
    pub struct_size: usize,
    /// What computes, for people.
    pub device: *const c_char,
    /// Why it is the CPU, where "auto" was to choose; else NULL.
    pub fallback_reason: *const c_char,
    /// Dimensions of the full embedding.
    pub hidden_size: usize,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// The sizes the model was trained to be cut to, ascending.
    pub matryoshka: *const usize,
    /// How many. 0: the full size alone.
    pub matryoshka_len: usize,
    /// CPU threads.
    pub threads: usize,
    /// Calls that compute at the same time.
    pub concurrency: usize,
    /// Tokens that go through the model at once.
    pub batch_tokens: usize,
    /// Bytes of the weights in the layout that computes.
    pub weights_bytes: usize,
    /// Bytes of the arena of one call, at the most; there are `concurrency` of them.
    pub arena_bytes: usize,
}
