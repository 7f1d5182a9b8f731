# make alone prints this help. CI calls .ci/run, which calls these targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
GOLANGCI_VERSION := v2.15.0
GOLANGCI := .cache/bin/golangci-lint-$(GOLANGCI_VERSION)
ENGINE_FETCH := internal/store/embedded/engine/fetch.sh
FUZZTIME ?= 10s
# What tests may not skip for want of.
REQUIRE ?= engine,nats
OUT ?= out
BUNDLES ?= $(wildcard ../shared/bundles/*)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: binaries engine ## all commands and the embedded ClickHouse engine, to bin/

.PHONY: binaries
binaries: ## all commands to bin/, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: engine
engine: ## the embedded ClickHouse engine: an npm package of pinned version and digest
	bash $(ENGINE_FETCH)

.PHONY: demo
demo: build ## build, then the main job on the two recordings that the project ships
	bin/flopwatch demo

.PHONY: test
test: engine ## every test, against the real embedded servers; ends with what was skipped and why
	FLOPWATCH_REQUIRE=$(REQUIRE) $(GO) test -json ./... | $(GO) run ./internal/testenv/skips

.PHONY: race
race: engine ## the tests under the race detector, the longest left out (needs a C compiler)
	FLOPWATCH_REQUIRE=$(REQUIRE) CGO_ENABLED=1 $(GO) test -race -short -timeout 30m -json ./... | $(GO) run ./internal/testenv/skips

.PHONY: lint
lint: $(GOLANGCI) ## gofmt, go vet, golangci-lint
	@unformatted=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GOLANGCI) config verify
	$(GOLANGCI) run ./...

$(GOLANGCI):
	@mkdir -p .cache/bin
	GOBIN=$$PWD/.cache/bin $(GO) install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv .cache/bin/golangci-lint $@

.PHONY: archtest
archtest: ## import directions and package comments
	$(GO) test -count=1 ./internal/archtest

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s)
	@grep -rEl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do \
	    echo "== $$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" < /dev/null; \
	  done; \
	done

.PHONY: bench
bench: engine ## every benchmark, once a line
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: score
score: build ## replay every recording in BUNDLES and print one line each against its labels
	@pairs=(); for b in $(BUNDLES); do \
	  if [ -f "$$b/truth.json" ] && [ -f "$$b/manifest.json" ]; then \
	    dir=$(OUT)/$$(basename "$$b"); rm -rf "$$dir"; mkdir -p $(OUT); \
	    echo "replay $$b"; bin/flopwatch replay "$$b" --out "$$dir" < /dev/null > "$$dir.log" 2>&1 || { tail -n 20 "$$dir.log"; exit 1; }; \
	    pairs+=("$$b" "$$dir"); \
	  fi; \
	done; bin/flopwatch score --table "$${pairs[@]}"

.PHONY: clean
clean: ## remove what was built; the caches of Go and npm stay
	rm -rf bin .cache $(OUT)
