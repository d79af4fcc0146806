/* Prints what requests of every kind become, for tests/c.rs to compare with the Rust interface.
 *
 *   embed JINA_FOLDER BERT_FOLDER
 */
#include "check.h"

/* "Über" and so on: bytes, code points and tokens are different counts. */
static const char DOCUMENT[] =
    "\xc3\x9c" "ber den Gletscher f\xc3\xa4hrt eine Seilbahn. The last cabin leaves at half past four. "
    "\xd0\x9a\xd0\xb0\xd0\xbd\xd0\xb0\xd1\x82\xd0\xbd\xd0\xb0\xd1\x8f \xd0\xb4\xd0\xbe\xd1\x80\xd0\xbe\xd0\xb3\xd0\xb0 "
    "\xd0\xb7\xd0\xb0\xd0\xba\xd1\x80\xd1\x8b\xd1\x82\xd0\xb0. How many fit in?";

static const uint32_t IDS[] = {0, 17, 404, 999, 23, 5, 2};
static const uint32_t BAD_IDS[] = {0, 1000, 2};
static const ropeway_weight BLEND[] = {{"separation", 0.7f}, {"classification", -0.3f}};
static const ropeway_weight LOUD[] = {{"separation", 2000.0f}};
static const ropeway_span SPANS[] = {{0, 5}, {3, 20}, {40, 60}};

#define OPTIONS(...) &(const ropeway_embed_options){.struct_size = sizeof(ropeway_embed_options), __VA_ARGS__}
#define TEXT(string) .text = (string), .text_len = ROPEWAY_NUL_TERMINATED
#define SOME(array) .ids = (array), .ids_len = sizeof(array) / sizeof *(array)

/* tests/c.rs has the same requests in the same order. */
static const struct {
    const char *name;
    ropeway_request request;
} CASES[] = {
    {"defaults", {TEXT("half past four")}},
    {"length", {.text = "half past four", .text_len = 4}},
    {"nul inside", {.text = "a\0b", .text_len = 3}},
    {"empty", {TEXT("")}},
    {"ids", {SOME(IDS)}},
    {"task", {TEXT("half past four"), .options = OPTIONS(.task = "retrieval.query")}},
    {"task, ids", {SOME(IDS), .options = OPTIONS(.task = "separation")}},
    {"base", {TEXT("half past four"), .options = OPTIONS(.base_weights = 1)}},
    {"mixture", {TEXT("half past four"), .options = OPTIONS(.mixture = BLEND, .mixture_len = 2)}},
    {"prompt", {TEXT("half past four"), .options = OPTIONS(.task = "retrieval.query", .prompt = "ask: ")}},
    {"no prompt", {TEXT("half past four"), .options = OPTIONS(.task = "retrieval.query", .prompt = "")}},
    {"dimensions", {TEXT("half past four"), .options = OPTIONS(.dimensions = 32)}},
    {"any dimensions", {TEXT("half past four"), .options = OPTIONS(.dimensions = 7, .any_dimensions = 1)}},
    {"mean", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_MEAN)}},
    {"cls", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_CLS)}},
    {"last token", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_LAST_TOKEN)}},
    {"max", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_MAX)}},
    {"sqrt", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_MEAN_SQRT_LEN)}},
    {"weighted", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_WEIGHTED_MEAN)}},
    {"tokens", {TEXT("half past four"), .options = OPTIONS(.pooling = ROPEWAY_POOLING_NONE)}},
    {"normalised", {TEXT("half past four"), .options = OPTIONS(.normalize = ROPEWAY_NORMALIZE_YES)}},
    {"not normalised", {TEXT("half past four"), .options = OPTIONS(.normalize = ROPEWAY_NORMALIZE_NO)}},
    {"f16", {TEXT("half past four"), .options = OPTIONS(.encoding = ROPEWAY_ENCODING_F16)}},
    {"int8", {TEXT("half past four"), .options = OPTIONS(.encoding = ROPEWAY_ENCODING_INT8)}},
    {"binary", {TEXT("half past four"), .options = OPTIONS(.encoding = ROPEWAY_ENCODING_BINARY)}},
    {"base64", {TEXT("half past four"), .options = OPTIONS(.encoding = ROPEWAY_ENCODING_BASE64)}},
    {"base64, 7", {TEXT("x"), .options = OPTIONS(.encoding = ROPEWAY_ENCODING_BASE64, .dimensions = 7, .any_dimensions = 1)}},
    {"tokens, int8", {SOME(IDS), .options = OPTIONS(.pooling = ROPEWAY_POOLING_NONE, .encoding = ROPEWAY_ENCODING_INT8)}},
    {"tokens, f16", {SOME(IDS), .options = OPTIONS(.pooling = ROPEWAY_POOLING_NONE, .encoding = ROPEWAY_ENCODING_F16)}},
    {"tokens, base64", {SOME(IDS), .options = OPTIONS(.pooling = ROPEWAY_POOLING_NONE, .encoding = ROPEWAY_ENCODING_BASE64)}},
    {"sentences", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES)}},
    {"chunks of tokens", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_TOKENS, .chunk_tokens = 9)}},
    {"spans", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SPANS, .spans = SPANS, .spans_len = 3)}},
    {"spans, binary", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SPANS, .spans = SPANS, .spans_len = 3,
                                                          .encoding = ROPEWAY_ENCODING_BINARY)}},
    {"windows", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES, .window_size = 16, .window_overlap = 4)}},
    {"windows, no overlap", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES, .window_size = 16,
                                                                .window_overlap = ROPEWAY_NO_OVERLAP)}},
    {"windows, default overlap", {TEXT(DOCUMENT), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES, .window_size = 16)}},
    /* Those that fail stand among the good ones. */
    {"bad task", {TEXT("x"), .options = OPTIONS(.task = "retrieval.nothing")}},
    {"bad ids", {SOME(BAD_IDS)}},
    {"no ids", {.ids = IDS}},
    {"bad weight", {TEXT("x"), .options = OPTIONS(.mixture = LOUD, .mixture_len = 1)}},
    {"bad dimensions", {TEXT("x"), .options = OPTIONS(.dimensions = 7)}},
    {"bad chunking", {TEXT("x"), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_TOKENS)}},
    {"last", {TEXT("half past four"), .options = OPTIONS(.task = "text-matching", .no_truncate = 1)}},
};
enum { COUNT = sizeof CASES / sizeof *CASES };

static void print(const char *name, const ropeway_embedding *e) {
    if (e->status != ROPEWAY_OK) {
        CHECK(e->data == NULL && e->count == 0 && e->scales == NULL && e->spans == NULL && e->tokens == 0);
        printf("%s: status %d: %s\n", name, (int)e->status, e->message);
        return;
    }
    CHECK(strcmp(e->message, "") == 0);
    printf("%s: kind %d, encoding %d, %zu of %zu, %zu tokens%s\n", name, (int)e->kind, (int)e->encoding, e->count,
           e->dimensions, e->tokens, e->truncated ? ", truncated" : "");
    for (size_t row = 0; row < e->count; row++) {
        const unsigned char *bytes = (const unsigned char *)e->data + row * e->row_bytes;
        if (e->spans != NULL) printf("%zu..%zu ", e->spans[row].start, e->spans[row].end);
        if (e->scales != NULL) printf("%a ", (double)e->scales[row]);
        if (e->encoding == ROPEWAY_ENCODING_BASE64) {
            CHECK(strlen((const char *)bytes) + 1 == e->row_bytes);
            printf("%s", (const char *)bytes);
        } else {
            for (size_t i = 0; i < e->row_bytes; i++) printf("%02x", bytes[i]);
        }
        printf("\n");
    }
}

static void embed_cases(const ropeway_engine *engine) {
    ropeway_request requests[COUNT];
    for (size_t i = 0; i < COUNT; i++) requests[i] = CASES[i].request;
    ropeway_results *results = NULL;
    CHECK(ropeway_embed(engine, requests, COUNT, &results) == ROPEWAY_OK);
    CHECK(ropeway_results_len(results) == COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        const ropeway_embedding *embedding = ropeway_results_get(results, i);
        print(CASES[i].name, embedding);
        CHECK(ropeway_validate(engine, &requests[i]) == embedding->status);
    }
    ropeway_results_free(results);
}

/* The call for the commonest case gives the same vectors, around a text that fails. */
static void embed_texts(const ropeway_engine *engine) {
    const char *texts[] = {"half past four", "\xff", "half past"};
    const size_t lens[] = {14, 1, 4};
    const ropeway_embed_options options = {.struct_size = sizeof options, .task = "retrieval.query", .dimensions = 32};
    float matrix[3][32];
    FAILS(ropeway_embed_texts(engine, texts, lens, 3, &options, &matrix[0][0], 96), ROPEWAY_ERROR_UTF8, "input 1: ");
    for (size_t i = 0; i < 32; i++) CHECK(matrix[1][i] != matrix[1][i]);
    ropeway_request requests[] = {{TEXT("half past four"), .options = &options}, {TEXT("half"), .options = &options}};
    ropeway_results *results = NULL;
    CHECK(ropeway_embed(engine, requests, 2, &results) == ROPEWAY_OK);
    CHECK(memcmp(matrix[0], ropeway_results_get(results, 0)->data, sizeof matrix[0]) == 0);
    CHECK(memcmp(matrix[2], ropeway_results_get(results, 1)->data, sizeof matrix[2]) == 0);
    ropeway_results_free(results);
    /* All defaults, strings that end with a NUL. */
    float whole[128];
    texts[0] = "half past four";
    CHECK(ropeway_embed_texts(engine, texts, NULL, 1, NULL, whole, 128) == ROPEWAY_OK);
    for (size_t i = 0; i < 128; i++) printf("%a ", (double)whole[i]);
    printf("\n");
}

static void facts(const ropeway_engine *engine) {
    ropeway_info info = {.struct_size = sizeof info};
    CHECK(ropeway_engine_info(engine, &info) == ROPEWAY_OK);
    CHECK(info.struct_size == sizeof info);
    /* The tests name the device. */
    CHECK(info.fallback_reason == NULL);
    printf("%s: %zu %zu %zu %zu, %zu %zu %zu, %zu %zu:", info.device, info.hidden_size, info.max_tokens,
           info.vocab_size, info.num_hidden_layers, info.threads, info.concurrency, info.batch_tokens, info.weights_bytes,
           info.arena_bytes);
    for (size_t i = 0; i < info.matryoshka_len; i++) printf(" %zu", info.matryoshka[i]);
    printf("\n");
}

static void print_names(const char *what, ropeway_names *names) {
    printf("%s:", what);
    for (size_t i = 0; i < ropeway_names_len(names); i++) printf(" %s", ropeway_names_get(names, i));
    printf("\n");
    ropeway_names_free(names);
}

static void adapters(const char *model) {
    char folder[4096];
    CHECK(snprintf(folder, sizeof folder, "%s/user", model) < (int)sizeof folder);
    ropeway_engine *engine = test_engine(model, 1);
    ropeway_request request = {TEXT("half past four"), .options = OPTIONS(.task = "user")};
    CHECK(ropeway_add_adapter(engine, "user", folder) == ROPEWAY_OK);
    ropeway_names *names = NULL;
    CHECK(ropeway_adapters(engine, &names) == ROPEWAY_OK);
    print_names("adapters", names);
    ropeway_results *results = NULL;
    CHECK(ropeway_embed(engine, &request, 1, &results) == ROPEWAY_OK);
    FAILS(ropeway_add_adapter(engine, "user", folder), ROPEWAY_ERROR_ADAPTER, "taken");
    CHECK(ropeway_remove_adapter(engine, "user") == ROPEWAY_OK);
    FAILS(ropeway_remove_adapter(engine, "user"), ROPEWAY_ERROR_ADAPTER, "user");
    FAILS(ropeway_validate(engine, &request), ROPEWAY_ERROR_UNKNOWN_TASK, "user");
    ropeway_close(engine);
    /* Results outlive their engine. */
    print("user", ropeway_results_get(results, 0));
    ropeway_results_free(results);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    ropeway_engine *engine = test_engine(argv[1], 1);
    facts(engine);
    ropeway_names *names = NULL;
    CHECK(ropeway_tasks(engine, &names) == ROPEWAY_OK);
    print_names("tasks", names);
    embed_cases(engine);
    embed_texts(engine);
    ropeway_close(engine);
    adapters(argv[2]);
    return 0;
}
