#!/usr/bin/env bash
# CoT-MAE, from documents to figures. What it needs and reads stands in ../small-runs/steps.sh.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../small-runs/steps.sh
. "$recipe/../small-runs/steps.sh"

once "$WORK/spans.jsonl" "$TRAWL" data span-pairs "$corpus" --tokenizer "$start" --max-tokens "$span_tokens" \
  --out "$WORK/spans.jsonl.part"
pretrain pretrained "$recipe/small.toml" --set "data.corpus.files=[\"$WORK/spans.jsonl\"]"
# The second stage reads the negatives of BM25 too.
stages "$WORK/stage-1/train.jsonl"
