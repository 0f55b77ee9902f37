#!/usr/bin/env bash
# RetroMAE, from documents to figures; `METHOD=dup_mae` is DupMAE. What it needs and reads stands in ../small-runs/steps.sh.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../small-runs/steps.sh
. "$recipe/../small-runs/steps.sh"

once "$WORK/blocks.jsonl" "$TRAWL" data blocks "$corpus" --tokenizer "$start" --max-tokens "$max_tokens" \
  --out "$WORK/blocks.jsonl.part"
pretrain pretrained "$recipe/small.toml" --set "objective.name=${METHOD:-retro_mae}" \
  --set "data.corpus.files=[\"$WORK/blocks.jsonl\"]"
stages
