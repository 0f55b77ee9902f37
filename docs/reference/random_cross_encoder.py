#!/usr/bin/env python3
"""Makes a cross-encoder of all-MiniLM-L6-v2's size with random weights from a fixed seed.

For speed measurements until a trained reranker exists: it costs what a real one costs and its order means nothing.

    python3 random_cross_encoder.py --like MODEL_DIR --out DIR

Needs torch, transformers and the tokenizer of the model that it is to be like.
"""

import argparse

import torch
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", required=True, help="model directory whose sizes and tokenizer are taken")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    config = AutoConfig.from_pretrained(args.like)
    config.num_labels = 1
    model = BertForSequenceClassification(config)
    model.save_pretrained(args.out)
    tokenizer = AutoTokenizer.from_pretrained(args.like)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
