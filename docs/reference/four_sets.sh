#!/usr/bin/env bash
# trawl's side of the reference rows: build, search and evaluate the four sets of docs/data.md.
#
#   TRAWL_DATA=DIR docs/reference/four_sets.sh OUT_DIR [TRAWL_BINARY]
#
# Leaves a collection and a run a set in OUT_DIR and prints nDCG@10 and recall@100 of dense, BM25 and fused search.
set -euo pipefail
out=${1:?OUT_DIR} trawl=${2:-target/release/trawl}
mkdir -p "$out"
for row in cranfield:test squad:dev squadshifts-amazon:dev medquad:test; do
  set=${row%:*} split=${row#*:} data=$TRAWL_DATA/${row%:*}
  [ -d "$out/$set" ] || /usr/bin/env time -f "$set: built in %e s wall, %U s user, %M KiB resident" \
    "$trawl" index build --quiet --corpus "$data/corpus.jsonl.gz" --collection "$out/$set" > "$out/$set.build.txt"
  for how in "" --lexical --hybrid; do
    run=$out/$set${how}.trec
    "$trawl" search "$out/$set" --quiet --queries "$data/queries.jsonl" --qrels "$data/qrels/$split.tsv" \
      -k 1000 $how --run-out "$run" > /dev/null
    printf '%s %s %s ' "$set" "$split" "${how:---dense}"
    "$trawl" eval --quiet --json --qrels "$data/qrels/$split.tsv" --run "$run" --measures ndcg@10,recall@100,mrr@10 |
      python3 -c 'import json, sys; m = json.load(sys.stdin)["metrics"]; print(*(f"{k} {v:.5f}" for k, v in m.items()))'
  done
done
