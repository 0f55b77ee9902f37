#!/usr/bin/env bash
# OpenMatch's workflow on the sample corpus with a two-layer encoder: every command of README.md, with the configurations
# beside it, made small. Needs TRAWL, the binary, and WORK, a folder to write into.
set -euo pipefail
TRAWL=$(realpath "${TRAWL:?the path of the binary}")
WORK=${WORK:?a folder to write into}
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../sample.sh
. "$recipe/../sample.sh"
fixtures=$recipe/../../tests/fixtures
model=$fixtures/models/tiny-bert-plain
mkdir -p "$WORK/marco"
cd "$WORK"

# What makes the configurations small. Without dropout a model of this size learns 84 queries by heart in seconds.
toy=(--quiet --set data.batch_size=16 --set data.group_size=4 --set objective.dropout=0 --set engine.precision=f32
  --set engine.threads=2 --set optimizer.learning_rate=3e-3 --set run.save_every=never)
template='Title: <title> Text: <text>'

# Files as RocketQA and MS MARCO have them.
sample_rows "$fixtures/sample/corpus.jsonl" >rows
cut -f 1,4 rows >marco/para.txt
cut -f 1,3 rows >marco/para.title.txt
sample_queries "$fixtures/sample/queries.jsonl" >marco/train.query.txt
sample_qrels rows "$fixtures/sample/qrels/test.tsv" >marco/qrels.train.tsv
expect_lines 84 marco/train.query.txt

# Titles and texts in one file.
awk -F '\t' -v OFS='\t' 'NR == FNR { title[$1] = $2; next } { print $1, title[$1], $2 }' \
  marco/para.title.txt marco/para.txt >marco/corpus.tsv
expect_lines 336 marco/corpus.tsv

# index_and_search NAME MODEL…: a collection, and a run of the training queries.
index_and_search() {
  "$TRAWL" --quiet index build --corpus marco/corpus.tsv --columns id,title,text --template "$template" \
    --collection "collections/$1" "${@:2}" >"$1.log"
  "$TRAWL" --quiet search "collections/$1" --queries marco/train.query.txt -k 200 --run-out "$1.trec" >>"$1.log"
  expect_lines $((84 * 200)) "$1.trec"
  measure mrr@10 "$1.trec" marco/qrels.train.tsv >"$1.mrr"
}
# The checkpoint that training begins at.
mkdir -p collections runs
index_and_search untrained --model "$model" --preset openmatch

# The triples of MS MARCO come from BM25; here from trawl's.
"$TRAWL" --quiet search collections/untrained --lexical --queries marco/train.query.txt -k 50 --run-out bm25.trec >/dev/null
awk -v OFS='\t' -v ORS='\r\n' 'NR == FNR { positive[$1] = $3; judged[$1, $3]; next }
  !(($1, $3) in judged) { print $1, positive[$1], $3 }' \
  marco/qrels.train.tsv bm25.trec >marco/qidpidtriples.train.full.2.tsv

# Negatives of each query on one line.
awk '{ sub(/\r$/, "") } $1 == query { printf ",%s", $3; next }
  { printf "%s%s\t%s", (NR > 1 ? "\n" : ""), $1, $3; query = $1 } END { print "" }' \
  marco/qidpidtriples.train.full.2.tsv >marco/train.negatives.tsv
expect_lines "$(cut -f 1 marco/qidpidtriples.train.full.2.tsv | uniq | wc -l)" marco/train.negatives.tsv

# build_train FOLDER OPTIONS…
build_train() {
  "$TRAWL" --quiet data build-train --corpus marco/corpus.tsv --queries marco/train.query.txt \
    --qrels marco/qrels.train.tsv --tokenizer "$model" --save-to "$@" >/dev/null
}
build_train processed --negatives marco/train.negatives.tsv --passage-template "$template" --shard-size 50
expect_lines 50 processed/split00.jsonl
expect_lines 34 processed/split01.jsonl
cat processed/split0?.jsonl >processed/train.jsonl
tail -n 4 processed/train.jsonl >processed/val.jsonl
cp processed/train.jsonl processed/train.new.jsonl

# Stage 1.
"$TRAWL" train "$recipe/retriever.toml" "${toy[@]}" --set "model.path=$model" --set schedule.epochs=20 --out runs/stage-1 >/dev/null
index_and_search stage-1 --model runs/stage-1/export
expect_above 'MRR@10 of stage 1' "$(cat untrained.mrr)" 0.2 "$(cat stage-1.mrr)"

# A collection in parts gives the same run: what `successive_retrieve` is for.
index_and_search parts --model runs/stage-1/export --shards 3
cmp stage-1.trec parts.trec

# Hard negatives, and stage 2 from the checkpoint of stage 1.
build_train processed --run stage-1.trec --depth 200 --n-sample 30 --passage-template "$template" --suffix hn
expect_lines 84 processed/split00.hn.jsonl
"$TRAWL" train "$recipe/retriever.toml" "${toy[@]}" --set model.path=runs/stage-1/export --set schedule.epochs=10 \
  --set 'data.train=[{ files = ["processed/split00.hn.jsonl"], format = "openmatch" }]' --out runs/stage-2 >/dev/null
index_and_search stage-2 --model runs/stage-2/export
expect_above 'MRR@10 of stage 2' "$(cat untrained.mrr)" 0.2 "$(cat stage-2.mrr)"
"$TRAWL" --quiet eval --profile openmatch --run stage-2.trec --qrels marco/qrels.train.tsv

# The reranker, over results that are anything but good, so that it has something to do.
build_train processed/rr --negatives marco/train.negatives.tsv --passage-template '<text>'
"$TRAWL" train "$recipe/reranker.toml" "${toy[@]}" --set "model.path=$model" --set schedule.epochs=15 \
  --set data.group_size=2 --set objective.max_tokens=128 --out runs/reranker \
  --set 'data.train=[{ files = ["processed/rr/split00.jsonl"], format = "openmatch" }]' >/dev/null
rerank() {
  "$TRAWL" --quiet rerank --model "$1" --run untrained.trec --queries marco/train.query.txt --corpus marco/corpus.tsv \
    --template '<text>' --depth 30 --qrels marco/qrels.train.tsv --run-out "$2" >/dev/null
}
rerank "$fixtures/models/tiny-cross-bert" random.trec
rerank runs/reranker/export teacher.trec
expect_above 'MRR@10 of the reranker' "$(measure mrr@10 random.trec marco/qrels.train.tsv)" 0.1 \
  "$(measure mrr@10 teacher.trec marco/qrels.train.tsv)"

# Distillation from pairs and from lists, here of all that the teacher scored: of 10 draws few are relevant.
for layout in pairwise:10 listwise:40; do
  build_train "processed/${layout%:*}" --run untrained.trec --scores teacher.trec --layout "${layout%:*}" \
    --n-sample "${layout#*:}" --passage-template "$template"
done
expect_lines $((84 * 10)) processed/pairwise/split00.jsonl
expect_lines 84 processed/listwise/split00.jsonl
cp processed/pairwise/split00.jsonl processed/pairs.jsonl
"$TRAWL" train "$recipe/distillation.toml" "${toy[@]}" --set "model.path=$model" --set data.group_size=2 \
  --set schedule.epochs=6 --out runs/pairwise >/dev/null
"$TRAWL" train "$recipe/distillation.toml" "${toy[@]}" --set "model.path=$model" --set data.group_size=8 \
  --set 'data.train=[{ files = ["processed/listwise/split00.jsonl"], format = "openmatch_listwise" }]' \
  --set objective.distillation.loss=kl --set objective.distillation.reduction=mean --set schedule.epochs=30 \
  --out runs/listwise >/dev/null
for layout in pairwise listwise; do
  index_and_search "$layout" --model "runs/$layout/export"
  expect_above "recall@100, distilled $layout" "$(measure recall@100 untrained.trec marco/qrels.train.tsv)" 0.05 \
    "$(measure recall@100 "$layout.trec" marco/qrels.train.tsv)"
done
