// A library with static objects that allocate when it is loaded and free when
// it is unloaded. Opened and closed by dlopen.c.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {
struct Loaded {
    std::map<int, std::string> names;
    std::vector<std::vector<int>> rows;
    void *raw = std::malloc(70000);
    Loaded() {
        for (int i = 0; i < 200; i++) names[i] = "a rather long name for number " + std::to_string(i);
        for (int i = 0; i < 50; i++) rows.emplace_back(i * 10, i);
        std::memset(raw, 1, 70000);
    }
    ~Loaded() { std::free(raw); }
} loaded;
} // namespace

// A block for the caller to free.
extern "C" void *plugin_make(size_t size) {
    void *block = std::malloc(size);
    std::memset(block, 7, size);
    return block;
}

// Frees a block of the caller's.
extern "C" void plugin_free(void *block) { std::free(block); }

extern "C" int plugin_sum() {
    int sum = 0;
    for (auto &row : loaded.rows)
        for (int number : row) sum += number;
    return sum + static_cast<int>(loaded.names.size());
}
