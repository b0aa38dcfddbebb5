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

# Free ports and a state folder of its own: a demo must not disturb anything that runs already.
mkfifo "$dir/ready"
"$agent" serve --sample --state "$dir/state" --listen-ssh 127.0.0.1:0 --listen-https 127.0.0.1:0 --json --log-level warn >"$dir/ready" &
pid=$!
read -r ready <"$dir/ready" || { echo "demo: the server did not start; see the line above" >&2; exit 1; }
field() { sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/" <<<"$ready"; }
url=$(field url) ca=$(field caFile) user=$(field user) password=$(field passwordFile) address=$(field address)
fetch() { curl -sSf --cacert "$ca" --user "$user:$(cat "$password")" "$@"; }
before=/backups/nightly-0412/rootdisk after=/backups/nightly-0413/rootdisk
document=/srv/docs/contracts/supplier-agreement.txt config=/etc/nginx/sites-available/shop.conf

echo
echo "Two backups of one small virtual machine are served, read-only. Between them a deployment"
echo "deleted $document and changed $config."
echo
echo "The newer backup has lost the document (HTTP $(curl -s -o /dev/null -w '%{http_code}' --cacert "$ca" --user "$user:$(cat "$password")" "$url/files$after$document")). From the older one:"
echo
fetch "$url/files$before$document" | tee "$dir/document" | sed -n '1,6s/^/    /p'
[ -s "$dir/document" ]
echo
echo "What changed in the configuration:"
echo
fetch "$url/files$before$config" >"$dir/before.conf"
fetch "$url/files$after$config" >"$dir/after.conf"
if diff -u --label "$before$config" --label "$after$config" "$dir/before.conf" "$dir/after.conf" | sed 's/^/    /'; then
  echo "demo: the two configurations should differ" >&2
  exit 1
fi
cat <<EOF

Pull files yourself while it runs:

    curl --cacert $ca -u "$user:\$(cat $password)" $url/files$before/etc/hosts
    sftp -P ${address##*:} -i $(field identityFile) -o UserKnownHostsFile=$(field knownHostsFile) $user@127.0.0.1

Your own images: $agent serve --disk BACKUP/DISK=IMAGE (see $agent serve --help)
EOF
if [ -t 0 ] && [ -t 1 ]; then
  echo
  echo "Serving until Ctrl-C."
  wait "$pid"
fi
