#!/usr/bin/env python3
"""Writes a corpus of generated passages, as JSON lines, for measurements of size.

    python3 generated_corpus.py --passages 1000000 > corpus.jsonl

Words are drawn by Zipf's law from made-up ones, 20 to 60 a passage; equal seeds give equal files.
"""

import argparse
import json
import random
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    draw = random.Random(args.seed)
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r", "s")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    pool = draw.choices(words, weights, k=1_000_000)
    for number in range(args.passages):
        start, length = draw.randrange(len(pool) - 64), draw.randint(20, 60)
        passage = {
            "_id": f"g{number}",
            "title": " ".join(pool[start : start + 3]),
            "text": " ".join(pool[start + 3 : start + length]),
            "number": number % 1000,
        }
        sys.stdout.write(json.dumps(passage) + "\n")


if __name__ == "__main__":
    main()
