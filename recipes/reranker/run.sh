#!/usr/bin/env bash
# Makes the default reranker: data, training, figures. `DATA=… WORK=… recipes/reranker/run.sh`
#
# DATA   folder with squad, squadshifts-amazon, medquad and openstax-text in BEIR's layout
# WORK   where everything is written; what is there already is not done again
# TRAWL  the command, MODEL  where training begins
set -euo pipefail
: "${DATA:?folder with the data sets}" "${WORK:?folder to write to}"
TRAWL=${TRAWL:-trawl}
MODEL=${MODEL:-all-MiniLM-L6-v2}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$WORK"
DATA=$(realpath "$DATA") WORK=$(realpath "$WORK") # links and `cd` below
case $TRAWL in */*) TRAWL=$(realpath "$TRAWL") ;; esac
[ ! -d "$MODEL" ] || MODEL=$(realpath "$MODEL")

# done_once FILE COMMAND…: the command writes FILE.new, which gets its name when the command has ended well.
done_once() {
    local file=$1
    shift
    [ -e "$file" ] && return
    echo "== $file" >&2
    "$@"
    mv "$file.new" "$file"
}

# Every 25th topic (title; a passage where there are none) is held out of training, with all its queries.
# `heldout.tsv` gets its name when both splits are written.
held_out() { # set
    zcat "$DATA/$1/corpus.jsonl.gz" | awk -v judged="$DATA/$1/qrels/train.tsv" -v folder="$WORK/$1/qrels" '
        function field(name) {
            if (!match($0, "\"" name "\": \"([^\"\\\\]|\\\\.)*\"")) return ""
            return substr($0, RSTART + length(name) + 5, RLENGTH - length(name) - 6)
        }
        {
            id = field("_id"); title = field("title"); if (title == "") title = id
            if (!(title in number)) number[title] = n_titles++
            out[id] = number[title] % 25 == 12
        }
        END {
            while ((getline line < judged) > 0) {
                split(line, part, "\t")
                if (part[1] == "query-id") { header = line; continue }
                all[++n] = line; query[n] = part[1]
                if (out[part[2]]) held[part[1]] = 1
            }
            train = folder "/train.tsv"; heldout = folder "/heldout.tsv.new"
            print header > train; print header > heldout
            for (i = 1; i <= n; i++) print all[i] > (query[i] in held ? heldout : train)
        }'
}

# Inverse cloze: a sentence of a section asks for the rest of the section.
cloze() {
    mkdir -p "$WORK/openstax/qrels"
    zcat "$DATA/openstax-text/corpus.jsonl.gz" | awk -v folder="$WORK/openstax" '
        NR % 3 == 0 {
            match($0, /"text": "/); head = substr($0, 1, RSTART + 8); text = substr($0, RSTART + 9)
            n = split(text, sentence, /\. /)
            for (i = int(n / 2); i < n; i++) {
                if (i < 2 || split(sentence[i], words, " ") < 8 || length(sentence[i]) > 200 || sentence[i] ~ /["\\]/) continue
                id = "os" NR
                print "{\"_id\": \"" id "\", \"text\": \"" sentence[i] ".\"}" > (folder "/queries.jsonl")
                split(head, part, "\""); print id "\t" part[4] "\t1" > (folder "/qrels/train.tsv")
                at = index(text, sentence[i] ". ")
                text = substr(text, 1, at - 1) substr(text, at + length(sentence[i]) + 2)
                break
            }
            print head text > (folder "/corpus.jsonl.new"); next
        }
        { print > (folder "/corpus.jsonl.new") }'
}

prepare() { # set
    local set=$1 folder=$WORK/$1
    mkdir -p "$folder/qrels"
    if [ "$set" = openstax ]; then
        done_once "$folder/corpus.jsonl" cloze
    else
        done_once "$folder/qrels/heldout.tsv" held_out "$set"
        ln -sfn "$DATA/$set/queries.jsonl" "$folder/queries.jsonl"
        ln -sfn "$DATA/$set/corpus.jsonl.gz" "$folder/corpus.jsonl.gz"
    fi
    local corpus
    corpus=$(ls "$folder"/corpus.jsonl*)
    if [ ! -e "$folder/index" ]; then
        rm -rf "$folder/index.part"
        "$TRAWL" index build --corpus "$corpus" --model "$MODEL" --collection "$folder/index.part" --publish
        mv "$folder/index.part" "$folder/index"
    fi
    local way split
    for split in train heldout; do
        [ -e "$folder/qrels/$split.tsv" ] || continue
        for way in dense lexical hybrid; do
            done_once "$folder/$way.$split.trec" "$TRAWL" search "$folder/index" $([ $way = dense ] || echo --$way) \
                --queries "$folder/queries.jsonl" --qrels "$folder/qrels/$split.tsv" -k 100 \
                --run-out "$folder/$way.$split.trec.new"
        done
    done
    # From the upper part of the fused list, where BM25 and vectors both contribute; the bi-encoder's cosines teach.
    cosines "$folder" queries.jsonl --qrels "$folder/qrels/train.tsv"
    [ -e "$folder/train.jsonl" ] || "$TRAWL" mine --run "$folder/hybrid.train.trec" --teacher "$folder/cosines.trec" \
        --corpus "$corpus" --queries "$folder/queries.jsonl" --qrels "$folder/qrels/train.tsv" --depth 24 --n 16 \
        --out "$folder/train.jsonl"
    [ -e "$folder/questions.jsonl" ] || "$TRAWL" mine --run "$folder/hybrid.train.trec" \
        --corpus "$corpus" --queries "$folder/queries.jsonl" --qrels "$folder/qrels/train.tsv" --depth 24 --n 16 --n-random 1 \
        --out "$folder/questions.jsonl"
    rm -f "$folder/cosines.trec"
    sentences "$folder" "$corpus" "$([ "$set" = medquad ] && echo 3 || echo 1)"
}

# The cosines of the first thousand passages of each query.
cosines() { # folder queries [option…]
    local out=$1/train.jsonl
    [ "$2" = queries.jsonl ] || out=$1/${2%.jsonl}.train.jsonl
    [ -e "$out" ] || done_once "$1/cosines.trec" "$TRAWL" search "$1/index" --queries "$1/$2" -k 1000 \
        --run-out "$1/cosines.trec.new" "${@:3}"
}

# A sentence of each passage (of every nth) asks for other passages: the nearest by vector and by BM25. Nobody judged them; the
# nearest by cosine stands as the positive. So the reranker keeps what the bi-encoder knows of words that differ.
sentences() { # folder corpus nth
    [ -e "$1/sentences.train.jsonl" ] && return
    case $2 in *.gz) zcat "$2" ;; *) cat "$2" ;; esac | awk -v nth="$3" '
        NR % nth == 0 {
            match($0, /"_id": "[^"]*"/); id = substr($0, RSTART + 8, RLENGTH - 9)
            match($0, /"text": "/); text = substr($0, RSTART + RLENGTH)
            n = split(text, sentence, /[.?!] /)
            for (i = int(n / 3) + 1; i < n; i++) {
                words = split(sentence[i], word, " ")
                if (words < 6 || words > 30 || sentence[i] ~ /["\\]/) continue
                print "{\"_id\": \"" id "\", \"text\": \"" sentence[i] ".\"}"
                break
            }
        }' >"$1/sentences.jsonl"
    cosines "$1" sentences.jsonl --ignore-identical-ids
    "$TRAWL" search "$1/index" --lexical --queries "$1/sentences.jsonl" --ignore-identical-ids -k 13 \
        --run-out "$1/lexical.sentences.trec"
    awk 'BEGIN { print "query-id\tcorpus-id\tscore" } $4 == 1 { print $1 "\t" $3 "\t1" }' "$1/cosines.trec" \
        >"$1/qrels/sentences.tsv"
    awk '$4 <= 12 && !(($1, $3) in seen) { seen[$1, $3]; n[$1]++; print $1, "Q0", $3, n[$1], 100 - n[$1], "both" }' \
        "$1/lexical.sentences.trec" <(awk '$4 <= 13' "$1/cosines.trec") >"$1/sentences.trec"
    "$TRAWL" mine --run "$1/sentences.trec" --teacher "$1/cosines.trec" --corpus "$2" --queries "$1/sentences.jsonl" \
        --qrels "$1/qrels/sentences.tsv" --depth 24 --n 16 --out "$1/sentences.train.jsonl"
    rm "$1/cosines.trec"
}

for set in squad squadshifts-amazon medquad openstax; do prepare "$set"; done

# The held-out queries of all sets over the passages of all sets choose the checkpoint.
dev=$WORK/dev
if [ ! -e "$dev/run.trec" ]; then
    mkdir -p "$dev/qrels"
    rm -f "$dev"/*.jsonl "$dev/run.new"
    echo "query-id	corpus-id	score" >"$dev/qrels/dev.tsv"
    for set in squad squadshifts-amazon medquad; do
        zcat "$DATA/$set/corpus.jsonl.gz" >>"$dev/corpus.jsonl"
        cat "$DATA/$set/queries.jsonl" >>"$dev/queries.jsonl"
        tail -n +2 "$WORK/$set/qrels/heldout.tsv" >>"$dev/qrels/dev.tsv"
        cat "$WORK/$set/hybrid.heldout.trec" >>"$dev/run.new"
    done
    mv "$dev/run.new" "$dev/run.trec"
fi

[ -z "${PREPARE_ONLY:-}" ] || exit 0
for half in questions cosines; do
    [ ! -e "$WORK/$half/export" ] || continue
    resume=
    [ ! -e "$WORK/$half/config.toml" ] || resume=--resume
    # shellcheck disable=SC2086
    (cd "$WORK" && "$TRAWL" train "$here/$half.toml" --set "model.path=$MODEL" ${THREADS:+--set "engine.threads=$THREADS"} --out $half $resume)
done
[ -e "$WORK/trawl-reranker-small" ] ||
    "$TRAWL" model average "$WORK/questions/export" "$WORK/cosines/export" --out "$WORK/trawl-reranker-small" --dtype f16
