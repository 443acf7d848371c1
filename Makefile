# Every target is explained by `make help`. CARGO_TARGET_DIR and MILLRACE_CACHE are honoured.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PROFILE ?= ci
CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/$(PROFILE)/millrace-dataplane

.PHONY: help demo run test check generate bench engine build fmt clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

bench: ## Print figures of the release build: start-up and idle memory
	@$(CARGO) build --quiet --release --package millrace-dataplane --package millrace-bench
	@$(or $(CARGO_TARGET_DIR),target)/release/millrace-bench

engine: ## Fetch the ClickHouse engine library into the cache
	@scripts/engine-library.sh

build: ## Build the data plane
	@$(CARGO) build --quiet --profile $(PROFILE) --package millrace-dataplane

fmt: ## Format the code
	@$(CARGO) fmt --all

clean: ## Remove build output (the caches outside the checkout stay)
	@$(CARGO) clean
