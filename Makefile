# oodkit's front door. Everything is done by the program; this file only calls it.
#
#   make exp=cifar10_sparsity set="seeds=[0,1,2] networks.tuned.loss.sparsity.weight=0.05"

.DEFAULT_GOAL := $(if $(value exp),run,help)
SHELL := /bin/sh

oodkit  := target/release/oodkit
program := build

# What the user gave reaches the program as it is, whatever spaces, quotes and dollars it holds: through the environment,
# never as text of a shell command. The program parts several key=value.
export OODKIT_EXP := $(value exp)
export OODKIT_SET := $(value set)
export OODKIT_SWEEP := $(value sweep)
ifneq ($(value device),)
$(if $(filter cpu auto cuda cuda:%,$(value device)),,$(error there is no device "$(value device)": there are cpu, cuda, cuda:1 and so on, auto))
export OODKIT_DEVICE := $(value device)
# Only the program that make build-cuda builds can compute elsewhere than on the CPU.
ifneq ($(value device),cpu)
oodkit := target/cuda-build/release/oodkit
program := build-cuda
endif
endif

# A misspelt variable would otherwise be ignored, and the real thing run.
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
unknown := $(filter-out exp set sweep smoke device oodkit,$(given))
$(if $(unknown),$(error there is no variable "$(firstword $(unknown))": there are exp, set, sweep, smoke and device; a key is changed with set="$(firstword $(unknown))=..."))
$(if $(filter-out 0 1,$(smoke)),$(error smoke is 1 or 0, not "$(smoke)"))
flags := $(if $(value set),--set="$$OODKIT_SET") $(if $(value sweep),--sweep="$$OODKIT_SWEEP") \
  $(if $(filter 1,$(smoke)),--smoke)
options := "$$OODKIT_EXP" $(flags)

help: ## what can be done
	@echo "make            this help"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'variables: exp=NAME  set="key=value ..."  sweep="key=[a,b]"  smoke=1 (tiny synthetic data, seconds)'
	@echo '           device=cuda (make build-cuda says how; cpu unless given)'
	@echo "one line:  make exp=fashion_sparsity"

quickstart: $(program) ## train, fine-tune, score and compare on the real data in this repository: seconds, once built
	@$(oodkit) run quickstart $(flags)

run: need-exp $(program) ## exp=NAME: do what is missing, then print the tables (also: make exp=NAME)
	@$(oodkit) run $(options)

plan: need-exp $(program) ## exp=NAME: what would be done, and what is done
	@$(oodkit) plan $(options)

table: need-exp $(program) ## exp=NAME: the tables again
	@$(oodkit) table $(options)

report: need-exp $(program) ## exp=NAME: one HTML page with its tables, figures, heat maps and images
	@$(oodkit) report $(options)

speed: need-exp $(program) ## exp=NAME: milliseconds an image of each of its methods
	@$(oodkit) speed $(options)

list: $(program) ## experiments, data sets, detectors, architectures
	@$(oodkit) list

data: tools ## set="NAME ...": download data sets (builds the hub client the first time)
	@test -n "$$OODKIT_SET" || { echo 'which? make data set=cifar10   (make list shows them)' >&2; exit 2; }
	@cargo build --release --locked --features hub
	@$(oodkit) data $$OODKIT_SET

schema: $(program) ## the JSON schema of an experiment file, for editors
	@$(oodkit) schema

reference: tools ## the pages below docs/reference, from the configuration's types
	OODKIT_WRITE_REFERENCE=1 cargo test --locked --features hub --test reference pages_are_current

build: tools ## the program, in target/release
	@test -x target/release/oodkit || echo 'building: about six minutes the first time on two cores' >&2
	@cargo build --release --locked --quiet

# In a folder of its own, so that the two programs do not replace each other.
build-cuda: tools ## the program with CUDA, in target/cuda-build/release (installs the toolkit from PyPI)
	@tools/cuda-toolkit.sh >/dev/null
	@test -x target/cuda-build/release/oodkit || echo 'building: about half an hour the first time on two cores' >&2
	@. "$${OODKIT_CUDA:-target/cuda}/env.sh" && cargo build --release --locked --quiet --features cuda --target-dir target/cuda-build

# The GPU is looked for first: a build of half an hour for nothing would be unkind.
gpu-check: tools ## every operation, the quickstart and training steps on the GPU (minutes, once built)
	@nvidia-smi -L 2>/dev/null | grep -q GPU || exec tools/gpu-check.sh
	@tools/cuda-toolkit.sh >/dev/null
	@. "$${OODKIT_CUDA:-target/cuda}/env.sh" && cargo build --release --locked --quiet --features cuda --target-dir target/cuda-build --bins --example gpu_check
	@mkdir -p target/gpu-check && cp target/cuda-build/release/oodkit target/cuda-build/release/examples/gpu_check target/gpu-check/
	@. "$${OODKIT_CUDA:-target/cuda}/env.sh" && cp "$$(cargo test --release --locked --features cuda --target-dir target/cuda-build --test ops --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*ops-[^"]*\)".*/\1/p' | tail -1)" target/gpu-check/ops
	@tools/gpu-check.sh

# The lints see the program both with and without the hub client. The tests run once, with it: they are then all there, and
# the crate is compiled for them once.
test: tools cxx ## format, lints, all tests, documentation tests
	cargo fmt --check
	cargo clippy --locked --all-targets --features hub -- -D warnings
	cargo clippy --locked -- -D warnings  # what has no hub client: tests and examples do not differ
	cargo test --locked --features hub

fuzz: tools ## damaged files to the parsers, seconds=60 for each
	OODKIT_FUZZ_SECONDS=$(or $(seconds),60) cargo test --locked --features hub --test hostile -- --nocapture

# valgrind hides AVX-512 from the program, so that it checks the portable and the AVX2 kernels.
memcheck: tools cxx ## the unit tests of code that is unsafe, under valgrind
	@command -v valgrind >/dev/null || { echo 'valgrind was not found' >&2; echo 'hint: apt-get install valgrind' >&2; exit 2; }
	env CARGO_TARGET_$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)_RUNNER='valgrind --quiet --error-exitcode=9' \
	  cargo test --locked --features hub --lib -- --test-threads 1 ops::conv2d ops::fresh ops::gemm ops::wide

bench: build ## training steps beside PyTorch's: ratio, time, memory (installs PyTorch into its own environment)
	benches/run

bench-afdu: tools ## AFDU's fit and scores beside numpy's: time, memory (installs numpy into its own environment)
	benches/run-afdu

bench-detectors: tools ## detectors on 50,000 × 640 features beside pytorch-ood's: time, memory (installs it into its own environment)
	benches/run-detectors
	benches/run-detectors --clustered 50000 10000 640 knn nnguide relation
	benches/run-detectors 5000 1000 640 gram

bench-field: tools ## the whole field of detectors beside the forward passes alone: time (in the environment of bench-detectors)
	cargo build --release --locked
	benches/with-pytorch-ood benches/field.py

bench-images: tools ## 100,000 small image files, held and decoded as they are needed: time an image, memory
	benches/run-images

agreement: tools ## every detector's scores beside pytorch-ood's and numpy's on random features (installs them into its own environment)
	benches/run-agreement

report-check: build ## pages of smoke runs in headless Chromium: scripts, requests, screenshots in target/report-check
	@tools/report-check.sh $(oodkit)

tools:
	@command -v cargo >/dev/null || { \
	  echo "oodkit needs Rust 1.89 or newer, and cargo was not found" >&2; \
	  echo "hint: install it with rustup, or your distribution's rustc and cargo if they are new enough" >&2; exit 2; }
	@command -v cc >/dev/null || { \
	  echo "oodkit needs a C compiler to link with, and cc was not found" >&2; \
	  echo "hint: apt-get install build-essential" >&2; exit 2; }

cxx:
	@command -v "$${CXX:-c++}" >/dev/null || { \
	  echo "the tests compile the CUDA kernels for an emulator, and c++ was not found" >&2; \
	  echo "hint: apt-get install build-essential" >&2; exit 2; }

need-exp:
	@test -n "$$OODKIT_EXP" || { echo 'which experiment? make $(MAKECMDGOALS) exp=NAME   (make list shows them)' >&2; exit 2; }

.PHONY: help quickstart run plan table report report-check speed list data schema reference build build-cuda gpu-check test fuzz memcheck bench bench-afdu bench-detectors bench-field bench-images agreement tools cxx need-exp
