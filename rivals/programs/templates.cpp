// Much work for a compiler's front end: containers of containers, variants, tuples.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Chain {
    using Value = std::map<std::string, std::vector<std::tuple<int, typename Chain<N - 1>::Key, double>>>;
    using Key = std::pair<typename Chain<N - 1>::Key, int>;
    Value value;
    std::variant<int, std::string, Key> either;
    Chain<N - 1> next;
    std::size_t total() const {
        auto sum = std::accumulate(value.begin(), value.end(), std::size_t{0},
                                   [](std::size_t s, auto const &entry) { return s + entry.second.size() * N; });
        return sum + std::visit([](auto const &held) { return sizeof(held) + N; }, either) + next.total();
    }
};
template <> struct Chain<0> {
    using Key = int;
    std::size_t total() const { return 0; }
};

template <typename... Types> auto print(std::ostream &out, Types const &...values) {
    ((out << values << ' '), ...);
    return std::make_tuple(values...);
}

template <std::size_t... Index> auto functions(std::index_sequence<Index...>) {
    return std::vector<std::function<std::size_t(std::size_t)>>{[](std::size_t n) { return n * Index + sizeof...(Index); }...};
}

int main() {
    Chain<2> chain;
    std::unordered_map<std::string, std::shared_ptr<std::set<std::string>>> words;
    std::istringstream text("one two three");
    for (std::string word; text >> word;)
        words.emplace(word, std::make_shared<std::set<std::string>>()).first->second->insert(word + word);
    std::size_t sum = chain.total();
    for (auto &function : functions(std::make_index_sequence<4>{})) sum += function(sum);
    std::ostringstream out;
    print(out, sum, words.size(), text.str(), 1.5, 'c');
    std::cout << out.str() << '\n';
}
