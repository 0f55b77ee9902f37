#!/usr/bin/env python3
"""Tokens per second of sentence-transformers (PyTorch, f32) on the texts that `cargo bench -p encoder` encodes.

    TRAWL_DATA=DIR python3 encode_peer.py --model MODEL_DIR [--threads 2]

Text in, vectors out, batches of 8 sorted by length (the fastest size there); the median of three passes counts.
"""

import argparse
import gzip
import json
import os
import statistics
import time

import torch
from sentence_transformers import SentenceTransformer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    path = os.path.join(os.environ["TRAWL_DATA"], "squad", "corpus.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        passages = [json.loads(line) for _, line in zip(range(512), lines)]
    texts = [f"{passage['title']} {passage['text']}".strip() for passage in passages]
    model = SentenceTransformer(args.model, device="cpu")
    limit = model.max_seq_length
    n_tokens = sum(min(limit, len(ids)) for ids in model.tokenizer(texts)["input_ids"])
    model.encode(texts[:64], batch_size=8)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        model.encode(texts, batch_size=8)
        seconds.append(time.perf_counter() - start)
    second = statistics.median(seconds)
    print(f"{len(texts)} passages, {n_tokens} tokens, {args.threads} threads: "
          f"{n_tokens / second:.0f} tokens/s, {len(texts) / second:.1f} passages/s")
    start = time.perf_counter()
    n_queries = 50
    for _ in range(n_queries):
        model.encode("how long does light take to reach us")
    print(f"one query: {1e3 * (time.perf_counter() - start) / n_queries:.2f} ms")


if __name__ == "__main__":
    main()
