#!/usr/bin/env bash
# kind.sh [FLAG...]: the suite on a cluster of kind (https://kind.sigs.k8s.io), which is made for it and removed
# afterwards. Needs Docker, kind and kubectl, and root for the machine's disks. What looks into the node is left
# out; clients come by kubectl port-forward. FLAGs are the suite's own.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
name=vmfr-e2e
for tool in docker kind kubectl; do
  command -v "$tool" > /dev/null || { echo "kind.sh: $tool is missing" >&2; exit 1; }
done
dir=$(mktemp -d)
trap 'kind delete cluster --name "$name" > /dev/null 2>&1 || true; rm -rf "$dir"' EXIT
kind create cluster --name "$name" --kubeconfig "$dir/kubeconfig" --wait 5m
make --no-print-directory image VARIANT=slim IMAGE_TOOL=docker IMAGE=vmfr:e2e
docker save -o "$dir/vmfr.tar" vmfr:e2e
VMFR_E2E_KUBECONFIG="$dir/kubeconfig" VMFR_TEST_REQUIRE=1 go test -timeout 40m -v -count 1 ./test/e2e -args \
  -install-with "kind load image-archive --name $name" -image-archive "$dir/vmfr.tar" -reach port-forward "$@"
