#!/usr/bin/env bash
# manifests.sh DIR|--check: generates what is made from api/v1alpha1, controller/plan and deploy
# into DIR, the repository's root; with --check into a temporary directory, and fails where the
# repository has something else.
set -euo pipefail
root=${1:?usage: $0 DIR|--check}
if [ "$root" = --check ]; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  cp -r deploy "$root/deploy"
fi
mkdir -p "$root/api/v1alpha1" "$root/deploy/crds" "$root/docs"
tool() { go tool -modfile=tools/manifests/go.mod "$@"; }
tool controller-gen object crd:maxDescLen=400 paths=./api/v1alpha1/... \
  output:object:dir="$root/api/v1alpha1" output:crd:dir="$root/deploy/crds"
log=$(tool crd-ref-docs --source-path=./api/v1alpha1 --config=api/v1alpha1/docs.yaml --renderer=markdown \
  --output-path="$root/docs/crds.md" 2>&1) || { echo "$log" >&2; exit 1; }
# into FILE COMMENT COMMAND...: writes what the command prints below a comment, or leaves the file.
into() {
  local file=$1 comment=$2 text
  shift 2
  text=$("$@")
  printf '%s\n%s\n' "$comment" "$text" > "$file"
}
kustomize() { go tool -modfile=tools/kustomize/go.mod kustomize "$@"; }
into "$root/deploy/base/session-policies.yaml" \
  '# Generated from controller/plan by make manifests: who may run things in the namespaces of sessions.' \
  go run ./controller policies
into "$root/deploy/install.yaml" \
  '# deploy/overlays/kubernetes, rendered by make manifests. Set your own image before you apply it.' \
  kustomize build "$root/deploy/overlays/kubernetes"
kustomize build "$root/deploy/overlays/openshift" > /dev/null
if [ "${1:-}" = --check ]; then
  for f in api/v1alpha1/zz_generated.deepcopy.go docs/crds.md deploy/crds/*.yaml deploy/base/session-policies.yaml deploy/install.yaml; do
    cmp -s "$root/$f" "$f" || { echo "lint: $f is not what its source gives: run make manifests" >&2; exit 1; }
  done
fi
