#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME (such as 30s), one after the other.
set -euo pipefail
time=${1:?usage: $0 TIME}
count=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "fuzz: $package $target for $time"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$package"
    count=$((count + 1))
  done
done
echo "fuzz: $count targets ran for $time each"
[ "$count" -gt 0 ]
