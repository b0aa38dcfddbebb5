# shellcheck shell=bash
# apt.sh is read by the other scripts: installs packages of Debian 12, and removes what nobody
# needs of them at run time.
. /etc/os-release
[ "${ID:-}-${VERSION_ID:-}" = debian-12 ] || { echo "$0: this is ${PRETTY_NAME:-unknown}, not Debian 12" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
quiet=(-qq -o Dpkg::Use-Pty=0)
unneeded=(/usr/share/locale /usr/share/man /usr/share/info /usr/share/lintian /usr/share/doc /usr/share/bash-completion)

# install PACKAGE...: without recommendations, documentation and translations; licences stay.
install() {
  { printf 'path-exclude %s/*\n' "${unneeded[@]}"; echo 'path-include /usr/share/doc/*/copyright'; } > /etc/dpkg/dpkg.cfg.d/vmfr
  # Nothing is started here: Debian's own images say so, debootstrap's directories do not.
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d; }
  apt-get "${quiet[@]}" update
  apt-get "${quiet[@]}" install -y --no-install-recommends "$@" > /dev/null
}

# tidy removes what apt leaves behind and what differs from build to build, and every way to more
# rights by starting a program: nothing here needs one.
tidy() {
  apt-get clean
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/lock /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old \
    /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /etc/machine-id /etc/ssh/ssh_host_*
  find "${unneeded[@]}" ! -type d ! -name copyright -delete 2> /dev/null || true
  find "${unneeded[@]}" -depth -type d -empty -delete 2> /dev/null || true
  find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
}
