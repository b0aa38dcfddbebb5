#!/usr/bin/env bash
# local.sh slim|full PROGRAMS ARCHIVE VERSION: makes what the Dockerfile makes, of the programs in the folder
# PROGRAMS, without a container tool and a registry: in root directories of debootstrap's, from the machine's own
# mirrors of Debian. ARCHIVE is for `podman load`, `docker load` or `ctr images import`; the image's name is
# printed. Needs root on Debian 12, debootstrap, Go, and for a while 1 GB of disk, for full 4 GB.
#
# With IMAGE_CACHE=DIR what comes from Debian is kept in that folder and used again until these scripts change.
# That is for tests: what is shipped has the packages of its day. `local.sh slim|full` alone fills the folder.
set -euo pipefail
[ $# = 4 ] || { [ $# = 1 ] && [ -n "${IMAGE_CACHE:-}" ]; } || { echo "usage: $0 slim|full PROGRAMS ARCHIVE VERSION" >&2; exit 2; }
variant=$1 programs=${2:-} archive=$(realpath -m "${3:-.}") version=${4:-}
scripts=$(dirname "$(readlink -f "$0")")
[ "$(id -u)" = 0 ] || { echo 'local.sh: run it as root: it makes root directories' >&2; exit 1; }
[ "$variant" = slim ] || [ "$variant" = full ] || { echo "local.sh: $variant is neither slim nor full" >&2; exit 2; }
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" vmfr-image.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

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

# sources prints the machine's sources of Debian 12's packages, and of nobody else's; the archive itself first.
sources() {
  local suite
  for suite in bookworm bookworm-updates bookworm-security; do
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' "Codename: $suite"
  done
}

# debian makes the root directory with everything but the programs.
debian() {
  local sources base=$work/base
  sources=$(sources)
  [ -n "$sources" ] || sources='deb http://deb.debian.org/debian bookworm main'
  echo "local.sh: a Debian 12 of $(awk '{ print $2; exit }' <<< "$sources")" >&2
  debootstrap --variant=minbase bookworm "$base" "$(awk '{ print $2; exit }' <<< "$sources")" > "$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
  echo "$sources" > "$base/etc/apt/sources.list"
  cp -L /etc/resolv.conf /etc/hosts "$base/etc/"
  cp -a "$base" "$root"
  echo 'local.sh: slim' >&2
  within "$root" /run/image/install.sh slim
  if [ "$variant" = full ]; then
    echo 'local.sh: full' >&2
    within "$root" /run/image/install.sh full
    echo "local.sh: libguestfs' appliance" >&2
    within "$base" /run/image/appliance.sh /appliance
    mkdir -p "$root/usr/lib/vmfr"
    mv "$base/appliance" "$root/usr/lib/vmfr/appliance"
  fi
  rm -rf --one-file-system "$base"
  for d in dev proc run sys tmp; do find "$root/$d" -xdev -mindepth 1 -delete; done
  # Nothing of this machine: the public mirrors, as Debian's own images have them.
  : > "$root/etc/resolv.conf"; : > "$root/etc/hosts"; rm -f "$root/etc/hostname"
  printf 'deb http://deb.debian.org/debian%s main\n' ' bookworm' ' bookworm-updates' '-security bookworm-security' > "$root/etc/apt/sources.list"
}

if [ -n "${IMAGE_CACHE:-}" ]; then
  mkdir -p "$IMAGE_CACHE"
  kept=$IMAGE_CACHE/image-$variant-$(cat "$scripts"/*.sh | sha256sum | cut -c1-16).tar
  if [ ! -e "$kept" ]; then
    debian
    tar -C "$root" --numeric-owner -cf "$kept.$$" .
    mv "$kept.$$" "$kept"
    find "$IMAGE_CACHE" -maxdepth 1 -name "image-$variant-*.tar" ! -path "$kept" -delete
  elif [ $# = 4 ]; then
    mkdir "$root"
    tar -C "$root" --numeric-owner -xpf "$kept"
  fi
  [ $# = 4 ] || exit 0
else
  debian
fi
install -m 0755 "$programs"/vmfr-agent "$programs"/vmfr-controller "$root/"
options=(--name "vmfr-$variant" --cmd /vmfr-agent --cmd --help --label "org.opencontainers.image.version=$version"
  --label org.opencontainers.image.title=vmfr --label org.opencontainers.image.licenses=Apache-2.0
  --label 'org.opencontainers.image.description=File-level restore from KubeVirt VM backups: agent and controller')
if [ "$variant" = full ]; then
  install -m 0755 "$programs/vmfr-agent-guestfs" "$root/usr/lib/vmfr/"
  options+=(--env LIBGUESTFS_PATH=/usr/lib/vmfr/appliance)
fi
cd "$scripts/../.." # the module
go run ./test/cluster/image/pack "${options[@]}" "$root" "$archive"
