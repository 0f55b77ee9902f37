# shellcheck shell=bash
# Sourced by the recipes of pre-training: from a data set in BEIR's layout and random weights to a table and curves.
#
#   DATA=data/medquad WORK=runs/medquad recipes/retromae/run.sh
#
# DATA    data set in BEIR's layout            WORK   everything is written here; a step that is done is not done again
# CORPUS  what is pre-trained on (default: the passages of DATA)
# START   where pre-training begins (default: config.json beside this file, random weights, the words of TOKENIZER)
# SIZE    small (default) or toy: few steps of a two-layer model, for tests
# TRAIN, EVAL   splits (default: train; test, else dev)      THREADS, TRAWL   threads and the command
set -euo pipefail
: "${DATA:?data set in the layout of BEIR}" "${WORK:?folder to write to}"
TRAWL=${TRAWL:-trawl} SIZE=${SIZE:-small}
steps=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../sample.sh
. "$steps/../sample.sh"

case $SIZE in
small)
  TRAIN=${TRAIN:-train}
  if [ -z "${EVAL:-}" ]; then EVAL=test && [ -e "$DATA/qrels/test.tsv" ] || EVAL=dev; fi
  TOKENIZER=${TOKENIZER:-${TRAWL_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/trawl/models}/all-MiniLM-L6-v2}
  config=$steps/config.json
  span_tokens=64 max_tokens=128
  pretraining=() fine_tuning=()
  ;;
toy)
  # A model of this size learns the queries it is measured with by heart, without dropout in seconds. With dropout in twelve steps of
  # pre-training it is left to chance how fast.
  TRAIN=test EVAL=test
  TOKENIZER=$steps/../../tests/fixtures/models/tiny-bert
  config=$TOKENIZER/config.json
  span_tokens=16 max_tokens=48
  pretraining=(--set engine.precision=f32 --set schedule.max_steps=12 --set schedule.warmup_ratio=0 --set data.batch_size=32
    --set objective.dropout=0 --set "objective.masks.max_tokens=$max_tokens" --set optimizer.learning_rate=5e-3 --set run.evaluate_every=never
    --set run.save_every=never --set dev.texts=32)
  fine_tuning=(--set engine.precision=f32 --set schedule.max_steps=150 --set data.batch_size=16 --set objective.dropout=0
    --set optimizer.learning_rate=1e-2 --set run.save_every=never)
  ;;
*) fail "SIZE is $SIZE, not small or toy" ;;
esac

TRAWL=$(command -v "$TRAWL") || fail "there is no command $TRAWL"
TRAWL=$(realpath "$TRAWL") DATA=$(realpath "$DATA")
mkdir -p "$WORK"
WORK=$(realpath "$WORK")
passages=$(find "$DATA" -maxdepth 1 -name 'corpus.jsonl*' | head -n 1)
corpus=$(realpath "${CORPUS:-$passages}")
queries=$DATA/queries.jsonl
judged=$DATA/qrels/$TRAIN.tsv
evaluated=$DATA/qrels/$EVAL.tsv
depth=50 # results from which negatives are drawn
threads=()
if [ -n "${THREADS:-}" ]; then
  threads=(--threads "$THREADS")
  pretraining+=(--set "engine.threads=$THREADS")
  fine_tuning+=(--set "engine.threads=$THREADS")
fi

# words FOLDER CONFIG.json: a folder of a configuration and a tokenizer, without weights.
words() {
  mkdir -p "$1"
  cp "$TOKENIZER/tokenizer.json" "$TOKENIZER/tokenizer_config.json" "$1"
  cp "$2" "$1/config.json"
}
start=${START:-}
if [ -z "$start" ]; then
  start=$WORK/start
  [ -e "$TOKENIZER/tokenizer.json" ] || fail "there is no $TOKENIZER/tokenizer.json; \`trawl model pull\` gets it"
  words "$start" "$config"
fi

# train NAME CONFIG OPTION…: a run that goes on where it was stopped.
train() {
  [ ! -e "$WORK/$1/export" ] || return 0
  echo "== $1" >&2
  local resume=()
  [ ! -e "$WORK/$1/config.toml" ] || resume=(--resume)
  "$TRAWL" train "$2" --out "$WORK/$1" "${@:3}" "${resume[@]}"
}
# pretrain NAME CONFIG OPTION…: on the corpus, from the start, where the options say nothing else.
pretrain() {
  train "$1" "$2" --set "model.path=$start" --set "data.corpus.files=[\"$corpus\"]" "${pretraining[@]}" "${@:3}"
}

# once FILE COMMAND…: skips what is done; `FILE.part` in the command is renamed when it has ended well.
once() {
  [ ! -e "$1" ] || return 0
  echo "== ${1#"$WORK/"}" >&2
  "${@:2}"
  mv "$1.part" "$1"
}
# collection NAME MODEL OPTION…
collection() {
  mkdir -p "$WORK/$1"
  once "$WORK/$1/collection" "$TRAWL" index build --corpus "$passages" --model "$2" --publish \
    --collection "$WORK/$1/collection.part" "${threads[@]}" "${@:3}"
}
# search NAME RUN QRELS DEPTH OPTION…
search() {
  once "$WORK/$1/$2.trec" "$TRAWL" search "$WORK/$1/collection" --queries "$queries" --qrels "$3" -k "$4" \
    --run-out "$WORK/$1/$2.trec.part" "${threads[@]}" "${@:5}"
}
# mine NAME RUN: training lines with negatives of a run.
mine() {
  mkdir -p "$WORK/$1"
  once "$WORK/$1/train.jsonl" "$TRAWL" mine --run "$2" --corpus "$passages" --queries "$queries" --qrels "$judged" \
    --depth "$depth" --n 30 --out "$WORK/$1/train.jsonl.part"
}
# fine_tune NAME MODEL LINES…: a bi-encoder, its collection, its run.
fine_tune() {
  local files
  files=$(printf ',"%s"' "${@:3}")
  train "$1/run" "$steps/fine-tuning.toml" --set "model.path=$2" --set "data.train=[{ files = [${files#,}] }]" "${fine_tuning[@]}"
  collection "$1" "$WORK/$1/run/export" --resume
  search "$1" eval "$evaluated" 100
}

# stages LINES…: what is pre-trained becomes a bi-encoder on negatives of BM25, and another one on what the first finds, and
# on the lines given; what was not pre-trained becomes one too.
stages() {
  collection pretrained "$WORK/pretrained/export" --preset retromae --passage-tokens 128 --resume
  search pretrained eval "$evaluated" 100
  search pretrained train-bm25 "$judged" "$depth" --lexical
  mine stage-1 "$WORK/pretrained/train-bm25.trec"
  fine_tune stage-1 "$WORK/pretrained/export" "$WORK/stage-1/train.jsonl"
  [ "$SIZE" != toy ] || fine_tuning+=(--set schedule.max_steps=20) # what follows is not checked for what it learned
  search stage-1 train "$judged" "$depth"
  mine stage-2 "$WORK/stage-1/train.trec"
  fine_tune stage-2 "$WORK/pretrained/export" "$WORK/stage-2/train.jsonl" "$@"

  # A step with a learning rate of 0 gives random weights a file.
  local untrained=$start
  if [ ! -e "$start/model.safetensors" ]; then
    untrained=$WORK/untrained/export
    pretrain untrained "$steps/mlm.toml" --set optimizer.learning_rate=0 --set schedule.max_steps=1 --set dev.texts=0
  fi
  fine_tune without "$untrained" "$WORK/stage-1/train.jsonl"
  report
}

# Figures of each stage against those without pre-training, and curves.
report() {
  local run note
  note=$(lacking "$WORK/pretrained/metrics.jsonl")
  for run in pretrained stage-1 stage-2; do
    echo "$run${note:+ ($note)} against the same fine-tuning without pre-training, $(basename "$DATA") $EVAL"
    "$TRAWL" --quiet eval --run "$WORK/$run/eval.trec" --against "$WORK/without/eval.trec" --qrels "$evaluated" \
      -m ndcg@10,mrr@10,recall@100
  done | tee "$WORK/table.txt"
  "$TRAWL" train plot "$WORK/pretrained" --out "$WORK/pretraining.png"
  "$TRAWL" train plot "$WORK"/{stage-1,stage-2,without}/run --out "$WORK/fine-tuning.png"
  [ "$SIZE" = toy ] || return 0
  expect_above 'MRR@10' "$(measure mrr@10 "$WORK/pretrained/eval.trec" "$evaluated")" 0.05 \
    "$(measure mrr@10 "$WORK/stage-1/eval.trec" "$evaluated")"
}
