#!/usr/bin/env bash
# manifests.sh DIR|--check: generates what is made from api/v1alpha1 into DIR, the repository's
# root; with --check into a temporary directory, and fails where the repository has something else.
set -euo pipefail
root=${1:?usage: $0 DIR|--check}
if [ "$root" = --check ]; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
fi
mkdir -p "$root/api/v1alpha1" "$root/deploy/crds" "$root/docs"
tool() { go tool -modfile=tools/manifests/go.mod "$@"; }
tool controller-gen object crd:maxDescLen=400 paths=./api/v1alpha1/... \
  output:object:dir="$root/api/v1alpha1" output:crd:dir="$root/deploy/crds"
log=$(tool crd-ref-docs --source-path=./api/v1alpha1 --config=api/v1alpha1/docs.yaml --renderer=markdown \
  --output-path="$root/docs/crds.md" 2>&1) || { echo "$log" >&2; exit 1; }
if [ "${1:-}" = --check ]; then
  for f in api/v1alpha1/zz_generated.deepcopy.go docs/crds.md deploy/crds/*.yaml; do
    cmp -s "$root/$f" "$f" || { echo "lint: $f is not what api/v1alpha1 gives: run make manifests" >&2; exit 1; }
  done
fi
