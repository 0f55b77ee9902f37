// hnswlib searched with a filter functor that is compiled, not Python: search.py builds a shared library of this file.
#include <hnswlib/hnswlib.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace {

struct Loaded {
    hnswlib::InnerProductSpace space;
    hnswlib::HierarchicalNSW<float> graph;
    size_t width;

    Loaded(const std::string &path, size_t width) : space(width), graph(&space, path), width(width) {}
};

struct Table : hnswlib::BaseFilterFunctor {
    const uint8_t *passes;

    explicit Table(const uint8_t *passes) : passes(passes) {}
    bool operator()(hnswlib::labeltype row) override { return passes[row] != 0; }
};

}  // namespace

extern "C" {

void *load(const char *path, size_t width) { return new Loaded(path, width); }

void set_ef(void *loaded, size_t ef) { static_cast<Loaded *>(loaded)->graph.setEf(ef); }

// Rows that pass, nearest first, -1 where there are too few.
void search(void *loaded, const float *queries, size_t n_queries, size_t k, const uint8_t *passes, int64_t *found) {
    auto &index = *static_cast<Loaded *>(loaded);
    Table table(passes);
    for (size_t query = 0; query < n_queries; ++query) {
        auto nearest = index.graph.searchKnn(queries + query * index.width, k, &table);
        int64_t *row = found + query * k;
        for (size_t rank = 0; rank < k; ++rank) row[rank] = -1;
        while (!nearest.empty()) {
            row[nearest.size() - 1] = static_cast<int64_t>(nearest.top().second);
            nearest.pop();
        }
    }
}
}
