# Every target is explained by `make help`. CARGO_TARGET_DIR and MILLRACE_CACHE are honoured.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PROFILE ?= ci
CARGO ?= cargo
# A text as one word of the shell.
quoted = '$(subst ','\'',$(1))'
BIN := $(or $(CARGO_TARGET_DIR),target)/$(PROFILE)/millrace-dataplane

.PHONY: help demo run test check generate bench engine build fmt clean cluster cluster-run cluster-down images operator faults

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build engine ## Run everything in one process, send sample events, compare what is stored (ONCE=1: exit with the verdict)
	@$(BIN) demo manifests/examples/shop $(if $(ONCE),--once,)

run: build engine ## Serve the resources in DIR (default: the shop example) until Ctrl-C
	@$(BIN) standalone $(or $(DIR),manifests/examples/shop)

test: ## Everything: check, the contract on the real engine, kill -9 of the whole, the demo
	@scripts/test all

check: ## The fast loop: format, lints, crate edges, tests that need no service
	@scripts/test check

generate: ## Rewrite generated files: CRDs, goldens, the access table
	@scripts/generate

faults: engine ## Run the real processes under RUNS seeded faults (SEED=first), compare what was acknowledged with what is stored
	@$(CARGO) build --quiet --profile $(PROFILE) --workspace --all-features --bins --lib
	@$(or $(CARGO_TARGET_DIR),target)/$(PROFILE)/faults --runs $(or $(RUNS),1) --seed $(or $(SEED),0) $(FAULTS)

bench: ## Print figures of the release build: standalone; ingest without Kafka; freshness and cost of the load; the operator with 1000 Apps (root)
	@$(CARGO) build --quiet --release --package millrace-dataplane --package millrace-bench
	@$(or $(CARGO_TARGET_DIR),target)/release/millrace-bench standalone
	@$(or $(CARGO_TARGET_DIR),target)/release/millrace-bench load
	@MILLRACE_CLUSTER=bench e2e/cluster/on-api-server $(or $(CARGO_TARGET_DIR),target)/release/millrace-bench operator $(BENCH)
	@$(or $(CARGO_TARGET_DIR),target)/release/millrace-bench ingest-memory

engine: ## Fetch the ClickHouse engine library into the cache
	@scripts/engine-library.sh

build: ## Build the data plane
	@$(CARGO) build --quiet --profile $(PROFILE) --package millrace-dataplane

cluster: build operator ## Bring up a real Kubernetes with Kafka, Postgres, Redis and the engine, images and charts in it (root)
	@e2e/cluster/up
	@e2e/cluster/install-charts
	@echo "make cluster-run CMD='kubectl get pods -A'   runs a command in it; e2e/cluster/status shows addresses"
	@echo "make cluster-down                           leaves nothing; more in e2e/cluster/README.md"

cluster-run: ## Run CMD in the network of the test cluster, with its KUBECONFIG
	@e2e/cluster/run bash -c $(call quoted,$(value CMD))

cluster-down: ## End the test cluster; nothing stays but the cache
	@e2e/cluster/down

images: build operator ## Build the container images of operator and data plane, and import them if the test cluster is up
	@e2e/cluster/images

operator:
	@$(CARGO) build --quiet --profile $(PROFILE) --package millrace-operator

fmt: ## Format the code
	@$(CARGO) fmt --all

clean: ## Remove build output (the caches outside the checkout stay)
	@$(CARGO) clean
