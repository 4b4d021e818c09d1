# One entry for people and for CI. Every target sets up what it needs; nothing has to be run before it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build static demo test test-long twins ci test-kernels kernels bench bench-full bench-micro fuzz interleave soak clean

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Runs a command with the compilers that setup found, TANDEM_BPF_RUSTC and TANDEM_BPF_LINKER in its environment.
WITH := scripts/with-toolchain.sh

help:
	@echo 'make setup      install what is missing: compilers, libraries, nginx, iperf3, curl, tshark'
	@echo 'make build      $(TARGET_DIR)/release/tandem'
	@echo 'make static     the same, one file without any library: to copy to reals, routers, clients, older hosts'
	@echo 'make demo       the five-minute proof: real HTTP, TCP and UDP traffic, balanced in the kernel and in userspace (root)'
	@echo 'make test       format, lints, documentation, all tests; as root the kernel tests are required'
	@echo 'make test-long  the same tests at full length (millions of frames)'
	@echo 'make twins      FRAMES=100000000 generated frames through both seats on all cores, by SEED=1 (root; a quarter of an hour)'
	@echo 'make kernels    fetch four stock kernels of Debian and QEMU, for the next (root; 150 MB to download, 140 MB stay)'
	@echo 'make test-kernels  our programs on those kernels, and their tunnel devices as the judge of our frames'
	@echo 'make ci         make test, and test-kernels on what can be fetched meanwhile: what CI runs'
	@echo 'make bench      kernel XDP against AF_XDP: one report, every number with its evidence (root, two cores, ten minutes)'
	@echo 'make bench-full the same with all scenarios and ten million flows (hours)'
	@echo 'make bench-micro  the core alone, against rivals, in detail'
	@echo 'make fuzz       coverage-guided fuzzing, TIME=60 seconds for each TARGET (default: all)'
	@echo 'make interleave  readers and writers of the tables, interleaved at random and exhaustively (TANDEM_LONG=1: for minutes)'
	@echo 'make soak       traffic, reloads, switches, kills and floods at random, for TIME=600 seconds, by SEED=1 (root)'
	@echo 'make clean      remove $(TARGET_DIR)/; the linker and the kernels in ~/.cache/tandem stay'

setup:
	@scripts/setup.sh

build: setup
	@$(WITH) cargo build --release --locked

static: setup
	@$(WITH) scripts/static.sh

demo:
	@[ "$$(id -u)" = 0 ] || { echo 'make demo: needs root, for network namespaces and XDP; run it as root' >&2; exit 1; }
	@$(MAKE) --no-print-directory build
	@$(TARGET_DIR)/release/tandem demo

test: setup
	@$(WITH) scripts/test.sh

test-long: setup
	@$(WITH) scripts/test.sh --long

twins:
	@[ "$$(id -u)" = 0 ] || { echo 'make twins: needs root, to load BPF programs; run it as root' >&2; exit 1; }
	@$(MAKE) --no-print-directory setup
	@TANDEM_FRAMES=$(or $(FRAMES),100000000) TANDEM_SEED=$(or $(SEED),1) $(WITH) scripts/test.sh --twins

kernels:
	@scripts/kernels.sh fetch

test-kernels: setup
	@scripts/kernels.sh test

ci:
	@scripts/ci.sh

bench: build
	@$(TARGET_DIR)/release/tandem bench

bench-full: build
	@$(TARGET_DIR)/release/tandem bench --full

bench-micro: setup
	@$(WITH) cargo bench --locked -p tandem-bench

fuzz: setup
	@$(WITH) scripts/fuzz.sh

interleave: setup
	@$(WITH) scripts/interleave.sh

soak:
	@[ "$$(id -u)" = 0 ] || { echo 'make soak: needs root, for network namespaces and XDP; run it as root' >&2; exit 1; }
	@$(MAKE) --no-print-directory setup
	@TANDEM_SOAK_SECONDS=$(or $(TIME),600) TANDEM_SEED=$(or $(SEED),1) $(WITH) scripts/test.sh --soak

clean:
	@rm -rf -- '$(TARGET_DIR)'
