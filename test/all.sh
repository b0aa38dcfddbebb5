#!/usr/bin/env bash
# all.sh FUZZTIME: lints, runs every test there is, and tells how long each stage took: what make test runs.
#
# What waits runs beside what computes. libguestfs boots its appliance on one emulated processor, so its suites run
# beside the others. The race detector uses all processors, and has them for itself. The story on a cluster waits for
# Velero and kubelet: fuzzing takes what it leaves of the processors. What runs beside shows its output at its end,
# or where it failed, last of all. A suite that fails hides nothing of those that follow.
set -uo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:?usage: $0 FUZZTIME}
export VMFR_TEST_REQUIRE=1
dir=$(mktemp -d)
: >"$dir/stages"
beside_pid=

# ticks: of all processors since the machine's start, those spent at work, and all.
ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat; }

# run NAME COMMAND...: runs a stage and notes what table shows of it.
run() {
  local name=$1 status=0 began=$EPOCHREALTIME since own TIMEFORMAT='%U %S'
  since=$(ticks) own=$dir/own.$BASHPID
  shift
  echo "== $name: $*"
  { time "$@" 2>&3; } 3>&2 2>"$own" || status=$?
  echo "$began $EPOCHREALTIME $since $(ticks) $(tail -n 1 "$own") $status $name" >>"$dir/stages"
  return "$status"
}

# idle COMMAND...: runs it with what nobody else wants of the processors. Where the kernel shares them between sessions
# (sched(7), autogroup), and between those and control groups, which the test's node has, being idle counts only
# within one; so the command gets a session, of the least weight.
idle() {
  setsid --wait chrt --idle 0 bash -c 'echo 19 2>/dev/null >/proc/self/autogroup || true; exec "$@"' idle "$@"
}

# beside FUNCTION: runs its stages beside what follows. One at a time.
beside() {
  "$1" >"$dir/beside.log" 2>&1 &
  beside_pid=$!
}

# join: waits for what runs beside, and shows its output; where it failed, the end does.
join() {
  local pid=$beside_pid
  beside_pid=
  if wait "$pid"; then
    cat "$dir/beside.log"
  else
    cat "$dir/beside.log" >>"$dir/failed"
  fi
}

# suite NAME COMMAND...: runs tests. One run shall tell all that fails: what follows runs whatever these say.
suite() {
  run "$@" 2>&1 | tee "$dir/suite.log" || { grep -E '^ *--- FAIL|^FAIL|^panic:' "$dir/suite.log" || echo "$1: FAILED"; } >>"$dir/failed"
}

# table: what ran when, for how long, the time that its own processes took of processors (containers' are not among
# them), and how busy all of them were meanwhile.
table() {
  sort -n "$dir/stages" | awk '
    function clock(s) { return sprintf("%d:%02d", s / 60, s % 60) }
    function row(name, from, to, own, busy, all) {
      printf "%-36s %7s %7s %10s %6s%%\n", name, clock(from), clock(to - from), clock(own), (all > 0) ? int(100 * busy / all) : "-"
    }
    BEGIN { printf "%-36s %7s %7s %10s %7s\n", "stage", "began", "took", "processors", "busy" }
    NR == 1 { first = $1; busy = $3; all = $4 }
    {
      name = $10; for (i = 11; i <= NF; i++) name = name " " $i
      if ($9) name = name ": FAILED"
      row(name, $1 - first, $2 - first, $7 + $8, $5 - $3, $6 - $4)
      own += $7 + $8
      if ($2 > last) { last = $2; endBusy = $5; endAll = $6 }
    }
    END { row("all", 0, last - first, own, endBusy - busy, endAll - all) }'
}

# leave: whatever the end is, tells the times, and last what failed.
leave() {
  local status=$?
  set +e
  trap '' INT TERM
  [ -z "$beside_pid" ] || join
  echo
  table
  if [ -s "$dir/failed" ]; then
    status=1
    echo
    cat "$dir/failed"
    echo FAILED
  fi
  rm -rf "$dir"
  exit "$status"
}

# stop PID: ends a process and all that it started.
stop() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do stop "$child"; done
  kill "$1" 2>/dev/null
}

appliances() {
  run 'binding' make --no-print-directory binding &&
    run 'vet, with libguestfs' go vet -tags guestfs ./agent/... &&
    run 'libguestfs' go test -tags guestfs -timeout 20m ./agent/guestfs/... &&
    run 'libguestfs on a node' go test -tags guestfs -timeout 20m -run 'TestNodeAppliance|TestServeAppliance' ./agent
}

fuzzing() { run 'fuzzing' idle env FUZZJOBS=1 test/fuzz.sh --seeds "$fuzztime"; }

trap leave EXIT
trap '[ -z "$beside_pid" ] || stop "$beside_pid"; exit 130' INT TERM
set -e
run 'packages' make --no-print-directory deps
run 'lint' make --no-print-directory lint
run 'programs of the cluster' make --no-print-directory cluster-programs
beside appliances
suite 'suites' go test -timeout 20m $(go list ./... | grep -v '/test/e2e$')
join
suite 'race detector' test/race.sh
beside fuzzing
suite 'cluster' go test -timeout 40m ./test/e2e
join
