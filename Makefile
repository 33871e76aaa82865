# The commands of the project. The first use of one of them makes .venv from requirements.lock; later uses don't.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER ?= onprem
# Relative, since make takes a blank for the end of a name.
BIN := .venv/bin
READY := .venv/.ready

# Files of tests side by side, each in one process.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
QUICK := not slow and not cluster and not browser and not services and not containers

# What is computed, by the instructions that every x86-64 processor has: torch's own kernels, oneDNN's, MKL's, numba's.
NUMERICAL := tests/train tests/models tests/regularizers tests/data tests/score
OLDEST := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE NUMBA_CPU_NAME=generic

export PATH := $(CURDIR)/$(BIN):$(PATH)

ifneq ($(findstring :,$(CURDIR)),)
$(error $(CURDIR): a path with a colon cannot hold a Python environment. Rename the folder, or move the checkout)
endif
ifneq ($(findstring $$,$(CURDIR)),)
$(error $(CURDIR): a path with a dollar sign cannot hold a Python environment. Rename the folder, or move the checkout)
endif

# Without a place for its cache uv would not begin.
ifeq ($(UV_CACHE_DIR)$(XDG_CACHE_HOME),)
export UV_NO_CACHE ?= $(shell test -w "$${HOME:-/nowhere}" && echo 0 || echo 1)
endif

# What redirects an installation, or takes modules from elsewhere, is not for .venv. Indexes, proxies and caches stay.
unexport PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_REQUIREMENT PIP_EDITABLE PIP_CONSTRAINT \
  PIP_BUILD_CONSTRAINT PIP_NO_DEPS PIP_IGNORE_INSTALLED PIP_PLATFORM PIP_PYTHON_VERSION PIP_IMPLEMENTATION PIP_ABI PIP_SRC \
  PIP_NO_BINARY UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX UV_CONSTRAINT UV_BUILD_CONSTRAINT UV_OVERRIDE UV_EXCLUDE \
  UV_EXCLUDE_NEWER UV_REQUIRE_HASHES UV_NO_DEPS UV_NO_BINARY UV_NO_BUILD UV_NO_BUILD_PACKAGE UV_NO_BINARY_PACKAGE \
  UV_TORCH_BACKEND UV_WORKING_DIR UV_PROJECT
export PIP_USER := 0
export PIP_REQUIRE_HASHES := 0

# The folder and the Python that .venv was made for. In another folder its scripts lead nowhere, and are mended; with
# another Python, or none, it is made anew.
PRESENT := import os, sys; print(os.getcwd(), *sys.version_info[:2])
WHOLE := import os, sys, sysconfig; sys.exit(not os.path.isdir(sysconfig.get_path("purelib")))
STALE := $(shell test -e .venv || exit 0; $(BIN)/python -Ic '$(WHOLE)' 2>/dev/null || { echo broken; exit 0; }; \
  test ! -e $(READY) || $(BIN)/python -Ic '$(PRESENT)' | cmp -s - $(READY) || echo moved)

# Where there is a terminal, the installer shows how far it is.
QUIET = $(shell test -t 2 || echo --quiet)
comma := ,

# Each script names this environment's Python, whatever signs its path has; pip's own lets the shell read them.
define MEND
import pathlib, re, shlex, sys
head = f"#!{sys.executable}\n"
if len(head.encode()) > 127 or any(sign.isspace() for sign in sys.executable):
    head = f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} \"$$0\" \"$$@\"\n' '''\n"
old = rb"#!/.*/[.]venv/bin/python[0-9.]*\n|#!/bin/sh\n'''exec' .*/[.]venv/bin/python.*\n' '''\n"
for path in pathlib.Path(sys.executable).parent.iterdir():
    if path.is_file() and not path.is_symlink() and re.match(old, content := path.read_bytes()):
        path.write_bytes(re.sub(old, lambda _: head.encode(), content, count=1))
endef

.PHONY: cluster-up cluster-repro cluster-status cluster-stop cluster-logs cluster-down environment other-place
.PHONY: services-up services-repro services-status services-down
.PHONY: help repro check test test-oldest test-slow test-containers lint ui dashboard bench clean lock

help: ## say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(READY) ## check the parameters, then run every stage that is not up to date
	@sar-search repro

check: $(READY) ## check params.yaml and the search space and print the plan; start nothing
	@sar-search check

test: lint ## run the tests that every user can run
	@python -m pytest $(SIDE_BY_SIDE) -m "$(QUICK)"
	@echo "not run: the tiers slow, cluster, browser and services (make test-slow), and containers (make test-containers)"

test-oldest: $(READY) ## run the tests of what is computed as the oldest processors would, which round elsewhere
	@$(OLDEST) python -m pytest $(SIDE_BY_SIDE) -m "$(QUICK)" $(NUMERICAL)

test-slow: $(READY) ## run the tests that take minutes, and those that need more of the machine (WITHIN=seconds)
	@python -m pytest -m "(slow or cluster or browser or services or gpu) and not containers" $(if $(WITHIN),--within $(WITHIN))

test-containers: $(READY) ## run the tests that build the image and run the services: an engine, 30 GB, half an hour
	@python -m pytest -m containers -s

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

cluster-stop: $(READY) ## interrupt its run, as Ctrl-C would; cluster-repro goes on with it
	@sar-search cluster stop $(CLUSTER)

cluster-logs: $(READY) ## print all that its run has said
	@sar-search cluster logs $(CLUSTER)

cluster-down: $(READY) ## take it down, whatever runs on it, and look whether anything is left
	@sar-search cluster down $(CLUSTER)

# These need an engine and nothing else, so not .venv either.
services-up: ## start MLflow, PostgreSQL, an S3 store and Ray in containers on this machine (WORKERS=2); docs/cluster/services.md
	@docker/services.sh up $(WORKERS)

services-repro: ## run the pipeline on them
	@docker/services.sh repro

services-status: ## say which of them run
	@docker/services.sh status

services-down: ## end them; what they have kept stays
	@docker/services.sh down

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
$(READY): requirements.lock pyproject.toml $(if $(STALE),other-place)
$(READY): export MEND := $(MEND)
$(READY): export PYTHONPATH :=
$(READY):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "$(if $(filter moved,$(STALE)),.venv was not made for this folder and Python; mending it,making .venv from requirements.lock: once, about 7 GB on disk and some minutes$(if $(QUIET),$(comma) in which nothing is printed))"
	@$(if $(filter moved,$(STALE)),$(BIN)/python,"$(PYTHON)") -m venv $(if $(filter broken,$(STALE)),--clear) .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@test -x $(BIN)/uv || { echo "error: pip has put uv elsewhere than into .venv: the settings that" \
	  "'pip config list' shows redirect it (target, prefix, root or dry-run). Take that out there." >&2; exit 2; }
	@$(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock \
	  || { echo "uv could not; trying pip"; \
	       $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check --require-hashes -r requirements.lock; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "$$MEND"
	@$(BIN)/python -c 'from pipeline.regularizers.kernels import entropy_numba; entropy_numba.compile_ahead()'
	@$(BIN)/python -Ic '$(PRESENT)' > $@
	@echo ".venv is ready.$(if $(filter environment,$(MAKECMDGOALS)), Next: make repro$(comma) or source .venv/bin/activate and sar-search check)"
