#!/usr/bin/env bash
# SimLM's pre-training, from passages to figures: a generator, replaced language modelling, two stages of fine-tuning. What it
# needs and reads stands in ../small-runs/steps.sh. The four stages of fine-tuning are in toy.sh and in ../four-stages.
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../small-runs/steps.sh
. "$recipe/../small-runs/steps.sh"

[ "$SIZE" = toy ] || config=$recipe/generator.json
words "$WORK/generator-start" "$config"
pretrain generator "$recipe/../small-runs/mlm.toml" --set "model.path=$WORK/generator-start"
pretrain pretrained "$recipe/small.toml" --set "objective.generator=$WORK/generator/export"
stages
