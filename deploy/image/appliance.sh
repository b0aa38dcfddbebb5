#!/usr/bin/env bash
# appliance.sh DIR: makes libguestfs' fixed appliance in DIR, of Debian 12's packages, so that nothing
# is built, and no kernel needed, where it is started (libguestfs-make-fixed-appliance(1)).
# LIBGUESTFS_PATH names such a folder. Needs about 1.5 GB for a while.
set -euo pipefail
dir=${1:?usage: $0 DIR}
. "$(dirname "$(readlink -f "$0")")/apt.sh"
# The kernel for clouds reads btrfs, f2fs, exFAT, squashfs, LVM, RAID and LUKS; the usual one is four
# times as large.
install libguestfs0 supermin linux-image-cloud-amd64 e2fsprogs
build=$(mktemp -d)
supermin --build --format ext2 --size 4G --host-cpu x86_64 -o "$build" /usr/lib/x86_64-linux-gnu/guestfs/supermin.d
# Only as large as what it holds and some room for what the appliance writes as it boots, which
# qemu keeps apart.
room=$((32 * 256)) # 32 MiB in blocks of 4 KiB
e2fsck -fy "$build/root" > /dev/null || [ $? = 1 ] # 1: it corrected something (e2fsck(8))
resize2fs -M "$build/root" > /dev/null 2>&1
blocks=$(dumpe2fs -h "$build/root" 2> /dev/null | sed -n 's/^Block count: *//p')
resize2fs "$build/root" "$((blocks + room))" > /dev/null 2>&1
mkdir -p "$dir"
for f in kernel initrd root; do cp --sparse=always -L "$build/$f" "$dir/$f"; done
chmod 0644 "$dir"/*
echo 'A fixed appliance of libguestfs, made of packages of Debian 12.' > "$dir/README.fixed" # libguestfs looks for this name
rm -rf "$build"
