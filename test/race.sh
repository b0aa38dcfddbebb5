#!/usr/bin/env bash
# race.sh: what is concurrent, under the race detector. -short leaves out the slowest tables, which run without it. Of the
# file systems those tests run that read with many goroutines at once (fsystest.Run).
set -euo pipefail
go test -race -short -timeout 20m ./agent/cache ./agent/extent ./agent/image ./agent/tree ./fusefs ./sshd/... ./agent/audit ./agent/jail ./agent/session ./agent/holder ./agent/supervisor ./agent/latency ./api/files ./agent/worker
go test -race -short -timeout 20m -run 'Features|Fragmented|Geometries|Compressed|Security|LikeMtools' \
  ./agent/fsys/ext4 ./agent/fsys/xfs ./agent/fsys/ntfs ./agent/fsys/fat
