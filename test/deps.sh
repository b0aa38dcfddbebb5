#!/usr/bin/env bash
# deps.sh test|bench: installs the Debian packages that the tests or the benchmarks use, where they are missing.
set -euo pipefail
test_packages=(attr acl curl debootstrap e2fsprogs etcd-server fdisk fuse3 gcc libc6-dev gdisk openssl libcap2-bin mount openssh-client openssh-server lftp rclone python3-paramiko ssh-audit procps
  b3sum cadaver chromium davfs2 libarchive-tools patch testssl.sh unzip python3
  dosfstools mtools ntfs-3g lvm2 btrfs-progs cryptsetup-bin exfatprogs f2fs-tools squashfs-tools qemu-utils rsync sshfs util-linux xfsprogs
  golang-guestfs-dev libguestfs-dev libguestfs-tools linux-image-cloud-amd64 mdadm qemu-system-x86 supermin zstd
  busybox-static containerd containernetworking-plugins iproute2 iptables nftables runc)
bench_packages=("${test_packages[@]}" nginx)
case "${1:-}" in
  test) want=("${test_packages[@]}") ;;
  bench) want=("${bench_packages[@]}") ;;
  *) echo "usage: $0 test|bench" >&2; exit 2 ;;
esac
missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "deps: these packages are missing, install them as root: ${missing[*]}" >&2
  exit 1
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Programs are wanted, not their services: none is to start now (containerd, etcd, sshd).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
