"""Writes cases.jsonl.gz: random judgments and runs, and what pytrec_eval says of them.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python make.py

The first line names the measures. Every other line is one case: `level`, `qrels`, `run` (lists of [passage, score], in the
order of a file) and `expected`, one list of values for each query that both have, in the order of the measures, and
`mean`, over those queries (`intersection`) and over all judged ones (`complete`).
"""

import gzip
import io
import json
import random
import struct
import sys

import pytrec_eval

N_CASES = 110
N_QUERIES = 24
CUTOFFS = [1, 3, 5, 10, 20, 100]
LISTED = ",".join(map(str, CUTOFFS))

# Our name of a measure: pytrec_eval's key.
DIRECT = {
    "mrr": "recip_rank",
    "map": "map",
    "ndcg": "ndcg",
    "Rprec": "Rprec",
    "bpref": "bpref",
    "num_ret": "num_ret",
    "num_rel": "num_rel",
    "num_rel_ret": "num_rel_ret",
}
for ours, theirs in [("P", "P"), ("recall", "recall"), ("success", "success"), ("map", "map_cut"), ("ndcg", "ndcg_cut")]:
    DIRECT |= {f"{ours}@{k}": f"{theirs}_{k}" for k in CUTOFFS}
# Measures that pytrec_eval does not have are asked of it in another form.
DERIVED = (
    [f"mrr@{k}" for k in CUTOFFS]
    + [f"ndcg_exp@{k}" for k in CUTOFFS]
    + [f"ndcg_bin@{k}" for k in CUTOFFS]
    + [f"recall_cap@{k}" for k in CUTOFFS]
)
MEASURES = list(DIRECT) + DERIVED
ASKED = {"recip_rank", "map", "ndcg", "Rprec", "bpref", "num_ret", "num_rel", "num_rel_ret"}
ASKED |= {f"{name}.{LISTED}" for name in ["P", "recall", "success", "map_cut", "ndcg_cut"]}

# Few scores make many ties; the second set has scores that only differ in 64 bits, or only in the sign of zero.
SCORES = [
    [3.0, 2.0, 1.5, 1.0, 0.0],
    [1.0, 1.0 + 5e-8, 1.0 + 6e-8, 16777216.0, 16777217.0, 0.0, -0.0, -1.0, 1e-30],
    None,
]
LETTERS = ["a", "B", "b", "Z", "z", "é", "É", "ß", "日", "本", "𝒳", "-", "_", "."]


def f32(score):
    return struct.unpack("f", struct.pack("f", score))[0]


def random_id(rng):
    kind = rng.randrange(3)
    if kind == 0:
        return str(rng.randrange(130))
    if kind == 1:
        return "".join(rng.choices(LETTERS, k=rng.randint(1, 3)))
    return rng.choice(LETTERS) + str(rng.randrange(12))


def ranked(scored):
    """trec_eval's order: score as a 32-bit float, then the id's bytes, both descending."""
    return sorted(scored, key=lambda pair: (f32(pair[1]), pair[0].encode()), reverse=True)


def ask(qrels, run, level, measures):
    return pytrec_eval.RelevanceEvaluator(qrels, measures, relevance_level=level).evaluate(run)


def case(rng):
    level = rng.choice([1, 1, 2])
    qrels, run = {}, {}
    for i in range(N_QUERIES):
        query = f"{random_id(rng)}.{i}"
        ids = sorted({random_id(rng) for _ in range(rng.choice([3, 15, 60, 200]))}, key=str.encode)
        rng.shuffle(ids)
        in_run, in_qrels = rng.random() > 0.08, rng.random() > 0.08
        if in_qrels or not in_run:
            judged = rng.sample(ids, rng.randint(1, max(1, len(ids) // 2)))
            grades = rng.choice([[-1, 0, 1, 2, 3], [0, 0, 0, 1], [1], [-1, 0], [0, 1, 2, 3]])
            qrels[query] = {passage: rng.choice(grades) for passage in judged}
            if max(qrels[query].values()) < 0:
                # pytrec_eval 0.5.11 never returns from a query with negative grades only.
                qrels[query][judged[0]] = 0
        if in_run:
            n_retrieved = rng.choice([0, 1, 2, 5, 12, 150])
            scores = rng.choice(SCORES)
            score = (lambda: rng.choice(scores)) if scores else (lambda: round(rng.gauss(0, 1), 3))
            run[query] = [[passage, score()] for passage in rng.sample(ids, min(n_retrieved, len(ids)))]
    return level, qrels, run


def evaluate(level, qrels, run):
    full = {query: dict(map(tuple, scored)) for query, scored in run.items()}
    direct = ask(qrels, full, level, ASKED)
    expected = {
        query: {ours: values[theirs] for ours, theirs in DIRECT.items()} for query, values in direct.items()
    }
    exponential = {q: {d: 2**g - 1 if g > 0 else 0 for d, g in grades.items()} for q, grades in qrels.items()}
    binary = {q: {d: int(g >= level) for d, g in grades.items()} for q, grades in qrels.items()}
    exponential = ask(exponential, full, 1, {f"ndcg_cut.{LISTED}"})
    binary = ask(binary, full, 1, {f"ndcg_cut.{LISTED}"})
    for k in CUTOFFS:
        cut = {query: dict(map(tuple, ranked(scored)[:k])) for query, scored in run.items()}
        cut = ask(qrels, cut, level, {"recip_rank"})
        for query, values in expected.items():
            values[f"mrr@{k}"] = cut[query]["recip_rank"]
            values[f"ndcg_exp@{k}"] = exponential[query][f"ndcg_cut_{k}"]
            values[f"ndcg_bin@{k}"] = binary[query][f"ndcg_cut_{k}"]
            n_relevant = values["num_rel"]
            capped = values[f"recall@{k}"] * n_relevant / min(n_relevant, k) if n_relevant else 0.0
            values[f"recall_cap@{k}"] = capped
    return expected


def mean(expected, measure):
    return pytrec_eval.compute_aggregated_measure(measure, [values[measure] for values in expected.values()])


def complete(expected, measure, level, qrels):
    if measure == "num_rel":  # as trec_eval -c: of all judged queries
        return float(sum(grade >= level for grades in qrels.values() for grade in grades.values()))
    if measure.startswith("num_") or len(qrels) == len(expected):
        return mean(expected, measure)
    return sum(values[measure] for values in expected.values()) / len(qrels)


def main():
    rng = random.Random(20261120)
    lines = [{"measures": MEASURES}]
    n_pairs = 0
    for _ in range(N_CASES):
        level, qrels, run = case(rng)
        expected = evaluate(level, qrels, run)
        n_pairs += len(expected)
        lines.append(
            {
                "level": level,
                "qrels": qrels,
                "run": run,
                "expected": {query: [values[m] for m in MEASURES] for query, values in expected.items()},
                "mean": {
                    "intersection": [mean(expected, m) for m in MEASURES],
                    "complete": [complete(expected, m, level, qrels) for m in MEASURES],
                },
            }
        )
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())
    with open("cases.jsonl.gz", "wb") as file:
        file.write(packed.getvalue())
    print(f"{n_pairs} queries with judgments and results, {len(packed.getvalue())} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
