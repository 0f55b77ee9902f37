#!/usr/bin/env bash
# The table of what run.sh has done so far: cost of pre-training, nDCG@10 and recall@100 of each set, and the 95 % interval of what nDCG@10 is
# above AGAINST, the method with the same seed (default: none). Of MASTER it says how many texts had no queries and no continuation. What is not there of METHODS, SEEDS and POOLINGS, as run.sh has them, and of
# AGAINST is named below.
#   DATA=data WORK=runs/pre-training AGAINST=mlm recipes/pre-training/table.sh
set -euo pipefail
: "${DATA:?folder of the data sets}" "${WORK:?folder of run.sh}"
TRAWL=${TRAWL:-trawl} AGAINST=${AGAINST:-none} SEEDS=${SEEDS:-42}
METHODS=${METHODS-none mlm condenser cot_mae sim_lm retro_mae dup_mae master}
sets="squad medquad squadshifts-amazon"
# shellcheck source-path=SCRIPTDIR source=../sample.sh
. "$(dirname "$0")/../sample.sh"
split() { if [ "$1" = medquad ]; then echo test; else echo dev; fi; }

# Tokens in millions, 10^15 operations, and minutes of one processor, of trainings.
cost() { # folder…
    local logs=("${@/%//pre-training/metrics.jsonl}") clocks=("${@/%//processor-seconds}")
    awk -F '[,:]' '
        FNR == 1 { all_tokens += tokens; all_operations += operations; tokens = operations = 0 }
        /"kind":"train"/ {
            for (i = 1; i < NF; i++) {
                if ($i ~ /"n_tokens"/) tokens = $(i + 1) + 0
                if ($i ~ /"n_operations"/) operations = $(i + 1) + 0
            }
        }
        END { printf "%.1f | %.2f | ", (all_tokens + tokens) / 1e6, (all_operations + operations) / 1e15 }' "${logs[@]}"
    awk '{ seconds += $1 + $2 } END { printf "%.0f", seconds / 60 }' "${clocks[@]}"
}

# Both figures of a run, and nDCG's difference to another run with its 95 % interval.
figures() { # run other qrels
    "$TRAWL" eval --run "$1" --against "$2" --qrels "$3" -m ndcg@10,recall@100 --json --quiet | awk -F '[:,]' '
        /"comparison"/ { inside = 1 }
        inside && /"interval"/ { bound = 1; next }
        bound == 1 { low = $1; bound = 2; next }
        bound == 2 { high = $1; bound = 0 }
        inside && /"measure"/ { measure = $2 }
        inside && /"second"/ { value[measure] = $2; if (measure ~ /ndcg/) { l = low; h = high } }
        /"metrics"/ { inside = 0 }
        END { for (m in value) if (m ~ /ndcg/) n = value[m]; else r = value[m]
              printf "%.4f | %+.4f to %+.4f | %.4f", n, l, h, r }'
}

header="| run | tokens, M | PFLOP | processor minutes | pooling |" rule="|---|--:|--:|--:|---|"
for set in $sets; do
    header="$header $set: nDCG@10 | against $AGAINST | recall@100 |" rule="$rule--:|---|--:|"
done
printf '%s\n%s\n' "$header" "$rule"
for run in "$WORK"/*-[0-9]*/; do
    run=${run%/} name=$(basename "$run")
    folders=("$run") other=$WORK/$AGAINST-${name##*-}
    case $name in sim_lm*) folders+=("$WORK/generator") ;; esac
    for pooling in cls mean; do
        row=
        for set in $sets; do
            [ -e "$run/$pooling/$set.trec" ] && [ -e "$other/$pooling/$set.trec" ] || continue 2
            row="$row $(figures "$run/$pooling/$set.trec" "$other/$pooling/$set.trec" "$DATA/$set/qrels/$(split "$set").tsv") |"
        done
        note=$(lacking "$run/pre-training/metrics.jsonl")
        echo "| $name${note:+ ($note)} | $(cost "${folders[@]}") | $pooling |$row"
    done
done
missing=
for seed in $SEEDS; do
    for method in $(printf '%s\n' $METHODS "$AGAINST" | awk '!seen[$0]++'); do
        for pooling in ${POOLINGS:-cls mean}; do
            last=$WORK/$method-$seed/$pooling/${sets##* }.trec
            [ -e "$last" ] || missing="$missing, $method-$seed ($pooling)"
        done
    done
done
[ -z "$missing" ] || printf '\nMissing: %s.\n' "${missing#, }"
