# Every command a developer or the pipeline types.  `make help` lists them.

PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(shell command -v $(name) 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2
SOURCES := fl_cluster tools tests benches fuzz scripts examples setup.py

.PHONY: help setup run test store cluster chaos fmt lint types check native-san fuzz bench soak docs ci clean
.DEFAULT_GOAL := help

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## make the virtual environment, build the extensions, find a Redis

$(READY): pyproject.toml setup.py $(wildcard native/*.c native/*.h)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found on PATH"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev,embedded,examples]"
	$(BIN)/fl-cluster --version
	@touch $@

run: $(READY) ## the main job: a federated training on real data, from start to result
	$(BIN)/python examples/digits/run.py

test: $(READY) ## everything but whole clusters
	$(PYTEST) -n $(WORKERS) -m "not cluster"

store: $(READY) ## the stores against the model, on a real Redis
	$(PYTEST) tests/contract

cluster: $(READY) ## whole clusters as real processes
	$(PYTEST) tests/cluster tests/conformance

chaos: $(READY) ## a cluster under faults: the short list, or MINUTES=30, or SEED=7
	$(BIN)/python tests/chaos/run.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

fmt: $(READY) ## format Python and C
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	clang-format -i native/*.c native/*.h

lint: $(READY) ## style, layers, C, Lua, words
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	clang-format --dry-run -Werror native/*.c native/*.h
	$(BIN)/lint-imports
	$(BIN)/python tools/check_functions.py fl_cluster tools
	$(BIN)/python tools/check_glossary.py fl_cluster
	$(BIN)/python tools/check_lua.py
	$(BIN)/python tools/lint_capi.py

types: $(READY) ## mypy, strict
	$(BIN)/mypy

check: lint types test ## what to run before every commit

native-san: $(READY) ## the extensions under address and undefined-behaviour sanitizers
	PYTHON=$(abspath $(BIN)/python) tests/native/run_sanitized.sh

fuzz: $(READY) ## each fuzzer for SECONDS (60), WORKERS at a time
	$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python -m pip install --quiet "atheris>=3"
	ls fuzz/*.py | xargs -P $(WORKERS) -I{} $(BIN)/python {} --seconds $(or $(SECONDS),60)

bench: $(READY) ## measure, and print the table of docs/performance.md
	$(BIN)/python benches/kernels.py $(filter --write-docs,$(BENCH))
	$(BIN)/python benches/run.py $(BENCH)

soak: $(READY) ## a server under hostile and heavy load, and what it takes
	$(BIN)/python benches/soak.py $(SOAK)

docs: $(READY) ## regenerate diagrams and tables; fails when they were out of date
	$(BIN)/python tools/draw_rounds.py
	$(BIN)/python tools/document_configuration.py
	$(BIN)/python tools/document_combinations.py
	$(BIN)/python tools/document_compatibility.py
	$(BIN)/python tools/generate_messages.py
	git diff --exit-code -- docs fl_cluster/wire

clean: ## remove what the build made
	rm -rf $(VENV) build *.egg-info fl_cluster/*.so
