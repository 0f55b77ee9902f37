"""A library of vector search in a process of its own, for search.py: builds an index, then answers requests.

    python benches/peers/search_worker.py NAME base.npy [SETTING=VALUE ...]

Each line of standard input is a JSON object with `queries` (a file), `k`, `batch`, `threads`, `ids_out` and the setting that
the library searches with; the answer is a line with wall and user CPU seconds of the pass. `trawl bench search --requests`
speaks the same protocol. The inner product of rows of length 1 is what is compared.
"""

import ctypes
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


class FaissFlat:
    """`threshold` is what a batch's number of values has to reach to be multiplied as a matrix; None: faiss's own."""

    def __init__(self, base, threads, **_):
        import faiss

        self.faiss, self.default = faiss, faiss.cvar.distance_compute_blas_threshold
        faiss.omp_set_num_threads(threads)
        self.index = faiss.IndexFlatIP(base.shape[1])
        self.index.add(base)

    def prepare(self, request):
        self.faiss.omp_set_num_threads(request["threads"])
        threshold = request.get("threshold")
        self.faiss.cvar.distance_compute_blas_threshold = self.default if threshold is None else threshold

    def search(self, queries, k):
        return self.index.search(queries, k)[1]


class FaissPq(FaissFlat):
    """Product quantisation with four bits and exact scores of the best; `k_factor` times k rows are scored."""

    def __init__(self, base, threads, **_):
        import faiss

        super().__init__(base[:1], threads)
        self.index = faiss.index_factory(base.shape[1], f"PQ{base.shape[1] // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        self.index.train(base[: 1 << 17])
        self.index.add(base)

    def prepare(self, request):
        super().prepare(request)
        self.index.k_factor = request["k_factor"]


class FaissHnsw(FaissFlat):
    def __init__(self, base, threads, m, ef_construction, **_):
        import faiss

        super().__init__(base[:1], threads)
        self.index = faiss.IndexHNSWFlat(base.shape[1], m, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = ef_construction
        self.index.add(base)

    def prepare(self, request):
        super().prepare(request)
        self.index.hnsw.efSearch = request["ef"]


class Hnswlib:
    def __init__(self, base, threads, m, ef_construction, **_):
        import hnswlib

        self.index = hnswlib.Index("ip", base.shape[1])
        self.index.init_index(len(base), ef_construction=ef_construction, M=m, random_seed=0)
        self.index.add_items(base, num_threads=threads)

    def prepare(self, request):
        self.index.set_num_threads(request["threads"])
        self.index.set_ef(request["ef"])

    def search(self, queries, k):
        return self.index.knn_query(queries, k)[0]


class HnswlibFiltered(Hnswlib):
    """The same graph, searched by a compiled functor that looks a row up in a table; `library` is what search.py compiled."""

    def __init__(self, base, library, **settings):
        super().__init__(base, **settings)
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.library = ctypes.CDLL(library)
        self.library.load.restype, self.library.load.argtypes = pointer, [ctypes.c_char_p, size]
        self.library.set_ef.argtypes = [pointer, size]
        self.library.search.argtypes = [pointer, pointer, size, size, pointer, pointer]
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/index"
            self.index.save_index(path)
            self.index = None
            self.loaded = self.library.load(path.encode(), base.shape[1])
        self.n_rows = len(base)

    def prepare(self, request):
        self.library.set_ef(self.loaded, request["ef"])
        self.passes = np.zeros(self.n_rows, np.uint8)
        self.passes[np.loadtxt(request["filter"], dtype=np.int64, ndmin=1)] = 1

    def search(self, queries, k):
        found = np.empty((len(queries), k), np.int64)
        self.library.search(self.loaded, queries.ctypes.data, len(queries), k, self.passes.ctypes.data, found.ctypes.data)
        return found


class FaissFlatFiltered(FaissFlat):
    def prepare(self, request):
        super().prepare(request)
        passes = np.zeros(self.index.ntotal, bool)
        passes[np.loadtxt(request["filter"], dtype=np.int64, ndmin=1)] = True
        self.bits = np.packbits(passes, bitorder="little")
        selector = self.faiss.IDSelectorBitmap(self.bits)
        self.parameters = self.faiss.SearchParameters(sel=selector)

    def search(self, queries, k):
        return self.index.search(queries, k, params=self.parameters)[1]


class UsearchHnsw:
    def __init__(self, base, threads, m, ef_construction, dtype="f32", **_):
        from usearch.index import Index

        self.index = Index(ndim=base.shape[1], metric="ip", dtype=dtype, connectivity=m, expansion_add=ef_construction)
        self.index.add(np.arange(len(base)), base, threads=threads)

    def prepare(self, request):
        self.index.expansion_search = request["ef"]
        self.threads = request["threads"]

    def search(self, queries, k):
        return self.index.search(queries, k, threads=self.threads).keys.astype(np.int64).reshape(len(queries), -1)


class UsearchExact:
    def __init__(self, base, **_):
        self.base = base

    def prepare(self, request):
        self.threads = request["threads"]

    def search(self, queries, k):
        from usearch.index import MetricKind, search

        found = search(self.base, queries, k, MetricKind.IP, exact=True, threads=self.threads)
        return found.keys.astype(np.int64).reshape(len(queries), -1)


class SvsFlat:
    def __init__(self, base, threads, **_):
        import svs

        self.index = svs.Flat(base, svs.DistanceType.MIP, num_threads=threads)

    def prepare(self, request):
        self.index.num_threads = request["threads"]

    def search(self, queries, k):
        return self.index.search(queries, k)[0].astype(np.int64)


class SvsVamana(SvsFlat):
    """A Vamana graph of the degree that level 0 of an HNSW graph has."""

    def __init__(self, base, threads, m, ef_construction, **_):
        import svs

        parameters = svs.VamanaBuildParameters(graph_max_degree=2 * m, window_size=ef_construction, alpha=0.95)
        self.index = svs.Vamana.build(parameters, base, svs.DistanceType.MIP, num_threads=threads)

    def prepare(self, request):
        super().prepare(request)
        self.index.search_window_size = request["ef"]


class Vsag:
    """One query a call: its Python interface takes no more."""

    def __init__(self, base, m, ef_construction, **_):
        import pyvsag

        parameters = {
            "dtype": "float32", "metric_type": "ip", "dim": base.shape[1],
            "hnsw": {"max_degree": 2 * m, "ef_construction": ef_construction},
        }
        self.index = pyvsag.Index("hnsw", json.dumps(parameters))
        self.index.build(vectors=base.reshape(-1), ids=np.arange(len(base)), num_elements=len(base), dim=base.shape[1])

    def prepare(self, request):
        self.parameters = json.dumps({"hnsw": {"ef_search": request["ef"]}})

    def search(self, queries, k):
        # The order of the two arrays of the answer has changed between releases: the ids are whole numbers.
        pairs = (self.index.knn_search(vector=query, k=k, parameters=self.parameters) for query in queries)
        return np.array([next(part for part in pair if np.issubdtype(part.dtype, np.integer)) for pair in pairs])


class Scann:
    """A tree of square root of n leaves over asymmetric hashing, exact scores of the best 100; `leaves` are searched."""

    def __init__(self, base, threads, k, **_):
        import scann

        builder = scann.scann_ops_pybind.builder(base, k, "dot_product").set_n_training_threads(threads)
        builder = builder.tree(int(len(base) ** 0.5), 10, training_sample_size=min(len(base), 250_000))
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def prepare(self, request):
        self.leaves = request["leaves"]

    def search(self, queries, k):
        return self.index.search_batched(queries, k, leaves_to_search=self.leaves)[0].astype(np.int64)


PEERS = {
    "faiss-flat": FaissFlat, "faiss-pq": FaissPq, "faiss-hnsw": FaissHnsw, "faiss-flat-filtered": FaissFlatFiltered,
    "hnswlib": Hnswlib, "hnswlib-filtered": HnswlibFiltered, "usearch-exact": UsearchExact, "usearch-hnsw": UsearchHnsw,
    "svs-flat": SvsFlat, "svs-vamana": SvsVamana, "vsag-hnsw": Vsag, "scann": Scann,
}


def now():
    return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime


def rss_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answer(peer, request):
    queries = np.ascontiguousarray(np.load(request["queries"]), np.float32)
    peer.prepare(request)
    found, times, batch = [], [], request["batch"]
    wall, cpu = now()
    for first in range(0, len(queries), batch):
        start = time.perf_counter()
        found.append(peer.search(queries[first : first + batch], request["k"]))
        times.append(time.perf_counter() - start)
    end_wall, end_cpu = now()
    np.save(request["ids_out"], np.concatenate(found).astype(np.int64))
    return {
        "wall_s": end_wall - wall, "user_cpu_s": end_cpu - cpu, "rss_bytes": rss_bytes(),
        "p50_ms": 1e3 * float(np.percentile(times, 50)), "p99_ms": 1e3 * float(np.percentile(times, 99)),
    }


def main():
    name, base, *settings = sys.argv[1:]
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries print, too.
    base = np.ascontiguousarray(np.load(base), np.float32)
    settings = dict(setting.split("=", 1) for setting in settings)
    settings = {key: int(value) if value.isdigit() else value for key, value in settings.items()}
    before, (wall, cpu) = rss_bytes(), now()
    peer = PEERS[name](base, **settings)
    end_wall, end_cpu = now()
    built = {"build_s": end_wall - wall, "build_cpu_s": end_cpu - cpu, "index_bytes": rss_bytes() - before}
    for line in sys.stdin:
        try:
            found = answer(peer, json.loads(line)) | built
        except Exception as error:  # Whatever it is, the other peers go on.
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=protocol, flush=True)


if __name__ == "__main__":
    main()
