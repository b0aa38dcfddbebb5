#!/usr/bin/env bash
# local.sh slim|full ARCHIVE VERSION: makes what the Dockerfile makes, of the programs in bin, without a
# container tool and a registry: in root directories of debootstrap's, with the machine's own sources
# of packages. ARCHIVE is for `podman load`, `docker load` or `ctr images import`; the image's name is
# printed. Needs root on Debian 12, debootstrap, Go, and for a while 1 GB of disk, for full 4 GB.
set -euo pipefail
[ $# = 3 ] || { echo "usage: $0 slim|full ARCHIVE VERSION" >&2; exit 2; }
variant=$1 archive=$2 version=$3
scripts=$(dirname "$(readlink -f "$0")")
[ "$(id -u)" = 0 ] || { echo 'local.sh: run it as root: it makes root directories' >&2; exit 1; }
[ "$variant" = slim ] || [ "$variant" = full ] || { echo "local.sh: $variant is neither slim nor full" >&2; exit 2; }
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" vmfr-image.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT

# The mount's propagation cannot be changed in a chroot, where it is private already.
propagation=private
mountpoint -q / || propagation=unchanged

# within ROOT COMMAND...: runs a command in a root directory, with mounts and processes of its own.
within() {
  # shellcheck disable=SC2016 # $1 is the inner shell's
  unshare --mount --pid --fork --kill-child --propagation "$propagation" bash -euc '
    root=$1; shift
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for d in run tmp; do mount -t tmpfs tmpfs "$root/$d"; done
    mkdir "$root/run/image"
    mount --bind "$1" "$root/run/image"; shift
    keep=(PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)
    for v in http_proxy https_proxy no_proxy; do [ -z "${!v:-}" ] || keep+=("$v=${!v}"); done
    exec chroot "$root" env -i "${keep[@]}" "$@"' within "$1" "$scripts" "${@:2}"
}

mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
echo "local.sh: a Debian 12 of ${mirror:=http://deb.debian.org/debian}" >&2
debootstrap --variant=minbase bookworm "$work/base" "$mirror" > "$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
: > "$work/base/etc/apt/sources.list"
cp -a /etc/apt/sources.list.d/. "$work/base/etc/apt/sources.list.d/"
[ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$work/base/etc/apt/"
cp -L /etc/resolv.conf /etc/hosts "$work/base/etc/"

root=$work/root
cp -a "$work/base" "$root"
echo 'local.sh: slim' >&2
within "$root" /run/image/install.sh slim
install -m 0755 bin/vmfr-agent bin/vmfr-controller "$root/"
options=(--name "vmfr-$variant" --label "org.opencontainers.image.title=vmfr" --label "org.opencontainers.image.licenses=Apache-2.0"
  --label "org.opencontainers.image.version=$version")
if [ "$variant" = full ]; then
  echo 'local.sh: full' >&2
  within "$root" /run/image/install.sh full
  echo "local.sh: libguestfs' appliance" >&2
  within "$work/base" /run/image/appliance.sh /appliance
  mkdir -p "$root/usr/lib/vmfr"
  mv "$work/base/appliance" "$root/usr/lib/vmfr/appliance"
  install -m 0755 bin/vmfr-agent-guestfs "$root/usr/lib/vmfr/"
  options+=(--env LIBGUESTFS_PATH=/usr/lib/vmfr/appliance)
fi
for d in dev proc run sys tmp; do find "$root/$d" -xdev -mindepth 1 -delete; done
: > "$root/etc/resolv.conf"; : > "$root/etc/hosts"
go run ./test/cluster/image/pack "${options[@]}" "$root" "$archive"
