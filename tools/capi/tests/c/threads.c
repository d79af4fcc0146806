/* One engine, many threads: the same bits for all, and errors that stay with their thread.
 *
 *   threads MODEL_FOLDER ROUNDS
 */
#include <pthread.h>
#include <stdlib.h>

#include "check.h"

enum { THREADS = 6, WIDTH = 128 };

static const char *const TASKS[] = {"retrieval.query", "separation", "classification"};
static const char *const TEXTS[] = {"Which cable car climbs to the glacier?", "half past four", ""};

static const ropeway_engine *engine;
static size_t rounds;
static float wanted[3][3][WIDTH];

static void *embed(void *number) {
    size_t self = *(const size_t *)number;
    for (size_t round = 0; round < rounds; round++) {
        size_t task = (self + round) % 3;
        ropeway_embed_options options = {.struct_size = sizeof options, .task = TASKS[task]};
        float got[3][WIDTH];
        CHECK(ropeway_embed_texts(engine, TEXTS, NULL, 3, &options, &got[0][0], 3 * WIDTH) == ROPEWAY_OK);
        CHECK(memcmp(got, wanted[task], sizeof got) == 0);
        CHECK((round == 0) == (strcmp(ropeway_last_error(), "") == 0));

        char name[32];
        CHECK(snprintf(name, sizeof name, "task-%zu-%zu", self, round) > 0);
        options.task = name;
        ropeway_request request = {.text = "x", .text_len = 1, .options = &options};
        FAILS(ropeway_validate(engine, &request), ROPEWAY_ERROR_UNKNOWN_TASK, name);
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    rounds = strtoul(argv[2], NULL, 10);
    CHECK(rounds > 0);
    ropeway_engine *opened = test_engine(argv[1], 2);
    engine = opened;
    for (size_t task = 0; task < 3; task++) {
        ropeway_embed_options options = {.struct_size = sizeof options, .task = TASKS[task]};
        CHECK(ropeway_embed_texts(engine, TEXTS, NULL, 3, &options, &wanted[task][0][0], 3 * WIDTH) == ROPEWAY_OK);
    }
    pthread_t threads[THREADS];
    size_t numbers[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, embed, &numbers[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(strcmp(ropeway_last_error(), "") == 0);
    ropeway_close(opened);
    return 0;
}
