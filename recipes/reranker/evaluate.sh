#!/usr/bin/env bash
# The default reranker over the first 100 fused results of four test sets, beside the three first stages.
#
#   DATA=data WORK=runs/reranker-table recipes/reranker/evaluate.sh [MODEL]
#
# Prints a table of nDCG@10. THREADS limits the threads.
set -euo pipefail
DATA=${DATA:?the folder of the data sets} WORK=${WORK:?a folder to write into} TRAWL=${TRAWL:-trawl}
MODEL=${1:-trawl-reranker-small}
tag=$([ ! -d "$MODEL" ] || cksum <"$MODEL/model.safetensors" | cut -d ' ' -f 1) # runs of one model are no other's
reranked=reranked${tag:+-$tag}.trec
threads=${THREADS:+--threads $THREADS}
mkdir -p "$WORK"

# once FILE COMMAND…: runs a command that writes FILE.part, unless FILE is there.
once() {
    [ -e "$1" ] && return
    "${@:2}" >/dev/null
    mv "$1.part" "$1"
}

ndcg() { # run qrels
    "$TRAWL" --quiet eval --run "$1" --qrels "$2" --measures ndcg@10 | awk '$1 == "ndcg@10" { print $3 }'
}

# p NAME: of a paired randomisation test of the reranked run against the fused one.
p_value() { # run against qrels
    "$TRAWL" --quiet eval --json --run "$1" --against "$2" --qrels "$3" --measures ndcg@10 |
        awk -F '[:,]' '/"p_value"/ { if ($2 < 0.0001) printf "< 0.0001"; else printf "%.4f", $2; exit }'
}

echo "| set, split | dense | BM25 | fused | fused, reranked | p |"
echo "|---|---|---|---|---|---|"
for row in cranfield:test squad:dev squadshifts-amazon:dev medquad:test; do
    set=${row%:*} split=${row#*:} data=$DATA/${row%:*} runs=$WORK/${row%:*}
    qrels=$data/qrels/$split.tsv
    if [ ! -d "$runs/collection" ]; then
        rm -rf "$runs"
        mkdir "$runs"
        # shellcheck disable=SC2086
        "$TRAWL" --quiet index build --corpus "$data/corpus.jsonl.gz" --collection "$runs/new" $threads >/dev/null
        mv "$runs/new" "$runs/collection"
    fi
    for way in dense lexical hybrid; do
        # shellcheck disable=SC2046,SC2086
        once "$runs/$way.trec" "$TRAWL" --quiet search "$runs/collection" $([ $way = dense ] || echo --$way) \
            --queries "$data/queries.jsonl" --qrels "$qrels" -k 100 --run-out "$runs/$way.trec.part" $threads
    done
    # shellcheck disable=SC2086
    once "$runs/$reranked" "$TRAWL" --quiet rerank --precision auto --model "$MODEL" --run "$runs/hybrid.trec" --depth 100 \
        --queries "$data/queries.jsonl" --corpus "$data/corpus.jsonl.gz" --run-out "$runs/$reranked.part" $threads
    echo "| $set $split | $(ndcg "$runs/dense.trec" "$qrels") | $(ndcg "$runs/lexical.trec" "$qrels")" \
        "| $(ndcg "$runs/hybrid.trec" "$qrels") | $(ndcg "$runs/$reranked" "$qrels")" \
        "| $(p_value "$runs/$reranked" "$runs/hybrid.trec" "$qrels") |"
done
