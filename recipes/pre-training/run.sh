#!/usr/bin/env bash
# Pre-trains one small encoder by each method on the same number of texts, fine-tunes each alike, and compares.
#
#   DATA=data WORK=runs/pre-training recipes/pre-training/run.sh
#
# DATA     folder of openstax-text, squad, medquad and squadshifts-amazon, in BEIR's layout
# WORK     everything is written here; what is done is not done again, and a training goes on in its middle
# METHODS  none mlm condenser cot_mae sim_lm retro_mae dup_mae master (default: all)      SEEDS  default: 42
# PIECES   entries of the vocabulary, learned of the texts (default: 8192)      THREADS, TRAWL   threads and the command
# POOLINGS vectors of the fine-tuned encoders (default: cls mean)
# START    folder of a BERT to go on from, in place of random weights and words of our own
# TEXTS    sets whose passages are read (default: all four)
# STEPS    of each pre-training, in place of common.toml's        RATE   the same, but for SimLM's generator
set -euo pipefail
: "${DATA:?folder of the data sets}" "${WORK:?folder to write to}"
TRAWL=${TRAWL:-trawl} PIECES=${PIECES:-8192} SEEDS=${SEEDS:-42}
METHODS=${METHODS-none mlm condenser cot_mae sim_lm retro_mae dup_mae master}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd) DATA=$(cd "$DATA" && pwd)
threads=${THREADS:+--threads $THREADS} engine=${THREADS:+--set engine.threads=$THREADS}
sets="squad medquad squadshifts-amazon"
questions=5000 # of each set, for fine-tuning
corpora=() quoted=
for set in ${TEXTS:-openstax-text $sets}; do
    corpora+=("$DATA/$set/corpus.jsonl.gz")
    quoted="$quoted\"$DATA/$set/corpus.jsonl.gz\", "
done
# Runs of other beginnings are no part of the same comparison.
settings="START=${START:-} TEXTS=${TEXTS:-} PIECES=$PIECES STEPS=${STEPS:-} RATE=${RATE:-}"
[ -e "$WORK/settings" ] || echo "$settings" >"$WORK/settings"
if [ "$(cat "$WORK/settings")" != "$settings" ]; then
    printf '%s was begun with\n  %s, not\n  %s\n' "$WORK" "$(cat "$WORK/settings")" "$settings" >&2
    exit 2
fi
split() { if [ "$1" = medquad ]; then echo test; else echo dev; fi; }

# Folders of a configuration and a tokenizer: random weights. Only START has some of its own.
if [ -n "${START:-}" ]; then
    encoder=$(cd "$START" && pwd) words=$encoder
    entries=$(sed -n 's/.*"vocab_size" *: *\([0-9]*\).*/\1/p' "$START/config.json")
    : "${entries:?no vocab_size in $START/config.json}"
else
    encoder=$WORK/start/encoder words=$WORK/words
    [ -e "$words/tokenizer.json" ] || "$TRAWL" data word-pieces "${corpora[@]}" --pieces "$PIECES" --out "$words"
    entries=$(wc -l <"$words/vocab.txt")
fi
start() { # name config
    mkdir -p "$WORK/start/$1"
    sed "s/\"vocab_size\": [0-9]*/\"vocab_size\": $entries/" "$2" >"$WORK/start/$1/config.json"
    for file in "$words"/{tokenizer*,vocab.txt}; do [ ! -e "$file" ] || cp "$file" "$WORK/start/$1/"; done
}
[ -n "${START:-}" ] || start encoder "$here/../small-runs/config.json"
start generator "$here/../simlm/generator.json"

# Adds the processor seconds of a command to a file.
measured() { # file command…
    local TIMEFORMAT='%U %S' file=$1 status=0
    { time "${@:2}" 2>&3 || status=$?; } 3>&2 2>>"$file"
    return "$status"
}

# pre_train NAME SEED START OBJECTIVE.toml [option…]
pre_train() {
    local run=$WORK/$1/pre-training resume= rate=${RATE:-}
    [ "$1" != generator ] || rate=
    [ ! -e "$run/export" ] || return 0
    echo "== $1: pre-training" >&2
    mkdir -p "$WORK/$1"
    if [ -e "$run/config.toml" ]; then
        resume=--resume
    else
        local corpus="files = [${quoted%, }], format = \"texts\""
        case $1 in cot_mae*) corpus="files = [\"$WORK/spans.jsonl.zst\"], format = \"spans\"" ;; esac
        { # a pair of spans is two texts, which are shorter
            printf '[model]\npath = "%s"\n\n[data]\ncorpus = { %s }\ncache = "%s"\nbatch_size = %s\n\n' "$3" "$corpus" "$WORK/tokens" \
                "$(case $1 in cot_mae*) echo 20 ;; *) echo 32 ;; esac)"
            cat "$4" "$here/common.toml"
        } >"$WORK/$1/pre-training.toml"
    fi
    # shellcheck disable=SC2086
    measured "$WORK/$1/processor-seconds" \
        "$TRAWL" train "$WORK/$1/pre-training.toml" --out "$run" --set run.seed="$2" --set objective.seed="$2" $engine $resume \
        ${STEPS:+--set schedule.max_steps="$STEPS"} ${rate:+--set optimizer.learning_rate="$rate"} "${@:5}"
}

collection() { # folder set model [option…]
    [ ! -e "$1" ] || return 0
    rm -rf "$1.part"
    # shellcheck disable=SC2086
    "$TRAWL" index build --corpus "$DATA/$2/corpus.jsonl.gz" --model "$3" --collection "$1.part" --publish $threads "${@:4}"
    mv "$1.part" "$1"
}

# What fine-tuning reads: questions spread evenly over the training splits, each with negatives of BM25.
fine_tuning_data() { # set
    local folder=$WORK/questions/$1
    [ ! -e "$folder/train.jsonl" ] || return 0
    mkdir -p "$folder"
    awk -F '\t' -v most="$questions" 'NR == 1 { print; next }
        !($1 in number) { number[$1] = n++; order[n] = $1 }
        { line[++m] = $0; query[m] = number[$1] }
        END { for (i = 1; i <= m; i++) if (n <= most || int((query[i] + 1) * most / n) > int(query[i] * most / n)) print line[i] }
    ' "$DATA/$1/qrels/train.tsv" >"$folder/train.tsv"
    collection "$folder/collection" "$1" "$WORK/none-42/pre-training/export" --pooling cls --normalize true --similarity cosine \
        --query-tokens 16 --passage-tokens 16 # BM25 reads no vectors
    # shellcheck disable=SC2086
    "$TRAWL" search "$folder/collection" --queries "$DATA/$1/queries.jsonl" --qrels "$folder/train.tsv" -k 50 --lexical \
        --run-out "$folder/bm25.trec" $threads
    "$TRAWL" mine --run "$folder/bm25.trec" --corpus "$DATA/$1/corpus.jsonl.gz" --queries "$DATA/$1/queries.jsonl" \
        --qrels "$folder/train.tsv" --depth 50 --n 20 --out "$folder/train.jsonl"
}

fine_tune() { # name seed pooling
    local folder=$WORK/$1/$3 resume=
    [ ! -e "$folder/run/export" ] || return 0
    echo "== $1: fine-tuning, $3" >&2
    mkdir -p "$folder"
    if [ -e "$folder/run/config.toml" ]; then
        resume=--resume
    else
        cp "$here/fine-tune.toml" "$folder/train.toml"
        for set in $sets; do printf '\n[[data.train]]\nfiles = ["%s"]\n' "$WORK/questions/$set/train.jsonl"; done >>"$folder/train.toml"
    fi
    # shellcheck disable=SC2086
    "$TRAWL" train "$folder/train.toml" --out "$folder/run" --set run.seed="$2" --set objective.pooling="$3" \
        --set model.path="$WORK/$1/pre-training/export" $engine $resume
}

evaluate() { # name pooling
    local folder=$WORK/$1/$2
    for set in $sets; do
        [ ! -e "$folder/$set.trec" ] || continue
        collection "$folder/$set" "$set" "$folder/run/export"
        # shellcheck disable=SC2086
        "$TRAWL" search "$folder/$set" --queries "$DATA/$set/queries.jsonl" --qrels "$DATA/$set/qrels/$(split "$set").tsv" -k 100 \
            --run-out "$folder/$set.trec.part" $threads
        mv "$folder/$set.trec.part" "$folder/$set.trec"
        rm -r "${folder:?}/$set"
    done
}

method() { # method seed
    local name=$1-$2
    case $1 in
    none) pre_train "$name" "$2" "$encoder" "$here/methods/mlm.toml" --set schedule.max_steps=1 --set optimizer.learning_rate=0 ;;
    sim_lm)
        pre_train generator 42 "$WORK/start/generator" "$here/methods/mlm.toml"
        pre_train "$name" "$2" "$encoder" "$here/methods/$1.toml" --set objective.generator="$WORK/generator/pre-training/export"
        ;;
    cot_mae)
        [ -e "$WORK/spans.jsonl.zst" ] || "$TRAWL" data span-pairs "${corpora[@]}" --tokenizer "$encoder" --max-tokens 96 --out "$WORK/spans.jsonl.zst"
        pre_train "$name" "$2" "$encoder" "$here/methods/$1.toml"
        ;;
    *) pre_train "$name" "$2" "$encoder" "$here/methods/$1.toml" ;;
    esac
    for pooling in ${POOLINGS:-cls mean}; do
        fine_tune "$name" "$2" "$pooling"
        evaluate "$name" "$pooling"
    done
}

pre_train none-42 42 "$encoder" "$here/methods/mlm.toml" --set schedule.max_steps=1 --set optimizer.learning_rate=0
for set in $sets; do fine_tuning_data "$set"; done
for seed in $SEEDS; do
    for method in none $METHODS; do method "$method" "$seed"; done
done
"$here/table.sh"
