# shellcheck shell=bash disable=SC2034
# SimLM's: every query, restarts from the pre-trained model, 200 candidates.
QUERIES=1000000000
DEPTH=200
CONTINUE=no
RERANKER=${RERANKER:-google-bert/bert-base-uncased}   # SimLM has ELECTRA, which trawl does not read
RERANKER_NEGATIVES=200
RERANK_DEPTH=200
TEACHER_DEPTH=200
