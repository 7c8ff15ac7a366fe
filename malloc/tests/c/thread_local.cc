// C++ objects local to a thread: their destructors run late in a thread's life,
// and in what order relative to the allocator's own end is nobody's promise.
#include "check.h"
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

static std::atomic<int> ended{0};

struct Late {
    std::vector<std::string> names;
    std::map<int, std::unique_ptr<char[]>> blocks;
    ~Late() {
        for (auto &name : names) CHECK(name == "a name that is longer than the small string buffer");
        names.clear();
        for (int i = 0; i < 50; i++) blocks[i] = std::unique_ptr<char[]>(new char[1 + i * 400]);
        std::vector<std::string> more(100, std::string(300, 'x'));
        ended++;
    }
};

static thread_local Late first;
static thread_local Late second;
static Late whole_program; // destroyed after main

// A destructor that makes another thread-local object for the first time.
struct Chained {
    ~Chained() {
        static thread_local Late third;
        third.names.emplace_back("a name that is longer than the small string buffer");
    }
};
static thread_local Chained chained;

static void work(int i) {
    (void)&chained;
    for (int j = 0; j < 10 + i % 5; j++) {
        first.names.emplace_back("a name that is longer than the small string buffer");
        second.blocks[j] = std::make_unique<char[]>(100 * j + 1);
    }
}

int main() {
    for (int batch = 0; batch < 60; batch++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 5; i++) threads.emplace_back(work, i);
        for (auto &thread : threads) thread.join();
    }
    std::printf("%d objects\n", ended.load());
    work(1); // and those of the main thread, destroyed by exit
    whole_program.names.emplace_back("a name that is longer than the small string buffer");
    return 0;
}
