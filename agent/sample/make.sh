#!/usr/bin/env bash
# make.sh: makes the embedded sample (before.raw.zst, after.qcow2.zst, manifest.json) in this folder: the disk of a small
# web shop's VM, backed up the night before and the night after an incident.
#
#   disk    16 MiB, GPT: p1 BIOS boot (empty), p2 ext4 "shop-root"
#   before  raw; has the supplier agreement and the web server's right configuration
#   after   qcow2, compressed clusters; a faulty deployment deleted the one and changed the other
#
# Needs sgdisk, mke2fs, debugfs, qemu-img, zstd. All ids and times are fixed and nothing depends on who runs it, so the same
# tool versions give the same bytes. (mke2fs takes the order of directory entries from the folder it copies: files are
# made in one fixed order on one kind of file system, tmpfs.)
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$work"' EXIT

vm=webshop
deleted=srv/docs/contracts/supplier-agreement.txt
changed=etc/nginx/sites-available/shop.conf
root_uuid=5a0d5c1e-7e0f-4c52-9d5b-2f6a1c4e8b01
hash_seed=0c7e1b52-43d8-4f6a-8a57-91e0f3d2c6b4

# Pseudo-random but fixed numbers: the logs should look real and compress like real ones.
access_log() { # DAY LINES
  awk -v day="$1" -v lines="$2" 'BEGIN {
    split("/ /cart /catalog/tea /catalog/coffee /catalog/cups /checkout /static/shop.css /static/logo.svg /api/stock", url, " ")
    seed = day * 7919
    for (i = 0; i < lines; i++) {
      seed = (seed * 1103515245 + 12345) % 2147483648; a = int(seed / 65536)
      seed = (seed * 1103515245 + 12345) % 2147483648; b = int(seed / 65536)
      t = int(i * 86400 / lines)
      printf "192.0.2.%d - - [%02d/Apr/2026:%02d:%02d:%02d +0000] \"GET %s HTTP/1.1\" %d %d\n",
        a % 254 + 1, day, t / 3600, t / 60 % 60, t % 60, url[b % 9 + 1], (day == 12 && t > 51300) ? 502 : 200, a % 9000 + 200
    }
  }'
}

shop_conf() { # UPSTREAM_PORT
  cat <<CONF
upstream shop {
    server 127.0.0.1:$1;
    keepalive 16;
}

server {
    listen 443 ssl;
    server_name shop.example;
    ssl_certificate     /etc/ssl/shop/fullchain.pem;
    ssl_certificate_key /etc/ssl/shop/key.pem;
    client_max_body_size $2;
    location /static/ { root /srv/www; expires 1h; }
    location / { proxy_pass http://shop; }
}
CONF
}

fill() { # DIR before|after
  local d=$1 state=$2
  mkdir -p "$d"/{etc/nginx/sites-available,etc/nginx/sites-enabled,srv/docs/archive,srv/docs/contracts,srv/www/static,var/lib/shop,var/log/nginx,root,tmp}
  chmod 1777 "$d/tmp"
  chmod 700 "$d/root"
  printf 'NAME="Shop Linux"\nID=shoplinux\nVERSION_ID="1"\nPRETTY_NAME="Shop Linux 1"\n' >"$d/etc/os-release"
  echo "$vm" >"$d/etc/hostname"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n192.0.2.10\tshop.example\n' "$vm" >"$d/etc/hosts"
  printf 'UUID=%s / ext4 defaults 0 1\n' "$root_uuid" >"$d/etc/fstab"
  printf 'worker_processes auto;\nevents { worker_connections 512; }\nhttp {\n    access_log /var/log/nginx/access.log;\n    include /etc/nginx/sites-enabled/*;\n}\n' >"$d/etc/nginx/nginx.conf"
  if [ "$state" = before ]; then shop_conf 8080 20m; else shop_conf 8008 1m; fi >"$d/$changed"
  ln -s ../sites-available/shop.conf "$d/etc/nginx/sites-enabled/shop.conf"
  {
    echo "article,name,unit,price"
    for i in $(seq 1 120); do echo "A-$((1000 + i * 7)),article $i,piece,$((i * 37 % 90 + 5)).$((i * 53 % 90 + 10))"; done
  } >"$d/srv/docs/price-list.csv"
  ln "$d/srv/docs/price-list.csv" "$d/srv/docs/archive/price-list-2026-04.csv"
  printf 'How the shop is run\n\n1. Deployments: at 14:00, announced the day before.\n2. Backups: every night at 02:00.\n3. Contracts are in /srv/docs/contracts.\n' >"$d/srv/docs/handbook.txt"
  if [ "$state" = before ]; then
    {
      printf 'SUPPLIER AGREEMENT 2026-017\n\nbetween the shop and its supplier of tea and coffee.\n\n'
      for i in $(seq 1 40); do printf '%d. Article A-%d is delivered within %d days, in lots of %d pieces, at a discount of %d per cent.\n' "$i" "$((1000 + i * 7))" "$((i % 5 + 2))" "$((i * 10))" "$((i % 7 + 3))"; done
    } >"$d/$deleted"
  fi
  printf 'Terms of delivery: see the agreement of the supplier.\n' >"$d/srv/docs/contracts/terms.txt"
  printf '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="3"/></svg>\n' >"$d/srv/www/static/logo.svg"
  # A database file with holes: 6 MiB long, three blocks written.
  truncate -s 6M "$d/var/lib/shop/orders.db"
  for at in 0 2 5; do printf 'orders page %d\n' "$at" | dd of="$d/var/lib/shop/orders.db" bs=1M seek="$at" conv=notrunc status=none; done
  access_log 11 1500 >"$d/var/log/nginx/access.log.1"
  printf '2026-04-10T09:30:00Z deploy 41 done\n' >"$d/var/log/deploy.log"
  if [ "$state" = after ]; then
    access_log 12 1500 >"$d/var/log/nginx/access.log"
    printf '2026-04-12T14:15:00Z deploy 42 cleanup: removed %s\n2026-04-12T14:15:01Z deploy 42 wrote %s\n2026-04-12T14:15:02Z deploy 42 done\n' "/$deleted" "/$changed" >>"$d/var/log/deploy.log"
  fi
}

# mtime_of PATH STATE: every file is from the time before the first backup, except what the incident touched.
mtime_of() {
  case "$2:$1" in
    after:./var/log/deploy.log | after:./$changed | after:./srv/docs/contracts) echo 20260412141501 ;;
    after:./var/log/nginx/access.log) echo 20260412235959 ;;
    *) echo 20260410093000 ;;
  esac
}

owner_of() { # PATH: uid gid
  case "$1" in
    ./srv/www* | ./var/lib/shop* | ./var/log/nginx/*) echo 33 33 ;;
    ./srv/docs/*) echo 1000 1000 ;;
    *) echo 0 0 ;;
  esac
}

disk() { # STATE EPOCH
  local state=$1 img=$work/$1.raw dir=$work/$1
  export E2FSPROGS_FAKE_TIME=$2 SOURCE_DATE_EPOCH=$2
  fill "$dir" "$state"
  truncate -s 16M "$img"
  sgdisk --set-alignment=1 --disk-guid=8f3c2a10-5d4e-4b6f-a1c2-7e9d0b3f5a68 \
    --new=1:2048:4095 --typecode=1:ef02 --change-name=1:bios --partition-guid=1:1b9f3d27-64c0-4e5a-8d1b-0a7c5e2f9b34 \
    --new=2:4096:30719 --typecode=2:8300 --change-name=2:root --partition-guid=2:6e4a8c15-20b7-4d9e-b3f6-5c1d7a0e8f92 "$img" >/dev/null
  mke2fs -q -F -t ext4 -b 1024 -I 256 -L shop-root -U "$root_uuid" -E "offset=2097152,hash_seed=$hash_seed,root_owner=0:0" -d "$dir" "$img" 13312k
  # What mke2fs takes from the copying instead of from the plan: owners and all times. debugfs works on the partition alone.
  dd if="$img" of="$work/part" bs=1M skip=2 count=13 status=none
  (cd "$dir" && find . | sort) | while read -r p; do
    read -r uid gid < <(owner_of "$p")
    t=$(mtime_of "$p" "$state")
    for f in atime mtime ctime crtime; do echo "sif /${p#./} $f $t"; echo "sif /${p#./} ${f}_extra 0"; done
    echo "sif /${p#./} uid $uid"
    echo "sif /${p#./} gid $gid"
  done >"$work/times"
  for f in atime mtime ctime crtime; do echo "sif /lost+found $f 20260410093000"; done >>"$work/times"
  echo "ea_set /srv/docs/handbook.txt user.classification internal" >>"$work/times"
  debugfs -w -f "$work/times" "$work/part" >/dev/null 2>"$work/debugfs.log"
  grep -v '^debugfs 1' "$work/debugfs.log" >&2 && exit 1
  e2fsck -fn "$work/part" >/dev/null 2>&1
  dd if="$work/part" of="$img" bs=1M seek=2 conv=notrunc status=none
}

sums() { # STATE: the manifest's lines of one disk
  (cd "$work/$1" && find . -type f | sort | while read -r p; do
    printf '      "/%s": "%s"\n' "${p#./}" "$(sha256sum <"$p" | cut -d' ' -f1)"
  done | sed '$!s/$/,/')
}

disk before 1775959200 # 2026-04-12T02:00:00Z
disk after 1776045600  # 2026-04-13T02:00:00Z
qemu-img convert -q -f raw -O qcow2 -c "$work/after.raw" "$work/after.qcow2"
zstd -q -19 -f "$work/before.raw" -o "$here/before.raw.zst"
zstd -q -19 -f "$work/after.qcow2" -o "$here/after.qcow2.zst"
cat >"$here/manifest.json" <<JSON
{
  "vm": "$vm",
  "deleted": "/$deleted",
  "changed": "/$changed",
  "images": [
    {"backup": "nightly-0412", "disk": "rootdisk", "format": "raw", "timestamp": "2026-04-12T02:00:00Z", "file": "before.raw.zst",
     "size": $(stat -c %s "$work/before.raw"), "sha256": {
$(sums before)
    }},
    {"backup": "nightly-0413", "disk": "rootdisk", "format": "qcow2", "timestamp": "2026-04-13T02:00:00Z", "file": "after.qcow2.zst",
     "size": $(stat -c %s "$work/after.qcow2"), "sha256": {
$(sums after)
    }}
  ]
}
JSON
ls -l "$here"/*.zst "$here/manifest.json"
