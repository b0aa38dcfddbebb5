#!/usr/bin/env bash
# demo.sh AGENT: serves the embedded sample, recovers a deleted document and compares a changed file over HTTPS with
# curl, and prints the commands to go on with. On a terminal it then serves until Ctrl-C; otherwise it ends.
set -euo pipefail
agent=${1:?usage: $0 path/to/vmfr-agent}
if ! command -v curl >/dev/null; then
  echo "demo: installing curl"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends curl >/dev/null
fi
dir=$(mktemp -d)
pid=
cleanup() {
  if [ -n "$pid" ]; then
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Free ports and a state of its own: a demo must not disturb anything that runs already.
mkfifo "$dir/ready"
"$agent" serve --sample --state "$dir/state" --listen-ssh 127.0.0.1:0 --listen-https 127.0.0.1:0 --json --log-level warn >"$dir/ready" &
pid=$!
read -r ready <"$dir/ready" || { echo "demo: the server did not start; see the line above" >&2; exit 1; }
field() { sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/" <<<"$ready"; }
url=$(field url) ca=$(field caFile) user=$(field user) password=$(field passwordFile)
fetch() { curl -sSf --cacert "$ca" --user "$user:$(cat "$password")" "$@"; }

echo "The sample: two backups of one small virtual machine, before and after an incident."
fetch "$url/files/README.txt" | sed 's/^/  /'
