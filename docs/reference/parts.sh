#!/usr/bin/env bash
# What a build in parts costs: encoding by 1, 2 and 4 processes of one thread, a part that is found done, the commit. Seconds, and processor seconds.
#   docs/reference/parts.sh TRAWL CORPUS MODEL FOLDER
set -euo pipefail
trawl=$1 corpus=$2 model=$3 docs=$4/docs
export trawl corpus model docs
TIMEFORMAT='%R (%U)'

part() { "$trawl" --quiet index encode --part "$1" --corpus "$corpus" --model "$model" --collection "$docs" --threads 1 --chunk-passages 64 >/dev/null; }
all_parts() { seq 0 7 | xargs -P "$1" -I{} bash -c 'part {}/8'; }
export -f part

for round in 1 2 3; do
  for processes in 1 2 4; do
    rm -rf "$docs"
    printf 'processes %s: encode ' "$processes"
    { time all_parts "$processes"; } 2>&1 | tr '\n' ' '
    printf 'done '
    { time part 0/8; } 2>&1 | tr '\n' ' '
    printf 'commit '
    { time "$trawl" --quiet index commit "$docs" --threads 1 >/dev/null; } 2>&1
  done
done
