#!/usr/bin/env bash
# MASTER, from passages to figures. LINES_FILE names its lines, with queries and continuations, in place of CORPUS. What
# else it needs and reads stands in ../small-runs/steps.sh.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../small-runs/steps.sh
. "$recipe/../small-runs/steps.sh"

texts=(--texts "$corpus") lines=()
if [ -n "${LINES_FILE:-}" ]; then
  texts=("$(realpath "$LINES_FILE")")
  lines=(--set data.corpus.format=master --set "data.corpus.files=[\"${texts[0]}\"]")
fi
once "$WORK/frequency_dict.json" "$TRAWL" data frequency-dictionary "${texts[@]}" --tokenizer "$start" \
  --out "$WORK/frequency_dict.json.part"
pretrain pretrained "$recipe/small.toml" --set "objective.dictionary=$WORK/frequency_dict.json" "${lines[@]}"
stages
