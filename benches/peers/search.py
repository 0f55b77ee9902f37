"""`trawl bench search` beside libraries of vector search, on the same vectors, in rounds that take turns.

    python benches/peers/search.py --trawl target/release/trawl --n 100000
    python benches/peers/search.py --base base.npy --queries queries.npy --rows hnsw,filtered --threads 1 --rounds 7

Without `--base` and `--queries` the data are synthetic, of a fixed seed: rows of length 1 from a mixture of 1,000 Gaussians in 64
dimensions with Zipf weights, projected to 384, with a common mean and weak noise in all directions; of the 1,000 queries half are
drawn alike, half are noisy copies of rows. Rows and queries of other files are brought to length 1; the inner product is compared.

Rows of the report (`--rows`):

- flat-1, flat-32, flat-256: batches of so many queries through exact search. faiss multiplies matrices only from 128,000 values a
  batch on, 334 queries of width 384, and scans below; `faiss-flat gemm` has that threshold at 1, so that both are rivals.
  `faiss-pq` is PQ with 4 bits and exact scores of the best `k_factor` k: fast, without a guarantee.
- hnsw: graphs of equal M and ef_construction, all queries in one call, for each ef of `--ef`. Figures at a recall are interpolated
  between the two nearest ef, on a logarithmic scale.
- filtered: 10 % and 1 % of the rows pass. hnswlib has a functor compiled by g++ from hnswlib_filtered.cpp: with one in Python
  it would be no rival. Its headers come from its source distribution, or `--hnswlib DIR`.

A peer is a process that builds once and then takes its turns (search_worker.py). Medians over the rounds, after one that warms up. CPU
is user time of the process over a pass; building has `--build-threads`. Recall counts found rows that score no less, in 64-bit
floats and within 1e-7, than the exact answer's last. Ratios above 1 are in trawl's favour. svs, vsag and scann
are reported where they are installed; a peer that is missing or fails is named and left out.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
WIDTH = 384
BLOCK = 20_000  # rows that are compared with all queries at a time
TARGETS = [0.95, 0.99]


# Data


def synthetic(n, n_queries=1000, latent=64, n_clusters=1000):
    """Returns rows and queries."""
    draw = np.random.default_rng(0)
    normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)
    projection, centers = normal(latent, WIDTH) / np.float32(math.sqrt(latent)), normal(n_clusters, latent)
    weights = 1 / np.arange(1, n_clusters + 1)
    mean = normal(WIDTH) * np.float32(0.5)

    def rows(n):
        clusters = draw.choice(n_clusters, n, p=weights / weights.sum())
        points = centers[clusters] + np.float32(0.6) * normal(n, latent)
        return unit(points @ projection + mean + np.float32(0.1) * normal(n, WIDTH))

    base = np.concatenate([rows(min(100_000, n - first)) for first in range(0, n, 100_000)])
    drawn = rows(n_queries // 2)
    copied = base[draw.choice(n, n_queries - n_queries // 2, replace=False)]
    noise = np.float32(0.3 / math.sqrt(WIDTH)) * normal(*copied.shape)
    return base, np.concatenate([drawn, unit(copied + noise)])


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def last_scores(base, queries, k, passes=None):
    """Returns the score of each query's k-th best row of those that pass, in 64-bit floats."""
    best, queries = np.full((len(queries), k), -np.inf), queries.astype(np.float64)
    for first in range(0, len(base), BLOCK):
        rows = base[first : first + BLOCK]
        rows = rows if passes is None else rows[passes[first : first + BLOCK]]
        scores = np.concatenate([best, queries @ rows.astype(np.float64).T], axis=1)
        best = np.partition(scores, -k, axis=1)[:, -k:]
    return best.min(axis=1)


def recall(base, queries, last, found):
    """Returns the share of the exact answers that was found."""
    n_found = 0
    for query, threshold, ids in zip(queries.astype(np.float64), last, found):
        ids = np.unique(ids[ids >= 0])
        n_found += int((base[ids].astype(np.float64) @ query >= threshold - 1e-7).sum())
    return n_found / found.size


# Peers


class PeerFailed(Exception):
    pass


class Process:
    """A peer, or trawl: answers a line of JSON with a line of JSON."""

    def __init__(self, command, threads):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self.errors = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen([str(part) for part in command], env=env, text=True, **pipes)

    def ask(self, request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            raise PeerFailed((self.errors.read().strip().splitlines() or ["it ended"])[-1])
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def end(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # It ended before and left a line unread.
        self.process.wait()


class Candidate:
    """A peer with the setting that it searches with, `request`; candidates of one peer share its process."""

    def __init__(self, peer, label="", settings=(), **request):
        self.peer, self.label, self.settings, self.request = peer, label, list(settings), request
        self.rounds, self.recall = [], None

    @property
    def name(self):
        return f"{self.peer} {self.label}".strip()

    def median(self, key):
        return statistics.median(found[key] for found in self.rounds)

    def summary(self, n_queries):
        keys = ("p50_ms", "p99_ms", "build_s", "build_cpu_s", "index_bytes", "rss_bytes")
        return {
            "name": self.name, "recall": self.recall, "queries_per_s": n_queries / self.median("wall_s"),
            "user_us": 1e6 * self.median("user_cpu_s") / n_queries,
            **{key: self.median(key) for key in keys}, "request": self.request, "rounds": self.rounds,
        }


def trawl_kinds(binary):
    """Returns the kinds of index that this trawl can build."""
    command = [binary, "bench", "search", "--base", "-", "--queries", "-", "--kind", "?"]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    return re.search(r"possible values: ([^\]]*)\]", told)[1].split(", ")


class Bench:
    def __init__(self, args, base, queries, folder):
        self.args, self.base, self.queries, self.folder = args, base, queries, folder
        self.paths = {"base": folder / "base.npy", "queries": folder / "queries.npy", "ids": folder / "ids.npy"}
        np.save(self.paths["base"], base)
        np.save(self.paths["queries"], queries)
        self.processes, self.last = {}, {}
        kinds = trawl_kinds(args.trawl)
        self.graphs = [kind for kind in kinds if "hnsw" in kind]
        self.scans = [kind for kind in kinds if "hnsw" not in kind]

    def command(self, peer, settings):
        args = self.args
        if peer.startswith("trawl-"):
            kind = peer.removeprefix("trawl-")
            graph = ["--m", args.m, "--ef-construction", args.ef_construction] if kind in self.graphs else []
            return [args.trawl, "--quiet", "bench", "search", "--requests", "--base", self.paths["base"], *graph,
                    "--kind", kind, "--threads", args.build_threads]
        build = [f"threads={args.build_threads}", f"m={args.m}", f"ef_construction={args.ef_construction}", f"k={args.k}"]
        return [sys.executable, HERE / "search_worker.py", peer, self.paths["base"], *build, *settings]

    def ask(self, candidate, batch, last, passes):
        """Searches all queries once."""
        if candidate.peer not in self.processes:
            command = self.command(candidate.peer, candidate.settings)
            self.processes[candidate.peer] = Process(command, self.args.build_threads)
        request = {"queries": str(self.paths["queries"]), "k": self.args.k, "batch": batch, "threads": self.args.threads,
                   "ids_out": str(self.paths["ids"]), **candidate.request}
        answer = self.processes[candidate.peer].ask(request)
        if candidate.recall is None:
            candidate.recall = recall(self.base, self.queries, last, np.load(self.paths["ids"]))
        return answer

    def measure(self, candidates, batch, passes=None):
        """Returns the candidates that did not fail, with their rounds."""
        chosen = self.args.peers and self.args.peers.split(",")
        candidates = [c for c in candidates if not chosen or c.peer in chosen]
        if passes is None and None not in self.last:
            self.last[None] = last_scores(self.base, self.queries, self.args.k)
        last = self.last[None] if passes is None else last_scores(self.base, self.queries, self.args.k, passes)
        for turn in range(self.args.rounds + 1):
            for candidate in list(candidates):
                try:
                    answer = self.ask(candidate, batch, last, passes)
                    if turn > 0:
                        candidate.rounds.append(answer)
                except PeerFailed as failure:
                    print(f"left out: {candidate.name}: {failure}", file=sys.stderr)
                    candidates.remove(candidate)
        return candidates

    def end(self):
        """Ends all processes, and so frees their memory."""
        for process in self.processes.values():
            process.end()
        self.processes = {}


# Rows of the report


def flat(bench, batch):
    """Exact search in batches."""
    scans = [Candidate(f"trawl-{kind}") for kind in bench.scans]
    product = [Candidate("faiss-pq", f"k_factor {k_factor}", k_factor=k_factor) for k_factor in (16, 32, 64)]
    reported = [Candidate("usearch-exact"), Candidate("svs-flat")]
    rivals = [Candidate("faiss-flat", "default", threshold=None), Candidate("faiss-flat", "gemm", threshold=1)]
    measured = bench.measure(scans + rivals + product + reported, batch)
    return f"Batches of {batch}", measured, table(measured, len(bench.queries))


def graph(bench):
    """Recall against time of graphs."""
    ours = [f"trawl-{kind}" for kind in bench.graphs]
    peers = ["hnswlib", "faiss-hnsw", "usearch-hnsw", "svs-vamana", "vsag-hnsw"]
    sweep = [Candidate(peer, f"ef {ef}", ef=ef) for peer in ours + peers for ef in bench.args.ef]
    leaves = [Candidate("scann", f"leaves {n}", leaves=n) for n in (4, 8, 16, 32, 64, 128)]
    measured = bench.measure(sweep + leaves, len(bench.queries))
    text = at_recall(measured, ours, len(bench.queries)) + "\n" + table(measured, len(bench.queries))
    return "Graphs", measured, text


def filtered(bench, share):
    """Search among a share of the rows."""
    n = len(bench.base)
    rows = np.sort(np.random.default_rng(1).choice(n, max(int(share * n), bench.args.k), replace=False))
    passes = np.zeros(n, bool)
    passes[rows] = True
    path = str(bench.folder / "filter")
    np.savetxt(path, rows, fmt="%d")
    ours = [f"trawl-{kind}" for kind in bench.scans + bench.graphs]
    candidates = [Candidate(f"trawl-{kind}", filter=path) for kind in bench.scans]
    candidates += [Candidate(f"trawl-{kind}", f"ef {ef}", filter=path, ef=ef) for kind in bench.graphs for ef in bench.args.ef]
    candidates.append(Candidate("faiss-flat-filtered", filter=path, threshold=None))
    try:
        library = [f"library={compiled_functor(bench)}"]
        candidates += [Candidate("hnswlib-filtered", f"ef {ef}", library, filter=path, ef=ef) for ef in bench.args.ef]
    except (subprocess.CalledProcessError, OSError, metadata.PackageNotFoundError) as failure:
        print(f"left out: hnswlib-filtered: {failure}", file=sys.stderr)
    measured = bench.measure(candidates, len(bench.queries), passes)
    text = at_recall(measured, ours, len(bench.queries)) + "\n" + table(measured, len(bench.queries))
    return f"{share:.0%} of the rows pass", measured, text


def compiled_functor(bench):
    """Compiles hnswlib_filtered.cpp with the headers of the installed release."""
    library = bench.folder / "hnswlib_filtered.so"
    if library.exists():
        return library
    headers = bench.args.hnswlib
    if headers is None:
        version = metadata.version("hnswlib")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "hnswlib", "--dest", bench.folder]
        subprocess.run([*command, f"hnswlib=={version}"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        headers = bench.folder / f"hnswlib-{version}"
        with tarfile.open(f"{headers}.tar.gz") as archive:
            archive.extractall(bench.folder, filter="data")
    compiler = ["g++", "-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-I", headers]
    subprocess.run([*compiler, HERE / "hnswlib_filtered.cpp", "-o", library], check=True)
    return library


ROWS = {
    "flat-1": lambda bench: flat(bench, 1), "flat-32": lambda bench: flat(bench, 32),
    "flat-256": lambda bench: flat(bench, 256), "hnsw": graph,
    "filtered-10": lambda bench: filtered(bench, 0.1), "filtered-1": lambda bench: filtered(bench, 0.01),
}
GROUPS = {"flat": ["flat-1", "flat-32", "flat-256"], "filtered": ["filtered-10", "filtered-1"]}


# Tables


def table(candidates, n_queries):
    """A line for each candidate, and its ratio to the fastest of trawl's."""
    found = [candidate.summary(n_queries) for candidate in candidates]
    ours = [line for line in found if line["name"].startswith("trawl-")]
    ours = min(ours, key=lambda line: line["user_us"]) if len(ours) and not any("ef" in line["request"] for line in ours) else None
    text = "| | recall | queries/s | user us a query | p50, p99 ms | CPU, trawl 1 | QPS, trawl 1 |\n|---|---|---|---|---|---|---|\n"
    for line in found:
        ratios = ("", "") if ours is None else (
            f"{line['user_us'] / max(ours['user_us'], 1e-9):.2f}", f"{ours['queries_per_s'] / line['queries_per_s']:.2f}")
        text += (f"| {line['name']} | {line['recall']:.4f} | {line['queries_per_s']:,.0f} | {line['user_us']:,.1f} "
                 f"| {line['p50_ms']:.3f}, {line['p99_ms']:.3f} | {ratios[0]} | {ratios[1]} |\n")
    return text


def interpolated(points, target):
    """The value at a recall, between the points (recall, value) around it; None when it is not reached."""
    points = sorted(points)
    above = [i for i, (recall, _) in enumerate(points) if recall >= target]
    if not above:
        return None
    (recall, value), i = points[above[0]], above[0]
    if i == 0 or recall == points[i - 1][0]:
        return value
    share = (target - points[i - 1][0]) / (recall - points[i - 1][0])
    return math.exp((1 - share) * math.log(points[i - 1][1]) + share * math.log(value))


def at_recall(candidates, ours, n_queries):
    """A line for each peer: queries a second and CPU at the recalls of TARGETS with ratios, and what building took."""
    by_peer = {}
    for candidate in candidates:
        by_peer.setdefault(candidate.peer, []).append(candidate.summary(n_queries))
    values = {
        peer: [interpolated([(line["recall"], max(line[key], 1e-9)) for line in lines], target)
               for target in TARGETS for key in ("queries_per_s", "user_us")]
        for peer, lines in by_peer.items()
    }
    # Of our kinds of index the fastest, for queries a second and for CPU.
    best = [pick((values[peer][i] for peer in ours if values.get(peer, [None] * 4)[i]), default=None)
            for i, pick in enumerate([max, min] * len(TARGETS))]
    heads = "".join(f" queries/s at {target} | trawl 1 | user us | trawl 1 |" for target in TARGETS)
    text = f"| |{heads} build CPU s | index MiB |\n|---|{'---|' * (4 * len(TARGETS) + 2)}\n"
    for peer, lines in by_peer.items():
        cells = ""
        for i, (value, own) in enumerate(zip(values[peer], best)):
            ratio = f"{(own / value, value / own)[i % 2]:.2f}" if own and value else "-"
            cells += f" {value:,.1f} | {ratio} |" if value else " - | - |"
        text += f"| {peer} |{cells} {lines[0]['build_cpu_s']:.1f} | {lines[0]['index_bytes'] / 2**20:,.0f} |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", type=Path, default=Path("target/release/trawl"))
    parser.add_argument("--n", type=int, default=100_000, help="synthetic rows")
    parser.add_argument("--base", type=Path, help="npy file of rows")
    parser.add_argument("--queries", type=Path, help="npy file of queries")
    parser.add_argument("--rows", default="flat-1,flat-32,flat-256,hnsw,filtered")
    parser.add_argument("--peers", help="such as trawl-flat,faiss-flat,faiss-pq (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--build-threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--ef", type=lambda text: [int(ef) for ef in text.split(",")], default=[16, 24, 32, 48, 64, 96, 128, 256, 512])
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--hnswlib", type=Path, help="folder of hnswlib's source distribution")
    parser.add_argument("--work-dir", type=Path, help="folder of temporary files")
    parser.add_argument("--json-out", type=Path)
    args = parser.parse_args()
    if (args.base is None) != (args.queries is None):
        parser.error("--base and --queries go together")
    rows = [row for name in args.rows.split(",") for row in GROUPS.get(name, [name])]
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"--rows knows {', '.join([*ROWS, *GROUPS])}, not {', '.join(unknown)}")
    if args.base is None:
        base, queries = synthetic(args.n)
    else:
        base, queries = unit(np.load(args.base)), unit(np.load(args.queries))

    report = {"load": os.getloadavg(), "processor": processor(), "n_rows": len(base), "n_queries": len(queries), "width": base.shape[1],
              "arguments": {key: str(value) for key, value in vars(args).items()}, "packages": packages(), "rows": {}}
    print(f"{report['processor']}; load at the start {report['load'][0]:.2f}; {len(base):,} rows of width {base.shape[1]}, "
          f"{len(queries):,} queries, k = {args.k}; {args.rounds} rounds, {args.threads} threads, built by {args.build_threads}; "
          + ", ".join(f"{name} {version}" for name, version in report["packages"].items()) + "\n")
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        bench, before = Bench(args, base, queries, Path(folder)), None
        for row in rows:
            if before and row.split("-")[0] != before.split("-")[0]:
                bench.end()  # Rows of one kind use the same indexes.
            title, measured, text = ROWS[row](bench)
            print(f"{title}\n\n{text}", flush=True)
            report["rows"][row] = [candidate.summary(len(queries)) for candidate in measured]
            before = row
        bench.end()
    if args.json_out:
        args.json_out.write_text(json.dumps(report, indent=1))


def processor():
    told = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return told[1] if told else platform.machine()


def packages():
    found = {}
    for name in ("faiss-cpu", "hnswlib", "usearch", "numpy", "scalable-vs", "pyvsag", "scann"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


if __name__ == "__main__":
    main()
