# make alone prints this help. CI calls .ci/run, which calls these targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
GOLANGCI_VERSION := v2.15.0
GOLANGCI := .cache/bin/golangci-lint-$(GOLANGCI_VERSION)
KUBEVALIDATE := .cache/bin/kubectl-validate-v0.0.4
ENGINE_FETCH := internal/store/embedded/engine/fetch.sh
FUZZTIME ?= 10s
# What tests may not skip for want of.
REQUIRE ?= engine,nats,cc,jsclient
OUT ?= out
# NVIDIA's header marks functions as deprecated that the binding wraps and nobody here calls.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations
# Which of Debian's kernels test-kernels runs; empty: all.
KERNELS ?=
BUNDLES ?= $(wildcard ../shared/bundles/*)
# What `flopwatch up --fake-gpus` needs; a host without a C compiler does without.
STUB := $(if $(shell command -v gcc),stub,no-stub)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: binaries engine $(STUB) ## all commands and the embedded ClickHouse engine, to bin/

.PHONY: binaries
binaries: ## all commands to bin/: static, but for flopwatch-nvml, which loads NVIDIA's library
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...
	@# Never -z now: every function of the library binds when it is first called, if it is there at all.
	@command -v "$${CC:-gcc}" > /dev/null || { echo "no C compiler: bin/flopwatch-nvml reads no GPUs, and says so" >&2; exit 0; }; set -x; \
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags="-s -w -extldflags=-Wl,-z,lazy" -o bin/flopwatch-nvml ./cmd/flopwatch-nvml

.PHONY: stub
stub: ## fake GPUs: a libnvidia-ml.so.1 of our own, to bin/stub (needs gcc)
	@command -v gcc > /dev/null || { echo "make stub needs gcc and the C library's headers (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }
	$(GO) run agent/gpu/nvmlstub/mkstub.go bin/stub

.PHONY: no-stub
no-stub:
	@echo "gcc is missing: bin/stub is not built, so there are no fake GPUs (Debian: apt-get install gcc libc6-dev)" >&2

.PHONY: engine
engine: ## the embedded ClickHouse engine: an npm package of pinned version and digest
	bash $(ENGINE_FETCH)

.PHONY: jsclient
jsclient: ## ClickHouse's JavaScript client for the tests: an npm package of pinned version and digest
	@sh internal/store/embedded/jsclient/fetch.sh

.PHONY: demo
demo: build ## build, then the main job on the two recordings that the project ships
	bin/flopwatch demo

.PHONY: test
test: engine jsclient ## every test, against the real embedded servers; ends with what was skipped and why
	FLOPWATCH_REQUIRE=$(REQUIRE) $(GO) test -timeout 25m -json ./... | $(GO) run ./internal/testenv/skips

# DRAWN: all, FAMILY or FAMILY/N. DRAWN_FLAGS: for instance -draws 6 -seed 100 -drawn-answers DIR -drawn-json FILE.
DRAWN ?= all

.PHONY: drawn
drawn: ## the detector on recordings whose every constant is drawn, a row a family (DRAWN=all DRAWN_FLAGS="-draws 3")
	$(GO) test -count=1 -v -timeout 60m -run '^TestDrawn$$' ./detector -drawn $(DRAWN) $(DRAWN_FLAGS) | grep -v '^=== \|^ *--- PASS'

CALIBRATION_DRAWS ?= 4

.PHONY: calibration
calibration: ## how sure the classes are, anew from drawn recordings: prints what was said and what was so, writes detector/workload/calibration.json (CALIBRATION_DRAWS=4)
	$(GO) test -count=1 -v -timeout 60m -run '^TestCalibrate$$' ./detector/workload -calibrate calibration.json -calibrate-draws $(CALIBRATION_DRAWS) | grep -v '^=== \|^ *--- PASS'

.PHONY: race
race: engine jsclient ## the tests under the race detector, the longest left out (needs a C compiler)
	FLOPWATCH_REQUIRE=$(REQUIRE) CGO_ENABLED=1 $(GO) test -race -short -timeout 30m -json ./... | $(GO) run ./internal/testenv/skips

.PHONY: distributed
distributed: engine ## the store's tests on Distributed tables: an engine that is a cluster of one shard (half a minute)
	FLOPWATCH_REQUIRE=$(REQUIRE) $(GO) test -count=1 -tags distributed -run 'Cluster|Distributed' ./internal/store

.PHONY: generate
generate: ## the kernel's programs anew, from bpf/ (needs clang-16 and llvm-16)
	bash bpf/gen/generate.sh

.PHONY: test-kernels
test-kernels: ## the kernel's tests in Debian's kernels 5.10, 6.1 and 6.12 under QEMU (KERNELS="6.1"; fetches them)
	bash internal/testenv/kernels/run.sh .cache/kernels $(KERNELS)

.PHONY: lint
lint: $(GOLANGCI) ## gofmt, go vet, golangci-lint
	@unformatted=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags distributed ./internal/store
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

# BENCH_ROWS are the GPU rows of each part, BENCH_PROFILE is a file for the collector's CPU profile.
.PHONY: bench-ingest
bench-ingest: engine ## CPU a GPU row, NATS to ClickHouse: the collector, a plain Go reference, the limit (BENCH_ROWS=480000)
	$(GO) test -run '^$$' -bench BenchmarkIngest -benchtime 1x -timeout 60m ./collector

OUTAGE_ROWS ?= 1000000

.PHONY: outage
outage: engine ## the store is away while OUTAGE_ROWS (1000000) come: the collector's memory, and that nothing is lost
	OUTAGE_ROWS=$(OUTAGE_ROWS) $(GO) test -count=1 -v -timeout 30m -run '^TestLongOutage$$' ./collector
	FLOPWATCH_CHAOS=1 $(GO) test -count=1 -timeout 30m -run '^(TestStopAtStep|TestKill)$$' ./collector

SCALE_GPUS ?= 1000,10000,100000
SCALE_HOURS ?= 24

.PHONY: bench-detector
bench-detector: ## a day of minute cells of fleets of SCALE_GPUS (1000,10000,100000) judged: CPU, memory, and how they grow (SCALE_HOURS=24); detector/SCALE.md
	FLOPWATCH_SCALE_GPUS=$(SCALE_GPUS) FLOPWATCH_SCALE_HOURS=$(SCALE_HOURS) $(GO) test ./detector -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 3h

# --markdown: the table as README.md has it.
SCORE_AS ?= --table

.PHONY: score
score: build ## replay every recording in BUNDLES and print one line each against its labels
	@pairs=(); for b in $(BUNDLES); do \
	  if [ -f "$$b/truth.json" ] && [ -f "$$b/manifest.json" ]; then \
	    dir=$(OUT)/$$(basename "$$b"); rm -rf "$$dir"; mkdir -p $(OUT); \
	    echo "replay $$b"; bin/flopwatch replay "$$b" --out "$$dir" < /dev/null > "$$dir.log" 2>&1 || { tail -n 20 "$$dir.log"; exit 1; }; \
	    pairs+=("$$b" "$$dir"); \
	  fi; \
	done; bin/flopwatch score $(SCORE_AS) "$${pairs[@]}"

.PHONY: calibrate
calibrate: binaries ## how far probabilities and intervals can be trusted, over what make score left in OUT
	@pairs=(); for b in $(BUNDLES); do \
	  if [ -f "$$b/truth.json" ] && [ -f "$(OUT)/$$(basename "$$b")/runs.jsonl" ]; then pairs+=("$$b" "$(OUT)/$$(basename "$$b")"); fi; \
	done; [ "$${#pairs[@]}" -gt 0 ] || { echo "no answers in $(OUT): make score first" >&2; exit 1; }; bin/flopwatch calibrate "$${pairs[@]}"

# What the agent costs; WINDOW is how long to measure. What rivals.sh cannot bring is left out.
WINDOW ?= 120s
MINUTES ?= 30
RIVALS ?= .cache/rivals

.PHONY: bench-agent
bench-agent: binaries stub ## what agent and child cost on 8 fake GPUs, side by side with rivals (WINDOW=120s)
	sh internal/benchagent/rivals.sh $(RIVALS)
	$(GO) run ./internal/benchagent bench -window $(WINDOW) -rivals $(RIVALS) -out $(OUT)

.PHONY: soak-agent
soak-agent: binaries stub ## MINUTES (30) of the agent with faults on fake GPUs: does memory, or anything, grow?
	$(GO) run ./internal/benchagent soak -minutes $(MINUTES) -out $(OUT)

# Faults on a small fleet of real processes: their number, and that of the first. ONLY="kill": kinds
# that begin so. PICK="3:kill broker,17:partition": these, by number and kind. LIST=1: says which, makes none.
FAULTS ?= 200
SEED ?= 1
ONLY ?=
PICK ?=
LIST ?=
AGENTS ?= 3
ROUND ?= 25
WORLDS ?= 3
APART ?=
CHAOS_MINUTES ?= 45

.PHONY: chaos
chaos: binaries engine stub ## FAULTS (200) faults from SEED (1) on, CHAOS_MINUTES (45) at most: is everything stored once? (root: partitions and full disks too)
	$(GO) build -o .cache/chaos ./internal/chaos/cmd
	.cache/chaos -faults $(FAULTS) -seed $(SEED) -only "$(ONLY)" -pick "$(PICK)" -agents $(AGENTS) -round $(ROUND) -worlds $(WORLDS) -minutes $(CHAOS_MINUTES) $(if $(APART),-apart=$(APART)) $(if $(LIST),-list) -out $(OUT)/chaos

.PHONY: ceiling
ceiling: binaries engine ## how many GPUs this machine's broker, engine and collector bear: a simulated fleet that grows (10 to 20 minutes)
	rm -rf $(OUT)/ceiling
	bin/flopwatch loadgen --local $(OUT)/ceiling --find-ceiling --nodes 200

# What samples take on disk, and what analysts' questions cost. SESSIONS has recordings of real GPUs; ROWS is the size of the fleet's day.
SESSIONS ?=
ROWS ?= 100000000

.PHONY: bench-store
bench-store: engine ## bytes a value and time of each recipe over ROWS (100,000,000) samples (SESSIONS=dir of *_telemetry.csv; some 4 GB of disk)
	@test -n "$(SESSIONS)" || { echo "bench-store needs SESSIONS=DIR with recordings of real GPUs: internal/store/CODECS.md says which" >&2; exit 1; }
	@mkdir -p $(OUT)
	CGO_ENABLED=0 $(GO) build -o $(OUT)/benchstore ./internal/store/benchstore
	$(OUT)/benchstore codecs -sessions "$(SESSIONS)"
	$(OUT)/benchstore fleet -sessions "$(SESSIONS)" -rows $(ROWS)

.PHONY: install
install: ## what `make build` made: binaries, units, configuration (DESTDIR, PREFIX, SYSCONFDIR, COMPONENTS; deploy/README.md)
	@BUILD="$(CURDIR)/bin" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" COMPONENTS="$(COMPONENTS)" bash deploy/install.sh install

.PHONY: uninstall
uninstall: ## remove what install put there; data and edited configuration stay
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" bash deploy/install.sh uninstall

.PHONY: manifests
manifests: $(KUBEVALIDATE) ## check the Kubernetes manifests against Kubernetes' own schemas
	@$(KUBEVALIDATE) deploy/kubernetes/daemonset.yaml deploy/kubernetes/secret.yaml
	@$(GO) -C deploy/kubernetes/validate run ./merge ../daemonset.yaml ../kernel.yaml > .cache/kernel-merged.yaml
	@$(KUBEVALIDATE) .cache/kernel-merged.yaml

# A module of its own pins it: go.mod of the product knows nothing of Kubernetes.
$(KUBEVALIDATE): deploy/kubernetes/validate/go.sum
	@mkdir -p $(@D)
	$(GO) -C deploy/kubernetes/validate build -trimpath -o $(CURDIR)/$@ sigs.k8s.io/kubectl-validate

.PHONY: clean
clean: ## remove what was built; the caches of Go and npm stay
	rm -rf bin .cache $(OUT)
