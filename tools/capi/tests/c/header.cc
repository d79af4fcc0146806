// The header is C++ as well.
#include <cstring>

#include "ropeway.h"

int main() {
    ropeway_embed_options options{};
    options.struct_size = sizeof options;
    options.pooling = ROPEWAY_POOLING_MEAN;
    ropeway_engine *engine = nullptr;
    ropeway_status status = ropeway_open(nullptr, nullptr, &engine);
    bool named = std::strcmp(ropeway_last_error(), "folder is NULL") == 0;
    return status == ROPEWAY_ERROR_ARGUMENT && named && engine == nullptr ? 0 : 1;
}
