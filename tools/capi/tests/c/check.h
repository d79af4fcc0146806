/* What the C tests share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ropeway.h"

/* Ends the test with the place and the last error, unless the condition holds. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition,      \
                    ropeway_last_error());                                                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The call must fail with this status and a message that holds this text. */
#define FAILS(call, wanted, text)                                                                  \
    do {                                                                                           \
        CHECK((call) == (wanted));                                                                 \
        CHECK(strstr(ropeway_last_error(), (text)) != NULL);                                       \
    } while (0)

/* The device that the environment names; softcuda or a GPU runs the same tests with "cuda". */
static inline const char *test_device(void) {
    const char *device = getenv("ROPEWAY_TEST_DEVICE");
    return device != NULL ? device : "cpu";
}

static inline ropeway_engine *test_engine(const char *model, size_t concurrency) {
    ropeway_options options = {.struct_size = sizeof options, .device = test_device(), .threads = 2,
                               .concurrency = concurrency, .offline = 1};
    ropeway_engine *engine = NULL;
    CHECK(ropeway_open(model, &options, &engine) == ROPEWAY_OK);
    CHECK(engine != NULL);
    return engine;
}

#endif
