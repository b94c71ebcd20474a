# oodkit's front door. Everything is done by the program; this file only calls it.
#
#   make exp=cifar10_sparsity set="seeds=[0,1,2] networks.tuned.loss.sparsity.weight=0.05"

.DEFAULT_GOAL := $(if $(exp),run,help)
SHELL := /bin/sh

oodkit  := target/release/oodkit
options := $(foreach change,$(set),--set '$(change)') $(foreach grid,$(sweep),--sweep '$(grid)') $(if $(smoke),--smoke)

help: ## what can be done
	@echo "make            this help"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'variables: exp=NAME  set="key=value ..."  sweep="key=[a,b]"  smoke=1 (tiny synthetic data, seconds)'
	@echo "one line:  make exp=fashion_sparsity"

quickstart: build ## train, fine-tune, score and compare on the real data in this repository: under two minutes
	@$(oodkit) run quickstart

run: need-exp build ## exp=NAME: do what is missing, then print the tables (also: make exp=NAME)
	@$(oodkit) run $(exp) $(options)

plan: need-exp build ## exp=NAME: what would be done, and what is done
	@$(oodkit) plan $(exp) $(options)

table: need-exp build ## exp=NAME: the tables again
	@$(oodkit) table $(exp) $(options)

list: build ## experiments, data sets, detectors, architectures
	@$(oodkit) list

data: tools ## set="NAME ...": download data sets (builds the hub client the first time)
	@test -n "$(set)" || { echo 'which? make data set=cifar10   (make list shows them)' >&2; exit 2; }
	@cargo build --release --locked --features hub
	@$(oodkit) data $(set)

schema: build ## the JSON schema of an experiment file, for editors
	@$(oodkit) schema

build: tools ## the program, in target/release
	@cargo build --release --locked --quiet

test: tools ## format, lints, all tests, documentation tests
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked

bench: build ## training steps beside PyTorch's: ratio, time, memory (installs PyTorch into its own environment)
	benches/run

tools:
	@command -v cargo >/dev/null || { \
	  echo "oodkit needs Rust 1.89 or newer, and cargo was not found" >&2; \
	  echo "hint: install it with rustup, or your distribution's rustc and cargo if they are new enough" >&2; exit 2; }
	@command -v cc >/dev/null || { \
	  echo "oodkit needs a C compiler to link with, and cc was not found" >&2; \
	  echo "hint: apt-get install build-essential" >&2; exit 2; }

need-exp:
	@test -n "$(exp)" || { echo 'which experiment? make $(MAKECMDGOALS) exp=NAME   (make list shows them)' >&2; exit 2; }

.PHONY: help quickstart run plan table list data schema build test bench tools need-exp
