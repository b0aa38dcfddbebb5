# vmfr: file-level restore from KubeVirt VM backups. `make` lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 10s
GOLANGCI := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: build ## build, serve the embedded sample and pull a file from it (needs Go alone)
	@test/demo.sh bin/vmfr-agent

# libguestfs' Go binding as Debian's golang-guestfs-dev installs it; see agent/guestfs/binding.
GUESTFS_GO ?= /usr/share/gocode/src/libguestfs.org/guestfs/guestfs.go

.PHONY: build
build: $(if $(filter 1,$(GUESTFS)),agent-guestfs) ## build bin/vmfr-agent; GUESTFS=1: bin/vmfr-agent-guestfs, too (needs cgo, libguestfs-dev, golang-guestfs-dev)
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/vmfr-agent ./agent

.PHONY: controller
controller: ## build bin/vmfr-controller; HOLDER_IMAGE=... is the default of its --holder-image
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS) -X main.holderImage=$(HOLDER_IMAGE)' -o bin/vmfr-controller ./controller

.PHONY: agent-guestfs
agent-guestfs: binding ## build bin/vmfr-agent-guestfs, which vmfr-agent starts for libguestfs (needs what GUESTFS=1 needs)
	CGO_ENABLED=1 go build -tags guestfs -trimpath -ldflags '$(LDFLAGS)' -o bin/vmfr-agent-guestfs ./agent

.PHONY: binding
binding: ## link libguestfs' Go binding to where go.mod looks for it
	@test -f $(GUESTFS_GO) || { echo 'binding: $(GUESTFS_GO) is missing: install golang-guestfs-dev and libguestfs-dev' >&2; exit 1; }
	@ln -sf $(GUESTFS_GO) agent/guestfs/binding/guestfs.go

.PHONY: deps
deps: ## install the Debian packages that the tests use (root)
	@test/deps.sh test

.PHONY: manifests
manifests: ## generate deep copies, deploy/crds, docs/crds.md, the admission policies and deploy/install.yaml
	@test/manifests.sh .

.PHONY: cluster-programs
cluster-programs: ## build the Kubernetes programs that tests run into the user's cache (minutes, once)
	@go run ./test/cluster/build

.PHONY: cluster
cluster: cluster-programs ## start a Kubernetes node on this machine and tell how to use it (root; see docs/development.md)
	@go run ./test/cluster/node/nodectl up

.PHONY: cluster-down
cluster-down: ## end that node and remove all that is left of it
	@go run ./test/cluster/node/nodectl down

.PHONY: e2e
e2e: deps cluster-programs image-cache ## play the documentation's story on a real cluster, and break everything (root, 3 GB of memory; see docs/development.md)
	VMFR_TEST_REQUIRE=1 go test -timeout 40m -v -count 1 ./test/e2e -args $(E2E_FLAGS)

.PHONY: e2e-kind
e2e-kind: ## the same on a cluster of kind's, which needs Docker
	test/e2e/kind.sh $(E2E_FLAGS)

.PHONY: check
check: lint unit ## quick: lint, vet and unit tests

.PHONY: lint
lint: ## go vet, golangci-lint with the import rules, gofmt
	go vet ./...
	$(GOLANGCI) run ./...
	@test/manifests.sh --check
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'lint: run gofmt -w on these files' >&2; exit 1; }

.PHONY: unit
unit: ## all Go tests; those whose tools are missing are skipped
	go test ./...

.PHONY: test
test: ## install what is needed and run every test: lint, all suites, the race detector, fuzzing; tells how long each took
	@test/all.sh $(FUZZTIME)

.PHONY: race
race: ## the concurrent packages under the race detector
	test/race.sh

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 10s; give it 5m and more after a change to a parser) each
	test/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: build ## measure us against the kernel, guestmount and OpenSSH; writes docs/benchmarks.md (root, about 20 minutes)
	@test/deps.sh bench
	go run ./bench -agent bin/vmfr-agent -out docs

VARIANT ?= full
IMAGE_CACHE ?= $(or $(VMFR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vmfr)

.PHONY: image
image: ## build the container image IMAGE (default vmfr:VERSION); VARIANT=slim: without libguestfs; IMAGE_TOOL: podman, docker
	$(or $(IMAGE_TOOL),podman) build --target $(VARIANT) --build-arg VERSION=$(VERSION) -t $(or $(IMAGE),vmfr:$(VERSION)) .

.PHONY: image-local
image-local: build controller ## the same without a container tool, as the archive bin/vmfr-VARIANT.tar (root, Debian 12)
ifeq ($(VARIANT),full)
	@$(MAKE) --no-print-directory agent-guestfs
endif
	@deploy/image/local.sh $(VARIANT) bin bin/vmfr-$(VARIANT).tar $(VERSION)

.PHONY: image-cache
image-cache: deps ## fetch what tests need of Debian for images, into the user's cache (a minute, once; root)
	@IMAGE_CACHE=$(IMAGE_CACHE) deploy/image/local.sh slim
