// C++ over the allocator: every form of new and delete, exceptions, standard
// containers, threads and shared ownership, and what happens when new fails.
#include "check.h"
#include <algorithm>
#include <any>
#include <deque>
#include <functional>
#include <future>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct alignas(256) Wide {
    char bytes[700];
};
struct alignas(65536) Wider {
    char bytes[10];
};
static std::string *static_text = new std::string(5000, 's');
static struct Static {
    std::vector<std::string> lines{100, std::string(1000, 'l')};
    ~Static() { delete static_text; }
} static_object;

static void forms() {
    delete new int(5);
    delete[] new char[100000];
    delete new Wide;
    delete[] new Wide[7];
    for (int i = 0; i < 100; i++) {
        std::unique_ptr<Wide> wide(new Wide);
        std::unique_ptr<Wider[]> wider(new Wider[3]);
        CHECK(aligned(wide.get(), 256) && aligned(wider.get(), 65536));
    }
    void *none[2] = {::operator new(0), ::operator new(0)};
    CHECK(none[0] && none[1] && none[0] != none[1]);
    for (void *each : none) ::operator delete(each);
    ::operator delete(::operator new(100), std::size_t(100));
    ::operator delete(::operator new(100, std::align_val_t(4096)), std::align_val_t(4096));
    ::operator delete(::operator new(100, std::nothrow), std::nothrow);
    delete static_cast<int *>(nullptr);
    std::puts("forms of new and delete");
}

static volatile std::size_t huge = PTRDIFF_MAX / 2;
static int handled = 0;

static void refusals() {
    int refused = 0;
    for (int i = 0; i < 100; i++) {
        try {
            (void)::operator new(huge);
        } catch (const std::bad_alloc &) {
            refused++;
        }
        try {
            (void)::operator new(huge, std::align_val_t(64));
        } catch (const std::bad_alloc &) {
            refused++;
        }
        if (!::operator new(huge, std::nothrow)) refused++;
    }
    CHECK(refused == 300);
    std::set_new_handler([] {
        if (++handled == 3) std::set_new_handler(nullptr);
    });
    try {
        (void)::operator new(huge);
        CHECK(false);
    } catch (const std::bad_alloc &) {
    }
    CHECK(handled == 3);
    try {
        std::vector<char> vector;
        vector.resize(huge);
        CHECK(false);
    } catch (const std::exception &) {
    }
    std::puts("refusals become bad_alloc");
}

static int thrower(int depth) {
    std::string local(static_cast<std::size_t>(depth) * 10, 'd');
    std::vector<int> more(static_cast<std::size_t>(depth));
    if (depth == 0) throw std::runtime_error("at the bottom of a deep stack of frames that own memory");
    return thrower(depth - 1) + static_cast<int>(local.size());
}

static void exceptions() {
    int caught = 0;
    for (int i = 0; i < 300; i++) {
        try {
            thrower(i);
        } catch (const std::exception &error) {
            caught += std::string(error.what()).size() > 20;
            std::exception_ptr kept = std::current_exception();
            try {
                std::rethrow_exception(kept);
            } catch (const std::runtime_error &) {
                caught++;
            }
        }
    }
    CHECK(caught == 600);
    std::puts("exceptions");
}

static void containers() {
    std::map<int, std::string> ordered;
    std::unordered_map<std::string, std::vector<int>> hashed;
    std::list<std::any> list;
    std::deque<std::function<int()>> queue;
    std::set<std::string> set;
    uint64_t random = 11;
    long sum = 0;
    for (int i = 0; i < 30000; i++) {
        int key = static_cast<int>(draw(&random) % 5000);
        ordered[key] += std::to_string(i);
        hashed[std::to_string(key)].push_back(i);
        list.push_back(std::string(static_cast<std::size_t>(key % 50), 'a'));
        queue.push_back([i, text = std::string(40, 'q')] { return i + static_cast<int>(text.size()); });
        set.insert(std::to_string(key * 3));
        if (i % 3 == 0) list.pop_front();
        if (i % 5 == 0) {
            sum += queue.front()();
            queue.pop_front();
        }
        if (i % 7 == 0) hashed.erase(std::to_string(key));
        if (i % 11 == 0) ordered.erase(key);
    }
    std::size_t bytes = 0;
    for (auto &[key, text] : ordered) bytes += text.size();
    std::printf("containers %zu %zu %zu %zu %ld\n", ordered.size(), bytes, list.size(), set.size(), sum);
}

static void shared() {
    auto root = std::make_shared<std::vector<std::shared_ptr<std::string>>>();
    for (int i = 0; i < 1000; i++) root->push_back(std::make_shared<std::string>(static_cast<std::size_t>(i), 'r'));
    std::vector<std::future<std::size_t>> futures;
    for (int i = 0; i < 8; i++)
        futures.push_back(std::async(std::launch::async, [root] {
            std::size_t size = 0;
            for (auto &each : *root) {
                auto copy = std::make_unique<std::string>(*each);
                size += copy->size();
            }
            return size;
        }));
    root.reset();
    std::size_t size = 0;
    for (auto &future : futures) size += future.get();
    std::printf("shared %zu\n", size);
}

int main() {
    forms();
    refusals();
    exceptions();
    containers();
    shared();
    std::ostringstream stream;
    for (int i = 0; i < 10000; i++) stream << i << ' ';
    std::cout << "stream " << stream.str().size() << std::endl;
    return 0;
}
