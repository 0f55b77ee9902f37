#!/usr/bin/env bash
# SimLM's four stages on the sample corpus with a two-layer encoder: every command of README.md, with the configurations
# beside it, made small. Needs TRAWL, the binary, and WORK, a folder to write into.
set -euo pipefail
TRAWL=$(realpath "${TRAWL:?the path of the binary}")
WORK=${WORK:?a folder to write into}
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../sample.sh
. "$recipe/../sample.sh"
fixtures=$recipe/../../tests/fixtures
model=$fixtures/models/tiny-bert-plain
mkdir -p "$WORK"
cd "$WORK"
WORK=$PWD

# What makes the configurations small. Without dropout a model of this size learns 64 queries by heart in seconds.
toy=(--quiet --set data.batch_size=16 --set objective.dropout=0 --set engine.precision=f32 --set engine.threads=2
  --set optimizer.learning_rate=2e-3 --set schedule.warmup_steps=5 --set run.save_every=never)
bi_encoder=(--set "model.path=$model" --set data.group_size=4 --set objective.passage_tokens=128)

# SimLM's files: passages by row, queries and judgments of each split, and predictions for them, here of BM25.
mkdir -p data/bm25 collections runs
sample_rows "$fixtures/sample/corpus.jsonl" >rows
awk -F '\t' '{ for (i = 3; i <= 4; i++) gsub(/"/, "\\\"", $i)
  printf "{\"id\":\"%s\",\"contents\":\"%s\",\"title\":\"%s\"}\n", $1, $4, $3 }' rows |
  gzip >data/bm25/passages.jsonl.gz
sample_queries "$fixtures/sample/queries.jsonl" >queries
head -n 64 queries >data/bm25/train_queries.tsv
# The later stages keep the checkpoint that is best for the dev queries. A model that learns by heart knows nothing of
# others, so these are some of those it learns.
head -n 20 queries >data/bm25/dev_queries.tsv
sample_qrels rows "$fixtures/sample/qrels/test.tsv" >qrels
for split in train dev; do
  awk -F '\t' 'NR == FNR { asked[$1]; next } $1 in asked' "data/bm25/${split}_queries.tsv" qrels >"data/bm25/${split}_qrels.txt"
done
qrels=$WORK/data/bm25/train_qrels.txt

# Predictions are `query passage rank score`.
predictions() {
  awk -v OFS='\t' '{ print $1, $3, $4, $5 }' "$1" >"$2"
}

# encode NAME MODEL OPTIONS…: a collection of pairs of title and text.
encode() {
  "$TRAWL" --quiet index build --corpus data/bm25/passages.jsonl.gz --collection "collections/$1" --model "$2" \
    "${@:3}" >/dev/null
}
# search NAME SPLIT DEPTH
search() {
  "$TRAWL" --quiet search "collections/$1" --queries "data/bm25/$2_queries.tsv" -k "$3" --run-out "$1.$2.trec" "${@:4}" >/dev/null
  predictions "$1.$2.trec" "$1.$2.msmarco.txt"
}
# prepare_data FOLDER PREDICTIONS OPTIONS…: train.jsonl and dev.jsonl with 200 negatives of the predictions and 10 at random.
prepare_data() {
  mkdir -p "data/$1"
  for split in train dev; do
    local more=("${@:3}")
    [ "$split" = train ] || more=()
    "$TRAWL" --quiet mine --format simlm --run "$2.$split.msmarco.txt" --corpus data/bm25/passages.jsonl.gz \
      --queries "data/bm25/${split}_queries.tsv" --qrels "data/bm25/${split}_qrels.txt" \
      --depth 200 --n 200 --n-random 10 --shuffle --out "data/$1/$split.jsonl" "${more[@]}" >/dev/null
  done
  [ "$1" = bm25 ] || cp data/bm25/passages.jsonl.gz "data/$1"
}
# train FOLDER CONFIG NAME OPTIONS…: in the folder of the data, as DATA_DIR.
train() {
  (cd "data/$1" && "$TRAWL" train "$recipe/$2.toml" "${toy[@]}" --out "$WORK/runs/$3" "${@:4}" >/dev/null)
}

# The pre-trained checkpoint.
encode untrained "$model" --preset simlm --passage-tokens 128
search untrained train 200
before=$(measure mrr@10 untrained.train.msmarco.txt "$qrels")

# Stage 1: BM25's negatives.
search untrained train 50 --lexical
mv untrained.train.msmarco.txt bm25.train.msmarco.txt
search untrained dev 50 --lexical
mv untrained.dev.msmarco.txt bm25.dev.msmarco.txt
prepare_data bm25 bm25
expect_lines 64 data/bm25/train.jsonl
expect_lines 20 data/bm25/dev.jsonl
train bm25 retriever stage-1 "${bi_encoder[@]}" --set schedule.epochs=30
encode stage-1 runs/stage-1/export --pair
search stage-1 train 200
search stage-1 dev 200
expect_lines $((64 * 200)) stage-1.train.msmarco.txt
expect_lines $((20 * 200)) stage-1.dev.msmarco.txt
expect_above 'MRR@10 of stage 1' "$before" 0.2 "$(measure mrr@10 stage-1.train.msmarco.txt "$qrels")"

# Stage 2: its own negatives, from the pre-trained checkpoint again.
prepare_data mined stage-1 --found-only
train mined retriever stage-2 "${bi_encoder[@]}" --set schedule.epochs=30
encode stage-2 runs/stage-2/export --pair
search stage-2 train 200
search stage-2 dev 200
expect_above 'MRR@10 of stage 2' "$before" 0.2 "$(measure mrr@10 stage-2.train.msmarco.txt "$qrels")"

# Stage 3: the reranker, whose groups lose all but the best.
prepare_data reranker stage-2 --found-only
train reranker reranker stage-3 --set "model.path=$model" --set data.group_size=6 --set objective.max_tokens=128 \
  --set objective.rerank_forward_factor=2 --set optimizer.learning_rate=1e-3 --set schedule.epochs=30
# rerank MODEL RUN QUERIES DEPTH OUT OPTIONS…
rerank() {
  "$TRAWL" --quiet rerank --model "$1" --run "$2" --queries "$3" --corpus data/bm25/passages.jsonl.gz \
    --template '<title>: <text>' --depth "$4" --run-out "$5" "${@:6}" >/dev/null
}
rerank runs/stage-3/export stage-2.dev.msmarco.txt data/bm25/dev_queries.tsv 20 stage-3.dev.trec --keep-rest
expect_lines $((20 * 200)) stage-3.dev.trec
recall=$(measure recall@200 stage-2.dev.msmarco.txt data/bm25/dev_qrels.txt)
[ "$(measure recall@200 stage-3.dev.trec data/bm25/dev_qrels.txt)" = "$recall" ] || fail 'reranking lost passages'

# The teacher's scores: of all positives, and of the negatives that distillation reads.
rerank runs/stage-3/export stage-2.train.msmarco.txt data/bm25/train_queries.tsv 200 teacher.train.trec --qrels "$qrels"
rerank "$fixtures/models/tiny-cross-bert" stage-2.train.msmarco.txt data/bm25/train_queries.tsv 200 random.train.trec --qrels "$qrels"
expect_above 'MRR@10 of stage 3' "$(measure mrr@10 random.train.trec "$qrels")" 0.1 \
  "$(measure mrr@10 teacher.train.trec "$qrels")"
rerank runs/stage-3/export stage-2.dev.msmarco.txt data/bm25/dev_queries.tsv 200 teacher.dev.trec \
  --qrels data/bm25/dev_qrels.txt
mkdir -p data/distillation
cp data/bm25/passages.jsonl.gz data/distillation
for split in train dev; do
  "$TRAWL" --quiet mine --format simlm --run "stage-2.$split.msmarco.txt" --teacher "teacher.$split.trec" \
    --corpus data/bm25/passages.jsonl.gz --queries "data/bm25/${split}_queries.tsv" \
    --qrels "data/bm25/${split}_qrels.txt" --depth 200 --n 200 --shuffle --out "data/distillation/kd_$split.jsonl" >/dev/null
done
expect_lines 64 data/distillation/kd_train.jsonl

# Stage 4: distilled, from the pre-trained checkpoint once more. The teacher is small and its scores are flat: with the
# paper's weight of 0.2 for the judgments the student's vectors become all alike.
train distillation distillation stage-4 "${bi_encoder[@]}" --set data.group_size=6 --set schedule.epochs=40 \
  --set objective.contrastive_weight=1
encode stage-4 runs/stage-4/export --pair
search stage-4 train 200
search stage-4 dev 200
expect_above 'MRR@10 of stage 4' "$before" 0.2 "$(measure mrr@10 stage-4.train.msmarco.txt "$qrels")"
"$TRAWL" --quiet eval --profile simlm --run stage-4.dev.msmarco.txt --qrels data/bm25/dev_qrels.txt
