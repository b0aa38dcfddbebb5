#!/usr/bin/env bash
# install.sh slim|full|build: installs what a stage of the image takes from Debian 12. The Dockerfile
# and local.sh run it as root in the stage's root directory.
#   slim   what the agent's jail and the controller need
#   full   besides, what libguestfs needs to start its appliance, which appliance.sh makes
#   build  what the build of the agent with libguestfs needs
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/apt.sh"
case "${1:?usage: $0 slim|full|build}" in
  slim)
    # rsync runs in the jail; object storage is reached by certificates of public authorities.
    install rsync ca-certificates
    ;;
  full)
    # What libguestfs.so itself links, and the programs that it runs: qemu, and qemu-img for overlays.
    install qemu-system-x86 qemu-utils libfuse2 libjansson4 libpcre2-8-0 libselinux1 libtirpc3 libvirt0 libxml2
    # The library alone. What else its package depends on is what supermin makes an appliance of, about
    # 600 MB, and the appliance has it. A list of packages still names it, for scanners of images.
    download=$(mktemp -d)
    (cd "$download" && apt-get "${quiet[@]}" download libguestfs0)
    dpkg --force-depends -i "$download"/libguestfs0_*.deb > /dev/null
    rm -rf "$download"
    ;;
  build)
    install golang-guestfs-dev libguestfs-dev
    ;;
  *) echo "install.sh: $1 is none of slim, full and build" >&2; exit 2 ;;
esac
tidy
