#!/usr/bin/env bash
# BM25 negatives → bi-encoder 1 → its own negatives → bi-encoder 2 → cross-encoder → distilled bi-encoder.
#
#   DATA=data/medquad WORK=runs/medquad recipes/four-stages/run.sh
#
# DATA    data set in BEIR's layout            WORK   everything is written here; a step that is done is not done again
# SIZE    small (default) or paper             MODEL  where training begins (default: all-MiniLM-L6-v2)
# TRAIN, EVAL   splits (default: train; test, else dev)      THREADS, TRAWL   threads and the command
set -euo pipefail
: "${DATA:?data set in the layout of BEIR}" "${WORK:?folder to write to}"
TRAWL=${TRAWL:-trawl} MODEL=${MODEL:-all-MiniLM-L6-v2} SIZE=${SIZE:-small} TRAIN=${TRAIN:-train}
if [ -z "${EVAL:-}" ]; then EVAL=test && [ -e "$DATA/qrels/test.tsv" ] || EVAL=dev; fi
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=small/settings.sh
. "$here/$SIZE/settings.sh"
mkdir -p "$WORK/qrels"
corpus=$(ls "$DATA"/corpus.jsonl* | head -n 1)
judged=$WORK/qrels/$TRAIN.tsv
threads=${THREADS:+--threads $THREADS}

# once FILE COMMAND…: skips what is done; `FILE.part` in the command is renamed when it has ended well.
once() {
    local file=$1
    shift
    [ -e "$file" ] && return
    echo "== ${file#"$WORK/"}" >&2
    "$@"
    mv "$file.part" "$file"
}

# Queries of the training split, spread evenly over it, as many as the settings say.
draw_queries() {
    awk -F '\t' -v most="$QUERIES" '
        FNR == 1 { header = $0; next }
        !($1 in number) { number[$1] = n++ }
        { line[++m] = $0; query[m] = number[$1] }
        END {
            print header
            for (i = 1; i <= m; i++) if (n <= most || int(query[i] * most / n) != int((query[i] - 1) * most / n) || query[i] == 0) print line[i]
        }' "$DATA/qrels/$TRAIN.tsv" >"$judged.part"
}

collection() { # name model
    [ -e "$WORK/$1/collection" ] && return
    echo "== $1/collection" >&2
    rm -rf "$WORK/$1/collection.part"
    # shellcheck disable=SC2086
    "$TRAWL" index build --corpus "$corpus" --model "$2" --collection "$WORK/$1/collection.part" --publish $threads
    mv "$WORK/$1/collection.part" "$WORK/$1/collection"
}

search() { # name run qrels depth [--lexical|--hybrid]
    # shellcheck disable=SC2086
    once "$WORK/$1/$2.trec" "$TRAWL" search "$WORK/$1/collection" --queries "$DATA/queries.jsonl" --qrels "$3" -k "$4" \
        --run-out "$WORK/$1/$2.trec.part" $threads "${@:5}"
}

mine() { # name run [option…]
    [ -e "$WORK/$1/train.jsonl" ] || "$TRAWL" mine --run "$2" --corpus "$corpus" --queries "$DATA/queries.jsonl" \
        --qrels "$judged" --out "$WORK/$1/train.jsonl" "${@:3}"
}

train() { # name model
    [ -e "$WORK/$1/run/export" ] && return
    local resume=
    [ ! -e "$WORK/$1/run/config.toml" ] || resume=--resume
    # shellcheck disable=SC2086
    (cd "$WORK/$1" && "$TRAWL" train "$here/$SIZE/$1.toml" --set "model.path=$2" --out run $resume \
        ${THREADS:+--set "engine.threads=$THREADS"})
}

bi_encoder() { # name model
    train "$1" "$2"
    collection "$1" "$WORK/$1/run/export"
    search "$1" eval "$DATA/qrels/$EVAL.tsv" 100
    search "$1" eval-fused "$DATA/qrels/$EVAL.tsv" 100 --hybrid
}

rerank() { # run depth run-out [option…]
    # shellcheck disable=SC2086
    once "$3" "$TRAWL" rerank --model "$WORK/cross-encoder/run/export" --run "$1" --queries "$DATA/queries.jsonl" \
        --corpus "$corpus" --depth "$2" --run-out "$3.part" $threads "${@:4}"
}

WORK=$(cd "$WORK" && pwd) DATA=$(cd "$DATA" && pwd)
corpus=$DATA/$(basename "$corpus") judged=$WORK/qrels/$TRAIN.tsv
[ ! -d "$MODEL" ] || MODEL=$(cd "$MODEL" && pwd)
[ ! -d "$RERANKER" ] || RERANKER=$(cd "$RERANKER" && pwd)
case $TRAWL in */*) TRAWL=$(realpath "$TRAWL") ;; esac
mkdir -p "$WORK"/{untouched,bi-encoder-1,bi-encoder-2,cross-encoder,distilled}
once "$judged" draw_queries

collection untouched "$MODEL"
search untouched eval "$DATA/qrels/$EVAL.tsv" 100
search untouched eval-bm25 "$DATA/qrels/$EVAL.tsv" 100 --lexical
search untouched eval-fused "$DATA/qrels/$EVAL.tsv" 100 --hybrid

# 1. Negatives of BM25.
search untouched train-bm25 "$judged" "$DEPTH" --lexical
mine bi-encoder-1 "$WORK/untouched/train-bm25.trec" --depth "$DEPTH" --n 30
bi_encoder bi-encoder-1 "$MODEL"

# 2. Negatives of the model itself.
search bi-encoder-1 train "$judged" "$DEPTH"
mine bi-encoder-2 "$WORK/bi-encoder-1/train.trec" --depth "$DEPTH" --n 30
bi_encoder bi-encoder-2 "$(if [ "$CONTINUE" = yes ]; then echo "$WORK/bi-encoder-1/run/export"; else echo "$MODEL"; fi)"

# 3. A reranker of what the second one finds.
search bi-encoder-2 train "$judged" "$DEPTH"
mine cross-encoder "$WORK/bi-encoder-2/train.trec" --depth "$DEPTH" --n "$RERANKER_NEGATIVES"
train cross-encoder "$RERANKER"
rerank "$WORK/bi-encoder-2/eval-fused.trec" "$RERANK_DEPTH" "$WORK/cross-encoder/eval.trec"

# 4. The reranker teaches a bi-encoder.
rerank "$WORK/bi-encoder-2/train.trec" "$TEACHER_DEPTH" "$WORK/cross-encoder/teacher.trec" --raw
mine distilled "$WORK/bi-encoder-2/train.trec" --depth "$TEACHER_DEPTH" --n "$TEACHER_DEPTH" --teacher "$WORK/cross-encoder/teacher.trec"
bi_encoder distilled "$(if [ "$CONTINUE" = yes ]; then echo "$WORK/bi-encoder-2/run/export"; else echo "$MODEL"; fi)"

# The table: figures of each stage, and what sets it apart from the untouched model by itself and fused.
figure() { # run against
    "$TRAWL" eval --run "$WORK/$1.trec" --against "$WORK/$2.trec" --qrels "$DATA/qrels/$EVAL.tsv" -m ndcg@10,mrr@10,recall@100 \
        --json 2>/dev/null | awk -v name="$1" -F '[:,]' '
            /"comparison"/ { inside = 1 }
            inside && /"difference"/ { difference = $2 }
            inside && /"measure"/ { measure = $2 }
            inside && /"p_value"/ { p = $2 }
            inside && /"second"/ { split(measure, m, "\""); value[m[2]] = $2; if (m[2] == "ndcg@10") { d = difference; q = p } }
            /"metrics"/ && inside { inside = 0 }
            END { printf "| %s | %.4f | %.4f | %.4f | %+.4f | %.4f |\n", name, value["ndcg@10"], value["mrr@10"], value["recall@100"], d, q }'
}
{
    echo "$(basename "$DATA"), $TRAIN → $EVAL, $(awk 'NR > 1 && !s[$1]++' "$judged" | wc -l) training queries, \`$SIZE\`"
    echo
    echo "| run | nDCG@10 | MRR@10 | recall@100 | nDCG@10 against untouched | p |"
    echo "|---|---|---|---|---|---|"
    for run in untouched/eval untouched/eval-bm25 untouched/eval-fused bi-encoder-1/eval bi-encoder-1/eval-fused \
        bi-encoder-2/eval bi-encoder-2/eval-fused cross-encoder/eval distilled/eval distilled/eval-fused; do
        case $run in *fused | cross*) figure $run untouched/eval-fused ;; *) figure $run untouched/eval ;; esac
    done
    echo
    echo "p: paired randomisation test. Fused runs and the cross-encoder are compared with untouched/eval-fused."
} >"$WORK/table.md"
cat "$WORK/table.md"
