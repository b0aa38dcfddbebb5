#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME (such as 30s), one after the other.
set -euo pipefail
time=${1:?usage: $0 TIME}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
count=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "fuzz: $package $target for $time"
    if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$package" 2>&1 | tee "$out" | tail -n 2; then
      # At the end of the time Go's fuzzer can report its own deadline as a failure. A finding
      # always names the input that it wrote down.
      if grep -q 'Failing input written' "$out" || ! grep -q 'context deadline exceeded' "$out"; then
        cat "$out"
        exit 1
      fi
      echo "fuzz: the time ran out while an input was being tried, which is no finding"
    fi
    count=$((count + 1))
  done
done
echo "fuzz: $count targets ran for $time each"
[ "$count" -gt 0 ]
