/* Every way to call the library wrongly that it can notice: a status, a message that names what is wrong,
 * and no crash.
 *
 *   errors MODEL_FOLDER
 */
#include "check.h"

#define TEXT(string) .text = (string), .text_len = ROPEWAY_NUL_TERMINATED

static void last_error(void) {
    CHECK(strcmp(ropeway_last_error(), "") == 0);
    FAILS(ropeway_open(NULL, NULL, NULL), ROPEWAY_ERROR_ARGUMENT, "engine is NULL");
    /* A success leaves it as it was. */
    ropeway_close(NULL);
    CHECK(strcmp(ropeway_last_error(), "engine is NULL") == 0);
}

static void open_errors(const char *model) {
    ropeway_engine *engine = (ropeway_engine *)&engine;
    FAILS(ropeway_open(NULL, NULL, &engine), ROPEWAY_ERROR_ARGUMENT, "folder is NULL");
    CHECK(engine == NULL);
    FAILS(ropeway_open_hub(NULL, NULL, &engine), ROPEWAY_ERROR_ARGUMENT, "id is NULL");
    CHECK(engine == NULL);
    ropeway_options options = {.struct_size = sizeof options, .offline = 1};
    FAILS(ropeway_open("\xc3(", &options, &engine), ROPEWAY_ERROR_UTF8, "folder is not valid UTF-8 from byte 0 on");
    FAILS(ropeway_open("/nowhere/at all", &options, &engine), ROPEWAY_ERROR_MODEL, "/nowhere/at all");
    FAILS(ropeway_open("nobody/has-this-model", &options, &engine), ROPEWAY_ERROR_MODEL, "from_hub");
    FAILS(ropeway_open_hub("nobody/has-this-model", &options, &engine), ROPEWAY_ERROR_HUB, "nobody/has-this-model");
    FAILS(ropeway_open_hub("/nowhere/at all", &options, &engine), ROPEWAY_ERROR_HUB, "is not a hub id");
    char folder[4096];
    CHECK(snprintf(folder, sizeof folder, "%s/..", model) < (int)sizeof folder);
    FAILS(ropeway_open(folder, &options, &engine), ROPEWAY_ERROR_IO, "config.json");
    options.device = "abacus";
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "abacus");
    options.device = "\x80";
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_UTF8, "options.device");
    options.device = NULL;
    options.precision = "f15";
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "f15");
    options.precision = "f16";
    options.numerics = "lucky";
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "lucky");
    options.numerics = "fastest";
    const char *merge[] = {"separation", NULL};
    options.merge_len = 2;
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "options.merge is NULL");
    options.merge = merge;
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "options.merge[1] is NULL");
    options.merge_len = 0;
    options.threads = 5000;
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "threads is 5000");
    options.threads = 0;
    options.reserved = 1;
    FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "options.reserved");
    CHECK(engine == NULL);
}

/* Structs of another version: shorter than any is a mistake, longer is newer. */
static void struct_sizes(const char *model) {
    ropeway_engine *engine = NULL;
    struct {
        ropeway_options known;
        size_t unknown;
    } newer = {.known = {.struct_size = sizeof newer, .offline = 1}};
    const size_t bad[] = {0, 1, sizeof(size_t), sizeof(ropeway_options) - 1, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ropeway_options options = {.struct_size = bad[i]};
        FAILS(ropeway_open(model, &options, &engine), ROPEWAY_ERROR_ARGUMENT, "options.struct_size");
    }
    newer.unknown = 1;
    FAILS(ropeway_open(model, &newer.known, &engine), ROPEWAY_ERROR_ARGUMENT, "does not know");
    newer.unknown = 0;
    CHECK(ropeway_open(model, &newer.known, &engine) == ROPEWAY_OK);

    struct {
        ropeway_info known;
        size_t unknown;
        size_t not_ours;
    } info = {.known = {.struct_size = sizeof(ropeway_info) + sizeof(size_t)}, .unknown = 7, .not_ours = 8};
    CHECK(ropeway_engine_info(engine, &info.known) == ROPEWAY_OK);
    CHECK(info.known.struct_size == sizeof(ropeway_info) + sizeof(size_t));
    CHECK(info.known.hidden_size == 128 && info.unknown == 0 && info.not_ours == 8);
    info.known.struct_size = 8;
    FAILS(ropeway_engine_info(engine, &info.known), ROPEWAY_ERROR_ARGUMENT, "info.struct_size is 8");
    FAILS(ropeway_engine_info(engine, NULL), ROPEWAY_ERROR_ARGUMENT, "info is NULL");
    FAILS(ropeway_engine_info(NULL, &info.known), ROPEWAY_ERROR_ARGUMENT, "engine is NULL");
    ropeway_close(engine);
}

static void wrong_calls(const ropeway_engine *engine) {
    const ropeway_request request = {TEXT("x")};
    ropeway_results *results = (ropeway_results *)&results;
    FAILS(ropeway_embed(NULL, &request, 1, &results), ROPEWAY_ERROR_ARGUMENT, "engine is NULL");
    CHECK(results == NULL);
    FAILS(ropeway_embed(engine, &request, 1, NULL), ROPEWAY_ERROR_ARGUMENT, "results is NULL");
    FAILS(ropeway_embed(engine, NULL, 1, &results), ROPEWAY_ERROR_ARGUMENT, "requests is NULL");
    FAILS(ropeway_embed(engine, &request, SIZE_MAX, &results), ROPEWAY_ERROR_ARGUMENT, "requests_len");
    const ropeway_request *odd = (const ropeway_request *)(const void *)((const char *)&request + 1);
    FAILS(ropeway_embed(engine, odd, 1, &results), ROPEWAY_ERROR_ARGUMENT, "requests is not aligned");
    CHECK(results == NULL);
    FAILS(ropeway_validate(engine, NULL), ROPEWAY_ERROR_ARGUMENT, "request is NULL");

    /* No requests are no mistake. */
    CHECK(ropeway_embed(engine, NULL, 0, &results) == ROPEWAY_OK);
    CHECK(ropeway_results_len(results) == 0);
    CHECK(ropeway_results_get(results, 0) == NULL);
    CHECK(strcmp(ropeway_last_error(), "index is 0; there are 0") == 0);
    ropeway_results_free(results);

    CHECK(ropeway_results_len(NULL) == 0 && ropeway_names_len(NULL) == 0);
    CHECK(ropeway_results_get(NULL, 0) == NULL && ropeway_names_get(NULL, 0) == NULL);
    CHECK(strcmp(ropeway_last_error(), "names is NULL") == 0);
    ropeway_results_free(NULL);
    ropeway_names_free(NULL);

    ropeway_names *names = NULL;
    FAILS(ropeway_adapters(engine, NULL), ROPEWAY_ERROR_ARGUMENT, "names is NULL");
    FAILS(ropeway_tasks(NULL, &names), ROPEWAY_ERROR_ARGUMENT, "engine is NULL");
    CHECK(ropeway_tasks(engine, &names) == ROPEWAY_OK);
    CHECK(ropeway_names_get(names, 5) == NULL);
    CHECK(strcmp(ropeway_last_error(), "index is 5; there are 5") == 0);
    ropeway_names_free(names);

    FAILS(ropeway_add_adapter(engine, NULL, "x"), ROPEWAY_ERROR_ARGUMENT, "name is NULL");
    FAILS(ropeway_add_adapter(engine, "x", NULL), ROPEWAY_ERROR_ARGUMENT, "folder is NULL");
    FAILS(ropeway_add_adapter(engine, "x", "\xff"), ROPEWAY_ERROR_UTF8, "folder");
    FAILS(ropeway_add_adapter(engine, "x", "/nowhere"), ROPEWAY_ERROR_IO, "/nowhere");
    FAILS(ropeway_add_adapter(engine, "separation", "/nowhere"), ROPEWAY_ERROR_ADAPTER, "separation");
    FAILS(ropeway_remove_adapter(engine, "x"), ROPEWAY_ERROR_ADAPTER, "x");
    FAILS(ropeway_remove_adapter(engine, NULL), ROPEWAY_ERROR_ARGUMENT, "name is NULL");
}

/* A request that is wrong by itself: its own status and message; its neighbours are served. */
static void wrong_requests(const ropeway_engine *engine) {
#define OPTIONS(...) &(const ropeway_embed_options){.struct_size = sizeof(ropeway_embed_options), __VA_ARGS__}
    const uint32_t ids[] = {0, 2};
    const ropeway_weight nameless[] = {{"separation", 1.0f}, {NULL, 1.0f}};
    const ropeway_weight bad_name[] = {{"\xe9", 1.0f}};
    const struct {
        ropeway_status status;
        const char *message;
        ropeway_request request;
    } cases[] = {
        {ROPEWAY_ERROR_ARGUMENT, "text and ids are both NULL; one must be given", {.text_len = 3}},
        {ROPEWAY_ERROR_ARGUMENT, "text and ids are both given; one must be NULL", {TEXT("x"), .ids = ids, .ids_len = 2}},
        {ROPEWAY_ERROR_UTF8, "text is not valid UTF-8 from byte 3 on", {TEXT("abc\xc3")}},
        {ROPEWAY_ERROR_UTF8, "text is not valid UTF-8 from byte 1 on", {.text = "a\xed\xa0\x80", .text_len = 4}},
        {ROPEWAY_ERROR_ARGUMENT, "text_len is", {.text = "x", .text_len = SIZE_MAX - 1}},
        {ROPEWAY_ERROR_ARGUMENT, "ids_len is", {.ids = ids, .ids_len = SIZE_MAX / 4}},
        {ROPEWAY_ERROR_ARGUMENT, "ids is not aligned to 4 bytes",
         {.ids = (const uint32_t *)(const void *)((const char *)ids + 1), .ids_len = 1}},
        {ROPEWAY_ERROR_ARGUMENT, "options.struct_size is 0; set it to sizeof(ropeway_embed_options)",
         {TEXT("x"), .options = &(const ropeway_embed_options){.task = "separation"}}},
        {ROPEWAY_ERROR_ARGUMENT, "options.reserved", {TEXT("x"), .options = OPTIONS(.reserved = 1)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.pooling is 8", {TEXT("x"), .options = OPTIONS(.pooling = 8)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.normalize is -1", {TEXT("x"), .options = OPTIONS(.normalize = -1)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.chunking is 9", {TEXT("x"), .options = OPTIONS(.chunking = 9)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.encoding is 5", {TEXT("x"), .options = OPTIONS(.encoding = 5)}},
        {ROPEWAY_ERROR_UTF8, "options.task is not valid UTF-8", {TEXT("x"), .options = OPTIONS(.task = "\xff")}},
        {ROPEWAY_ERROR_UTF8, "options.prompt is not valid UTF-8", {TEXT("x"), .options = OPTIONS(.prompt = "\xff")}},
        {ROPEWAY_ERROR_ARGUMENT, "options.mixture is NULL", {TEXT("x"), .options = OPTIONS(.mixture_len = 1)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.mixture[1].adapter is NULL",
         {TEXT("x"), .options = OPTIONS(.mixture = nameless, .mixture_len = 2)}},
        {ROPEWAY_ERROR_UTF8, "options.mixture[0].adapter is not valid UTF-8",
         {TEXT("x"), .options = OPTIONS(.mixture = bad_name, .mixture_len = 1)}},
        {ROPEWAY_ERROR_ARGUMENT, "exclude one another",
         {TEXT("x"), .options = OPTIONS(.task = "separation", .mixture = nameless, .mixture_len = 1)}},
        {ROPEWAY_ERROR_ARGUMENT, "exclude one another", {TEXT("x"), .options = OPTIONS(.task = "separation", .base_weights = 1)}},
        {ROPEWAY_ERROR_ARGUMENT, "options.spans is NULL",
         {TEXT("x"), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SPANS, .spans_len = 1)}},
        {ROPEWAY_ERROR_UNKNOWN_TASK, "there is no task or adapter `x`", {TEXT("x"), .options = OPTIONS(.task = "x")}},
        {ROPEWAY_ERROR_DIMENSIONS, "dimensions is 7", {TEXT("x"), .options = OPTIONS(.dimensions = 7)}},
        {ROPEWAY_ERROR_REQUEST, "windows of 5000 tokens",
         {TEXT("x"), .options = OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES, .window_size = 5000)}},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    /* A good one between any two. */
    ropeway_request requests[2 * COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        requests[2 * i] = cases[i].request;
        requests[2 * i + 1] = (ropeway_request){TEXT("a good one"), .options = OPTIONS(.task = "separation")};
        FAILS(ropeway_validate(engine, &cases[i].request), cases[i].status, cases[i].message);
    }
    ropeway_results *results = NULL;
    CHECK(ropeway_embed(engine, requests, 2 * COUNT, &results) == ROPEWAY_OK);
    const ropeway_embedding *good = ropeway_results_get(results, 1);
    for (size_t i = 0; i < COUNT; i++) {
        const ropeway_embedding *bad = ropeway_results_get(results, 2 * i);
        CHECK(bad->status == cases[i].status);
        CHECK(strstr(bad->message, cases[i].message) != NULL);
        CHECK(bad->data == NULL && bad->count == 0 && bad->dimensions == 0 && bad->row_bytes == 0);
        const ropeway_embedding *other = ropeway_results_get(results, 2 * i + 1);
        CHECK(other->status == ROPEWAY_OK && other->dimensions == 128);
        CHECK(memcmp(other->data, good->data, 128 * sizeof(float)) == 0);
    }
    ropeway_results_free(results);
}

/* ropeway_embed_texts: wrong calls leave the matrix alone. */
static void wrong_texts(const ropeway_engine *engine) {
    const char *texts[] = {"x", NULL};
    float matrix[256] = {42.0f};
    FAILS(ropeway_embed_texts(NULL, texts, NULL, 1, NULL, matrix, 128), ROPEWAY_ERROR_ARGUMENT, "engine is NULL");
    FAILS(ropeway_embed_texts(engine, NULL, NULL, 1, NULL, matrix, 128), ROPEWAY_ERROR_ARGUMENT, "texts is NULL");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, NULL, NULL, 128), ROPEWAY_ERROR_ARGUMENT, "matrix is NULL");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, NULL, matrix, 127), ROPEWAY_ERROR_ARGUMENT, "matrix_len is 127");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, OPTIONS(.dimensions = SIZE_MAX), matrix, 127), ROPEWAY_ERROR_ARGUMENT,
          "matrix_len is 127");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, OPTIONS(.encoding = ROPEWAY_ENCODING_F16), matrix, 128),
          ROPEWAY_ERROR_ARGUMENT, "ropeway_embed");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, OPTIONS(.pooling = ROPEWAY_POOLING_NONE), matrix, 128),
          ROPEWAY_ERROR_ARGUMENT, "ropeway_embed");
    FAILS(ropeway_embed_texts(engine, texts, NULL, 1, OPTIONS(.chunking = ROPEWAY_CHUNKING_SENTENCES), matrix, 128),
          ROPEWAY_ERROR_ARGUMENT, "ropeway_embed");
    CHECK(matrix[0] == 42.0f);
    CHECK(ropeway_embed_texts(engine, NULL, NULL, 0, NULL, NULL, 0) == ROPEWAY_OK);
    FAILS(ropeway_embed_texts(engine, texts, NULL, 2, NULL, matrix, 256), ROPEWAY_ERROR_ARGUMENT, "input 1: the text is NULL");
    CHECK(matrix[0] < 1.0f && matrix[128] != matrix[128] && matrix[255] != matrix[255]);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    last_error();
    open_errors(argv[1]);
    struct_sizes(argv[1]);
    ropeway_engine *engine = test_engine(argv[1], 1);
    wrong_calls(engine);
    wrong_requests(engine);
    wrong_texts(engine);
    ropeway_close(engine);
    return 0;
}
