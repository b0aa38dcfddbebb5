#!/usr/bin/env bash
# fuzz.sh TIME [PATTERN]: runs every fuzz target of the module whose package or name fits PATTERN
# (an extended regular expression) for TIME (such as 30s), one on each processor at a time.
set -euo pipefail

if [ "${1:-}" = --one ]; then # TIME PACKAGE TARGET: a single run, reported when it ends
  time=$2 package=$3 target=$4
  out=$(mktemp)
  trap 'rm -f "$out"' EXIT
  if go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x -parallel 1 "$package" >"$out" 2>&1; then
    echo "fuzz: $package $target: $(grep -o 'execs: [0-9]*' "$out" | tail -n 1) in $time"
    exit 0
  fi
  # At the end of the time Go's fuzzer can report its own deadline as a failure. A finding
  # always names the input that it wrote down.
  if ! grep -q 'Failing input written' "$out" && grep -q 'context deadline exceeded' "$out"; then
    echo "fuzz: $package $target: the time ran out while an input was being tried, which is no finding"
    exit 0
  fi
  echo "fuzz: $package $target"
  cat "$out"
  exit 255 # xargs starts nothing more
fi

time=${1:?usage: $0 TIME [PATTERN]}
list=$(mktemp)
trap 'rm -f "$list"' EXIT
for package in $(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u); do
  for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$package"/*_test.go | sed 's/^func //' | sort -u); do
    if [[ "$package $target" =~ ${2:-.} ]]; then echo "$package $target"; fi
  done
done >"$list"
count=$(wc -l <"$list")
echo "fuzz: $count targets for $time each"
[ "$count" -gt 0 ]
xargs -P "$(nproc)" -L 1 "$0" --one "$time" <"$list"
