#!/usr/bin/env bash
# fuzz.sh [--seeds] TIME [PATTERN]: runs every fuzz target of the module whose package or name fits PATTERN (an extended
# regular expression) for TIME (such as 30s), one on each of FUZZJOBS processors at a time (all of them).
#
# Go keeps the inputs that reached new code, and runs all of them before it tries others, within TIME. With --seeds a
# target has only the committed ones, so that a short TIME is spent on new inputs.
set -euo pipefail

# one BINARY PACKAGE TARGET: a single run, reported when it ends. The directory is the package's.
one() {
  local binary=$1 package=$2 target=$3 kept log=$dir/$BASHPID.log
  kept=$gocache/fuzz/$module${package#.}
  [ -z "$seeds" ] || kept=$(mktemp -d "$dir/corpus.XXXXXX")
  # Where all of TIME went into the inputs that are there already, these are run, and a hundred more.
  local limit there
  for limit in "$time" more; do
    if [ "$limit" = more ]; then
      there=$(sed -n 's|.*baseline coverage: [0-9]*/\([0-9]*\) completed.*|\1|p' "$log" | tail -n 1)
      limit=$((${there:-0} + 100))x
    fi
    if ! "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$limit" -test.fuzzminimizetime 10x -test.parallel 1 \
      -test.fuzzcachedir "$kept" >"$log" 2>&1; then
      if ! cut_off "$binary" "$target" "$log"; then
        echo "fuzz: $package $target"
        cat "$log"
        return 1
      fi
    fi
    if grep -q 'execs: [1-9]' "$log"; then
      echo "fuzz: $package $target: $(grep -o 'execs: [0-9]*' "$log" | tail -n 1) in $limit"
      return 0
    fi
  done
  echo "fuzz: $package $target: no input was tried"
  cat "$log"
  return 1
}

# cut_off BINARY TARGET LOG tells whether a failed run only ended amid an input. Go's fuzzer can report its own deadline
# as a failure, a process that it ended because it did not stop within a second as one that hung, and so one that had an
# input for ten seconds, whoever had the processors: on a busy machine a good input takes longer. So such an input, or
# seed, is tried once more, alone, with ten seconds of a processor.
cut_off() {
  local input name
  input=$(sed -n 's/^ *Failing input written to //p' "$3")
  name=${input##*/}
  [ -n "$name" ] || name=$(sed -n 's|^failure while testing seed corpus entry: [^/]*/||p' "$3")
  if [ -z "$name" ]; then
    grep -q 'context deadline exceeded' "$3"
    return
  fi
  grep -q 'fuzzing process hung or terminated unexpectedly while minimizing: EOF' "$3" ||
    { grep -q 'fuzzing process hung or terminated unexpectedly: exit status 2' "$3" && stalled "$3"; } || return 1
  (ulimit -t 10 && exec "$1" -test.run "^$2\$/^$name\$" -test.timeout 5m) >>"$3" 2>&1 || return 1
  [ -n "$input" ] || return 0
  rm "$input"
  rmdir --parents --ignore-fail-on-non-empty "$(dirname "$input")"
}

# stalled LOG tells whether nothing was done in a run's last seconds, all but the up to three before a report of what
# was: a process that panics by itself does so sooner.
stalled() {
  awk '
    /^fuzz: elapsed: / {
      for (at[++n] = 0; match($3, /^[0-9]+[hms]/); $3 = substr($3, RLENGTH + 1))
        at[n] += substr($3, 1, RLENGTH - 1) * (substr($3, RLENGTH, 1) == "h" ? 3600 : substr($3, RLENGTH, 1) == "m" ? 60 : 1)
      done[n] = ($4 == "execs:") ? $5 : $7
    }
    END {
      for (i = n - 1; i > 1 && done[i - 1] == done[n - 1]; i--);
      exit !(n > 1 && at[n] - at[i] >= 7)
    }' "$1"
}

if [ "${1:-}" = --package ]; then # PACKAGE TARGET...: a package's targets, one after the other
  package=$2
  shift 2
  binary=$(mktemp "$dir/XXXXXX.test")
  go test -c -fuzz=. -o "$binary" "$package"
  cd "$package"
  for target; do
    one "$binary" "$package" "$target" || exit 255 # xargs starts nothing more
  done
  rm "$binary"
  exit 0
fi

seeds=
if [ "${1:-}" = --seeds ]; then seeds=1; shift; fi
time=${1:?usage: $0 [--seeds] TIME [PATTERN]}
dir=$(mktemp -d) module=$(go list -m) gocache=$(go env GOCACHE)
export seeds time dir module gocache
trap 'rm -rf "$dir"' EXIT
for package in $(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u); do
  targets=
  for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$package"/*_test.go | sed 's/^func //' | sort -u); do
    if [[ "$package $target" =~ ${2:-.} ]]; then targets+=" $target"; fi
  done
  [ -z "$targets" ] || echo "$package$targets"
done >"$dir/list"
count=$(awk '{ n += NF - 1 } END { print n + 0 }' "$dir/list")
echo "fuzz: $count targets for $time each"
[ "$count" -gt 0 ]
xargs -P "${FUZZJOBS:-$(nproc)}" -L 1 "$0" --package <"$dir/list"
