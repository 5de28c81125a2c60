# The two commands are `make up` and `make test`; everything else is for those who work on Ferrokube.

DATA_DIR ?= $(HOME)/.ferrokube
PORT ?= 6443
# What a fresh Debian or Ubuntu lacks: a protobuf compiler to build the etcd client; for the tests an etcd to store in,
# and kubectl's home.
BUILD_PACKAGES := protobuf-compiler build-essential
TEST_PACKAGES := $(BUILD_PACKAGES) etcd-server

.PHONY: up test check bench build-packages test-packages

up: build-packages
	@echo "==> building (release); the first time takes some minutes"
	cargo build --release --package ferrokube
	@echo "==> starting the control plane on port $(PORT), data in $(DATA_DIR)"
	@echo "    in another terminal: kubectl --kubeconfig $(DATA_DIR)/kubeconfig get namespaces"
	./target/release/ferrokube up --data-dir $(DATA_DIR) --secure-port $(PORT)

test: test-packages check
	cargo test --workspace

check:
	cargo xtask check

# Measures this tree, a bare server as the machine's limit and, if REFERENCE names a kube-apiserver binary, that one on an etcd of its
# own, with the same work on loopback. Data goes under TMPDIR, which should be on a real disk. BENCH_FLAGS=--quick only tries it out.
bench: build-packages
	@$(if $(REFERENCE),./xtask/install-packages etcd-server openssl)
	cargo build --release --package ferrokube --package conformance
	cargo build --release --package apiserver --example store_rate
	./target/release/examples/store_rate
	./target/release/bench compare --ours target/release/ferrokube --bare target/release/bare --json target/bench.json \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(BENCH_FLAGS)

build-packages:
	@./xtask/install-packages $(BUILD_PACKAGES)

test-packages:
	@./xtask/install-packages $(TEST_PACKAGES)
