#!/usr/bin/env bash
# race.sh: what is concurrent, under the race detector. -short leaves out the slowest tables, which run without it.
set -euo pipefail
go test -race -short -timeout 20m ./agent/cache ./agent/extent ./agent/image ./agent/fsys/... ./agent/tree ./fusefs ./sshd/... ./agent/audit ./api/files ./agent/worker
