# shellcheck shell=bash
# Sourced by other scripts: the sample corpus in the columns of MS MARCO, the checks that end a run, and what its texts lacked.

# Prints `row<TAB>id<TAB>title<TAB>text` of a corpus in the sample's layout; rows count from 0, as MS MARCO's ids do.
sample_rows() {
  sed -nE 's/^\{"_id": "([^"]*)", "title": "(([^"\\]|\\.)*)", "text": "(([^"\\]|\\.)*)".*/\1\t\2\t\4/p' "$1" |
    sed 's/\\"/"/g' | awk '{ print NR - 1 "\t" $0 }'
}

# Prints `query<TAB>text` of queries in the sample's layout.
sample_queries() {
  sed -nE 's/^\{"_id": "([^"]*)", "text": "([^"\\]*)"\}$/\1\t\2/p' "$1"
}

# Prints `query<TAB>0<TAB>row<TAB>1` of judgments, given the rows of the corpus.
sample_qrels() {
  awk -F '\t' -v OFS='\t' 'NR == FNR { row[$2] = $1; next } FNR > 1 { print $1, 0, row[$2], 1 }' "$1" "$2"
}

fail() {
  printf 'failed: %s\n' "$*" >&2
  exit 1
}

# expect_lines NUMBER FILE
expect_lines() {
  local found
  found=$(wc -l <"$2")
  [ "$found" -eq "$1" ] || fail "$2 has $found lines where $1 are expected"
}

# measure NAME RUN QRELS prints one figure.
measure() {
  "$TRAWL" --quiet eval --measures "$1" --run "$2" --qrels "$3" | awk -v name="$1" '$1 == name { print $3 }'
}

# expect_above WHAT LOWER MARGIN HIGHER
expect_above() {
  printf '%s: %s, was %s\n' "$1" "$4" "$2"
  awk -v low="$2" -v margin="$3" -v high="$4" 'BEGIN { exit !(high >= low + margin) }' ||
    fail "$1 is $4, not $3 above $2"
}

# lacking METRICS.jsonl prints how many texts of the last epoch of MASTER had nothing that a teacher writes; of other methods nothing.
lacking() {
  awk -F '[{,:}]' '
    /"kind":"epoch"/ {
      for (i = 1; i < NF; i++) {
        if ($i == "\"texts\"") texts = $(i + 1)
        if ($i == "\"without_queries\"") queries = $(i + 1)
        if ($i == "\"without_continuation\"") continuations = $(i + 1)
      }
    }
    END {
      if (queries + continuations > 0)
        printf "%d of %d texts without queries, %d without continuation", queries, texts, continuations
    }' "$1"
}
