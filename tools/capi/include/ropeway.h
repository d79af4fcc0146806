/* ropeway: a compute engine for text-embedding encoders.
 *
 * Made from tools/capi/src by `ROPEWAY_WRITE_HEADER=1 cargo test -p ropeway-capi --test header`. Do not edit.
 *
 * Errors. A function that can fail returns a ropeway_status, and ropeway_last_error() says what went
 * wrong, where, and the way out. What it would have handed back is NULL then. No function
 * aborts, exits or throws on bad input; NULL where something is needed is an error that names it.
 *
 * Strings are UTF-8. They end with a NUL, or have their length in bytes beside them.
 *
 * Structs with a `struct_size` grow at their end from version to version. Set all of one to zero, which
 * is the default of every field, and `struct_size` to its sizeof:
 *
 *     ropeway_embed_options options = {.struct_size = sizeof options, .task = "retrieval.query"};
 *
 * Ownership. What a call is given stays the caller's and is not needed after it returns. What the
 * library hands back is freed by the function that its comment names, and by nothing else.
 *
 * Files. An engine maps the model's files and reads from them as long as it is open. A file that was shortened,
 * overwritten or replaced since is an error of the next call. One that is shortened while a call reads it ends the process
 * with SIGBUS, which no library can prevent: replace a model's files only while no engine has them open.
 *
 * Threads. All functions may be called from any thread. One engine may be used by many threads at once,
 * and results may be read by many; closing or freeing must come after every other use.
 */

#ifndef ROPEWAY_H
#define ROPEWAY_H

#include <stddef.h>
#include <stdint.h>

// As a length: the string ends with a NUL.
#define ROPEWAY_NUL_TERMINATED SIZE_MAX

// As `window_overlap`: windows do not overlap.
#define ROPEWAY_NO_OVERLAP SIZE_MAX

// What became of a call, or of one request in it. Later versions may add values: anything but
// ROPEWAY_OK is an error.
typedef enum {
  // It worked.
  ROPEWAY_OK = 0,
  // An argument or a field is NULL, too long, out of its range, or none of the values it can have.
  ROPEWAY_ERROR_ARGUMENT = 1,
  // A string is not UTF-8.
  ROPEWAY_ERROR_UTF8 = 2,
  // A file could not be opened, mapped or read.
  ROPEWAY_ERROR_IO = 3,
  // A file of the model has wrong contents.
  ROPEWAY_ERROR_MODEL = 4,
  // A tensor is missing, or has the wrong type, shape or values.
  ROPEWAY_ERROR_TENSOR = 5,
  // An adapter cannot be added, removed or used.
  ROPEWAY_ERROR_ADAPTER = 6,
  // The model cannot serve this input with these options, and none of the values below says why.
  ROPEWAY_ERROR_REQUEST = 7,
  // The model could not be had from the hub.
  ROPEWAY_ERROR_HUB = 8,
  // The device cannot be used.
  ROPEWAY_ERROR_DEVICE = 9,
  // The GPU failed.
  ROPEWAY_ERROR_GPU = 10,
  // The GPU failed earlier, and CUDA in this process with it: start the process anew.
  ROPEWAY_ERROR_DEVICE_LOST = 11,
  // A bug in ropeway. The engine stays usable.
  ROPEWAY_ERROR_INTERNAL = 12,
  // An error of a kind that this interface has no value for; its message tells.
  ROPEWAY_ERROR_OTHER = 13,
  // There is no task or adapter of the name asked for.
  ROPEWAY_ERROR_UNKNOWN_TASK = 14,
  // The input is longer than the model's limit, and `no_truncate` was set.
  ROPEWAY_ERROR_TOO_LONG = 15,
  // The model cannot be cut to these dimensions.
  ROPEWAY_ERROR_DIMENSIONS = 16,
  // Token ids are missing, or outside the vocabulary.
  ROPEWAY_ERROR_IDS = 17,
} ropeway_status;

// What the rows of an embedding are.
typedef enum {
  // One row: the pooled vector.
  ROPEWAY_KIND_VECTOR = 0,
  // One row per token (ROPEWAY_POOLING_NONE).
  ROPEWAY_KIND_TOKENS = 1,
  // One row per chunk, each with its span.
  ROPEWAY_KIND_CHUNKS = 2,
} ropeway_kind;

// The form of the numbers handed back, and of one row of an embedding's `data`.
typedef enum {
  // `float[dimensions]`.
  ROPEWAY_ENCODING_F32 = 0,
  // `uint16_t[dimensions]`: the bits of IEEE 754 half-precision numbers.
  ROPEWAY_ENCODING_F16 = 1,
  // `int8_t[dimensions]`, -127 to 127; a number is its value times the row's scale.
  ROPEWAY_ENCODING_INT8 = 2,
  // `uint8_t[dimensions / 8]`: one bit per dimension, whether it is above 0, the first in the highest bit.
  ROPEWAY_ENCODING_BINARY = 3,
  // `char[]`: base64 of the little-endian floats, as a string that ends with a NUL.
  ROPEWAY_ENCODING_BASE64 = 4,
} ropeway_encoding;

// How token vectors become one vector.
typedef enum {
  // The model's own.
  ROPEWAY_POOLING_DEFAULT = 0,
  // The mean over all tokens, special tokens and the prompt included.
  ROPEWAY_POOLING_MEAN = 1,
  // The first token's vector.
  ROPEWAY_POOLING_CLS = 2,
  // No pooling: one vector per token.
  ROPEWAY_POOLING_NONE = 3,
  // The last token's vector.
  ROPEWAY_POOLING_LAST_TOKEN = 4,
  // The largest number of each dimension.
  ROPEWAY_POOLING_MAX = 5,
  // The sum over all tokens, divided by the square root of their number.
  ROPEWAY_POOLING_MEAN_SQRT_LEN = 6,
  // The mean with weights: the first token 1, the next 2, and so on.
  ROPEWAY_POOLING_WEIGHTED_MEAN = 7,
} ropeway_pooling;

// Whether vectors are divided by their Euclidean norm.
typedef enum {
  // As the model does it, which is nearly always yes.
  ROPEWAY_NORMALIZE_DEFAULT = 0,
  // Yes.
  ROPEWAY_NORMALIZE_YES = 1,
  // No.
  ROPEWAY_NORMALIZE_NO = 2,
} ropeway_normalize;

// Late chunking: one forward pass over a document, one vector per chunk.
typedef enum {
  // The input is not cut.
  ROPEWAY_CHUNKING_NONE = 0,
  // Runs of `chunk_tokens` tokens.
  ROPEWAY_CHUNKING_TOKENS = 1,
  // Sentences, by Unicode's rules (UAX 29).
  ROPEWAY_CHUNKING_SENTENCES = 2,
  // The caller's `spans`; they may overlap and leave gaps. No more of them than tokens.
  ROPEWAY_CHUNKING_SPANS = 3,
} ropeway_chunking;

// A model, ready to embed. Close it with ropeway_close.
typedef struct ropeway_engine ropeway_engine;

// A list of names. Free it with ropeway_names_free.
typedef struct ropeway_names ropeway_names;

// The results of one call, one per request.
typedef struct ropeway_results ropeway_results;

// Settings of an engine.
typedef struct {
  // `sizeof(ropeway_options)`.
  size_t struct_size;
  // "auto" (also NULL: a GPU if there is one that can be used, else the CPU), "cpu", "cuda" or
  // "cuda:N". CUDA_VISIBLE_DEVICES selects GPUs by UUID.
  const char *device;
  // The type of weights and of what products read: "f32", "bf16" or "int8" on a CPU, "bf16" or "f16" on a GPU.
  // NULL: "f32" on a CPU, "bf16" on a GPU.
  const char *precision;
  // What a GPU's results may depend on beside their own input: "invariant" (also NULL), nothing, or
  // "fastest", the rest of the batch.
  const char *numerics;
  // Tasks and adapters that a GPU keeps a merged copy of the weights for; "fastest" uses them.
  const char *const *merge;
  // How many.
  size_t merge_len;
  // CPU threads, up to 1024. 0: all cores.
  size_t threads;
  // Calls that compute at the same time, up to `threads`; further ones wait. 0: 1.
  size_t concurrency;
  // Tokens that go through the model at once; they bound the memory. 0: the engine's choice.
  size_t batch_tokens;
  // Non-zero: ropeway_open_hub downloads nothing.
  int32_t offline;
  // 0.
  int32_t reserved;
} ropeway_options;

// What an engine is and needs. Its pointers hold until ropeway_close.
typedef struct {
  // `sizeof(ropeway_info)`, set by the caller.
  size_t struct_size;
  // What computes, for people.
  const char *device;
  // Why it is the CPU, where "auto" was to choose; else NULL.
  const char *fallback_reason;
  // Dimensions of the full embedding.
  size_t hidden_size;
  // Longest input in tokens, special tokens included.
  size_t max_tokens;
  // Tokens of the vocabulary.
  size_t vocab_size;
  // Encoder layers.
  size_t num_hidden_layers;
  // The sizes the model was trained to be cut to, ascending.
  const size_t *matryoshka;
  // How many. 0: the full size alone.
  size_t matryoshka_len;
  // CPU threads.
  size_t threads;
  // Calls that compute at the same time.
  size_t concurrency;
  // Tokens that go through the model at once.
  size_t batch_tokens;
  // Bytes of the weights in the layout that computes.
  size_t weights_bytes;
  // Bytes of the arena of one call, at the most; there are `concurrency` of them.
  size_t arena_bytes;
} ropeway_info;

// An adapter or a task of the model, and its share of a mixture.
typedef struct {
  // Its name.
  const char *adapter;
  // From -1000 to 1000.
  float weight;
} ropeway_weight;

// From `start` up to but not including `end`, in Unicode code points of the text without prompt,
// or in tokens where ids are given.
typedef struct {
  // The first of it.
  size_t start;
  // One past the last.
  size_t end;
} ropeway_span;

// How an input is embedded.
typedef struct {
  // `sizeof(ropeway_embed_options)`.
  size_t struct_size;
  // A task of the model (its adapter and its prompt) or the name of an added adapter. NULL, with no
  // mixture and no base_weights: the base weights, or for chunks the model's retrieval.passage
  // task where it has one; and the model's default prompt.
  const char *task;
  // A mixture of tasks and adapters, W + sum of weight * delta W, without prompt; instead of `task`.
  const ropeway_weight *mixture;
  // How many. 0: no mixture.
  size_t mixture_len;
  // Replaces the task's prompt; "" is none. NULL: the task's. Not used for token ids.
  const char *prompt;
  // Keep the first so many dimensions (Matryoshka), before normalising. 0: all.
  size_t dimensions;
  // For ROPEWAY_CHUNKING_TOKENS.
  size_t chunk_tokens;
  // For ROPEWAY_CHUNKING_SPANS.
  const ropeway_span *spans;
  // How many.
  size_t spans_len;
  // Tokens of the windows that a document past the model's limit is chunked in. 0: the limit.
  size_t window_size;
  // Tokens by which a window overlaps the one before. 0: 256, or half the window if that is less;
  // ROPEWAY_NO_OVERLAP: none.
  size_t window_overlap;
  // Non-zero: the base weights without prompt; instead of `task`.
  int32_t base_weights;
  // Non-zero: accept `dimensions` that the model was not trained to be cut to.
  int32_t any_dimensions;
  // A ropeway_pooling.
  int32_t pooling;
  // A ropeway_normalize.
  int32_t normalize;
  // Non-zero: refuse a text that is longer than the model's limit instead of cutting it.
  int32_t no_truncate;
  // A ropeway_chunking.
  int32_t chunking;
  // A ropeway_encoding.
  int32_t encoding;
  // 0.
  int32_t reserved;
} ropeway_embed_options;

// One input: a text or token ids. This struct does not grow, so arrays of it stay as they are.
typedef struct {
  // The text; NULL where ids are given.
  const char *text;
  // Its bytes, or ROPEWAY_NUL_TERMINATED.
  size_t text_len;
  // Token ids, special tokens included; NULL where a text is given.
  const uint32_t *ids;
  // How many.
  size_t ids_len;
  // How to embed it; many requests may share one. NULL: all defaults.
  const ropeway_embed_options *options;
} ropeway_request;

// What became of one request. Later versions may add fields at its end.
typedef struct {
  // ROPEWAY_OK, or why there is none; then `message` tells, and all else is zero.
  ropeway_status status;
  // What the rows are.
  ropeway_kind kind;
  // What is in a row.
  ropeway_encoding encoding;
  // Non-zero: the text was cut at the model's limit.
  int32_t truncated;
  // What went wrong and the way out; "" if nothing did.
  const char *message;
  // `count` rows of `row_bytes` bytes, end to end, aligned for their type. NULL if there are none.
  const void *data;
  // Rows.
  size_t count;
  // Dimensions of each vector.
  size_t dimensions;
  // From one row to the next.
  size_t row_bytes;
  // One per row for ROPEWAY_ENCODING_INT8, else NULL.
  const float *scales;
  // One per row for ROPEWAY_KIND_CHUNKS, else NULL.
  const ropeway_span *spans;
  // Tokens that went through the model, special tokens and prompt included.
  size_t tokens;
} ropeway_embedding;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, "MAJOR.MINOR.PATCH".
const char *ropeway_version(void);

// Opens the model in a folder. `options` may be NULL: all defaults. Close the engine with ropeway_close.
ropeway_status ropeway_open(const char *folder,
                            const ropeway_options *options,
                            ropeway_engine **engine);

// Opens a model by its hub id, "owner/name" or "owner/name@revision": from the hub's cache, else
// downloaded into it. `options` may be NULL: all defaults. Close the engine with ropeway_close.
ropeway_status ropeway_open_hub(const char *id,
                                const ropeway_options *options,
                                ropeway_engine **engine);

// Closes an engine that no call uses any more. NULL is fine. Results and names outlive it.
void ropeway_close(ropeway_engine *engine);

// Says what an engine is and needs. Set `info->struct_size` first.
ropeway_status ropeway_engine_info(const ropeway_engine *engine, ropeway_info *info);

// Embeds requests of any kind together. Fails only if the call itself is wrong: otherwise there is a
// result for every request, in order, each with a status of its own, and a bad request does not
// hurt the others. Free the results with ropeway_results_free.
ropeway_status ropeway_embed(const ropeway_engine *engine,
                             const ropeway_request *requests,
                             size_t requests_len,
                             ropeway_results **results);

// Checks a request as ropeway_embed would, without computing.
ropeway_status ropeway_validate(const ropeway_engine *engine, const ropeway_request *request);

// Embeds texts, all with the same options (NULL: all defaults), into the caller's matrix of
// `texts_len` rows of `options->dimensions` floats (0: the full embedding); `matrix_len` is the
// number of floats. `text_lens` may be NULL: every text ends with a NUL. If a text fails, its row is
// NaN, the other rows are good, and the status and ropeway_last_error() are of the first that
// failed. If the call itself is wrong, the matrix stays as it was.
ropeway_status ropeway_embed_texts(const ropeway_engine *engine,
                                   const char *const *texts,
                                   const size_t *text_lens,
                                   size_t texts_len,
                                   const ropeway_embed_options *options,
                                   float *matrix,
                                   size_t matrix_len);

// How many results there are; as many as there were requests.
size_t ropeway_results_len(const ropeway_results *results);

// The result of the request at `index`, until ropeway_results_free; NULL if there is none there.
const ropeway_embedding *ropeway_results_get(const ropeway_results *results, size_t index);

// Frees results and all that they point to. NULL is fine.
void ropeway_results_free(ropeway_results *results);

// Adds a PEFT LoRA adapter folder under a name; calls that start later can use it.
ropeway_status ropeway_add_adapter(const ropeway_engine *engine,
                                   const char *name,
                                   const char *folder);

// Removes an adapter. Calls that are computing with it finish; its memory is freed after them.
ropeway_status ropeway_remove_adapter(const ropeway_engine *engine, const char *name);

// The names of all loaded adapters, the model's own included. Free them with ropeway_names_free.
ropeway_status ropeway_adapters(const ropeway_engine *engine, ropeway_names **names);

// The names of the model's tasks. Free them with ropeway_names_free.
ropeway_status ropeway_tasks(const ropeway_engine *engine, ropeway_names **names);

// How many names there are.
size_t ropeway_names_len(const ropeway_names *names);

// The name at `index`, until ropeway_names_free; NULL if there is none there.
const char *ropeway_names_get(const ropeway_names *names, size_t index);

// Frees names. NULL is fine.
void ropeway_names_free(ropeway_names *names);

// What went wrong in the last call on this thread that failed, and the way out; "" if none has. It holds
// until the next failing call on this thread.
const char *ropeway_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ROPEWAY_H */
