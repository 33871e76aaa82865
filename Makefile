# The commands of the project. The first use of one of them makes .venv from requirements.lock; later uses don't.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER ?= onprem
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready

# Files of tests side by side, each in one process.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export PATH := $(BIN):$(PATH)

.PHONY: cluster-up cluster-repro cluster-status cluster-down environment
.PHONY: help repro check test test-slow lint ui dashboard bench clean lock

help: ## say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(READY) ## check the parameters, then run every stage that is not up to date
	@sar-search repro

check: $(READY) ## check params.yaml and the search space and print the plan; start nothing
	@sar-search check

test: lint ## run the tests that every user can run
	@python -m pytest $(SIDE_BY_SIDE) -m "not slow and not cluster and not browser and not services"
	@echo "not run: the tiers slow, cluster, browser and services; make test-slow runs those that this machine can"

test-slow: $(READY) ## run the tests that take minutes, and those that need more of the machine (WITHIN=seconds)
	@python -m pytest -m "slow or cluster or browser or services or gpu" $(if $(WITHIN),--within $(WITHIN))

lint: $(READY) ## check style, types and which room imports which
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports

ui: $(READY) ## open the MLflow UI on this machine (PORT=5000)
	@sar-search ui --port $(or $(PORT),5000)

dashboard: $(READY) ## open the study of the last search in optuna-dashboard on this machine (PORT=8080)
	@sar-search dashboard --port $(or $(PORT),8080)

cluster-up: $(READY) ## start a cluster of several machines (CLUSTER=onprem, aws, gcp or a file); docs/cluster.md
	@sar-search cluster up $(CLUSTER)

cluster-repro: $(READY) ## run the pipeline on it, and bring the results back
	@sar-search cluster repro $(CLUSTER)

cluster-status: $(READY) ## say what it consists of and how its run stands
	@sar-search cluster status $(CLUSTER)

cluster-down: $(READY) ## take it down, whatever runs on it, and look whether anything is left
	@sar-search cluster down $(CLUSTER)

environment: $(READY) ## make .venv, and nothing else

bench: $(READY) ## measure what the docs claim: a table a claim, and what this machine cannot measure
	@python benchmarks/run_all.py

clean: ## remove what can be made again; keeps searches in progress (state/) and the tracking store
	rm -rf data models results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find pipeline tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(READY) ## resolve requirements.lock anew from pyproject.toml, for every supported Python
	@uv pip compile pyproject.toml --extra dev --extra cluster --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --upgrade -o requirements.lock

# uv installs in seconds what takes pip minutes; where it cannot (it does not read pip's settings for a private index),
# pip does it, from the same lock. Bytecode is compiled as pip does: else the first processes do it, or, where
# PYTHONDONTWRITEBYTECODE is set, every single one, in seconds each.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "making .venv from requirements.lock (once; a few GB)"
	@$(PYTHON) -m venv .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock \
	  || { echo "uv could not; trying pip"; \
	       $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'from pipeline.regularizers import kernels; kernels.compile_ahead()'
	@touch $@
