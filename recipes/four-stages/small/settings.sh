# shellcheck shell=bash disable=SC2034
# For two cores and an hour: part of the training queries, short passages, small groups.
QUERIES=3200           # training queries
DEPTH=50               # results from which negatives are drawn
CONTINUE=yes           # each bi-encoder continues from the one before
RERANKER=${RERANKER:-trawl-reranker-small}   # where the cross-encoder begins
RERANKER_NEGATIVES=30
RERANK_DEPTH=50        # passages reranked of an evaluated query
TEACHER_DEPTH=12       # passages that the teacher scores of a training query
