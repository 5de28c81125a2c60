# The two commands are `make up` and `make test`; everything else is for those who work on Ferrokube.

DATA_DIR ?= $(HOME)/.ferrokube
PORT ?= 6443
NODES ?= 1
# What a fresh Debian or Ubuntu lacks: a protobuf compiler and its standard definitions to build the etcd client; for the tests an etcd to store in,
# and kubectl's home.
BUILD_PACKAGES := protobuf-compiler libprotobuf-dev build-essential
# What nodes run their pods with.
NODE_PACKAGES := containerd runc containernetworking-plugins iptables nftables conntrack iproute2
# What the images of the conformance suite are made with.
IMAGE_PACKAGES := docker-registry skopeo mmdebstrap busybox-static python3 git
TEST_PACKAGES := $(BUILD_PACKAGES) $(NODE_PACKAGES) etcd-server busybox-static docker-registry skopeo
# Nodes need root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

CONFORMANCE_FLAGS = $(if $(FRESH),--fresh) $(if $(FOCUS),--focus '$(FOCUS)') $(if $(PROCESSES),--processes $(PROCESSES))

.PHONY: up down test check simulate bench bench-scale fuzz schemathesis compatibility conformance build-packages node-packages test-packages

up: build-packages node-packages
	@echo "==> building (release); the first time takes some minutes"
	cargo build --release --package ferrokube
	@echo "==> starting a cluster of $(NODES) node(s) on port $(PORT), data in $(DATA_DIR); Ctrl-C ends it"
	@echo "    in another terminal: kubectl --kubeconfig $(DATA_DIR)/kubeconfig get nodes"
	$(if $(filter 0,$(NODES)),,$(AS_ROOT)) ./target/release/ferrokube up --data-dir $(DATA_DIR) --secure-port $(PORT) --nodes $(NODES)

# Takes away what a killed cluster has left.
down:
	$(AS_ROOT) ./target/release/ferrokube down --data-dir $(DATA_DIR)

test: test-packages check
	cargo test --workspace
	@./xtask/kubectl-tests
	@./xtask/node-tests

check:
	cargo xtask check

# So many seeds, each a whole cluster on one thread with its troubles; what breaks is told with its seed, and `make simulate SEED=… SEEDS=1`
# runs one again.
simulate: SEED = 0
simulate: SEEDS = 1000
simulate:
	SEED=$(SEED) SEEDS=$(SEEDS) cargo test --release --package simulation --test seeds -- clusters_do --nocapture

# Measures this tree, a bare server as the machine's limit and, if REFERENCE names a kube-apiserver binary, that one on an etcd of its
# own, with the same work on loopback. Data goes under TMPDIR, which should be on a real disk. BENCH_FLAGS=--quick only tries it out.
bench: build-packages
	@$(if $(REFERENCE),./xtask/install-packages etcd-server openssl)
	cargo build --release --package ferrokube --package conformance --package apiserver --bins --example store_rate
	./target/release/examples/store_rate
	./target/release/bench compare --ours target/release/ferrokube --bare target/release/bare --json target/bench.json \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(BENCH_FLAGS)

# Measures what whole control planes take with 5,000 nodes and 50,000 pods: ours and, if REFERENCE names a folder with upstream's
# kube-apiserver, kube-controller-manager and kube-scheduler (`conformance/compatibility/build-upstream` builds the latter two), theirs on an
# etcd. Takes five minutes or more for each, and some gigabytes of memory and of disk under TMPDIR. BENCH_FLAGS as above.
bench-scale: build-packages
	@$(if $(REFERENCE),./xtask/install-packages etcd-server openssl)
	cargo build --release --package ferrokube --package conformance --bins
	./target/release/bench scale --ours target/release/ferrokube --json target/bench-scale.json \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(BENCH_FLAGS)

# One of fuzz/fuzz_targets under libFuzzer, for some seconds. The coverage that it steers by is had from the stable compiler.
fuzz: SECONDS = 60
fuzz:
	cd fuzz && mkdir -p corpus/$(TARGET) && RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
	  cargo run --release --target $$(rustc -vV | sed -n 's/host: //p') --bin $(TARGET) -- \
	  corpus/$(TARGET) -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048

# Random requests made of our OpenAPI documents: none may be answered with a 5xx. Needs Python.
schemathesis: SECONDS = 60
schemathesis: build-packages
	@./xtask/install-packages python3-venv
	cargo build --release --package ferrokube
	conformance/schemathesis/run target/release/ferrokube target/schemathesis $(SECONDS)

# Upstream's scheduler, controller manager, kubectl and Helm with our cluster. Needs Go and root.
compatibility: build-packages node-packages
	cargo build --package ferrokube
	conformance/compatibility/build-upstream target/upstream
	$(AS_ROOT) conformance/compatibility/run target/debug/ferrokube target/upstream

# The official conformance suite. A cluster of NODES nodes is started for it (root), or KUBECONFIG=… of this very command names one that runs
# already: the environment's does not count, since the suite is hard on a cluster. Needs Go; the
# first time takes a quarter of an hour before the first test. Runs what has not passed yet: FRESH=1 begins anew, FOCUS is a regular expression
# on names, PUBLISHED_IMAGES=1 pulls the published images instead of making stand-ins. Logs, reports and the ledger of somebody else's cluster
# go under target/conformance; conformance/ledger.md is ours.
conformance: NODES = 2
conformance: build-packages
	conformance/suite/build-tools target/conformance/tools
	cargo build --release --package conformance --bin conformance
ifeq ($(origin KUBECONFIG),command line)
	./target/release/conformance run --kubeconfig "$(KUBECONFIG)" --out target/conformance/other --ledger target/conformance/other/ledger.md $(CONFORMANCE_FLAGS)
else
	@./xtask/install-packages $(NODE_PACKAGES) $(IMAGE_PACKAGES)
	cargo build --release --package ferrokube
	$(AS_ROOT) ./target/release/conformance run --nodes $(NODES) --runtime target/conformance/tools/runtime --ledger conformance/ledger.md $(if $(PUBLISHED_IMAGES),--published-images) $(CONFORMANCE_FLAGS)
endif

node-packages:
	@$(if $(filter 0,$(NODES)),,./xtask/install-packages $(NODE_PACKAGES))

build-packages:
	@./xtask/install-packages $(BUILD_PACKAGES)

test-packages:
	@./xtask/install-packages $(TEST_PACKAGES)
