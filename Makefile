# The one front door: people, hooks and CI call these targets and nothing else.
#
# A new machine needs Python 3.11 or newer, with pip, and make. Everything else comes from
# requirements.lock into .venv; nothing is looked up on the caller's PATH after that.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN  := $(VENV)/bin
PY   := $(BIN)/python
ENV  := $(VENV)/.installed

#: The first of these that is 3.11 or newer makes the environment; `make env PYTHON=…` chooses.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		&& echo "$$python" && break; done)
#: The resolver that `make lock` uses; pinned, so that the same input gives the same lock.
UV_VERSION := 0.13.9
COMPILE := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header

#: Half of the suite is waiting for servers, so it runs in as many processes as there are cores (four
#: at most: each starts servers of its own), a file in one of them. ARGS='-n 0' runs it in one.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

#: The oldest version of Kubernetes that the manifests are checked against.
KUBERNETES := 1.33

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

.PHONY: env
env: $(ENV) ## Create or update .venv from requirements.lock

# An editable install: the sources are read where they lie, so only a changed lock or
# pyproject.toml makes this run again.
$(ENV): requirements.lock pyproject.toml
	@$(if $(PYTHON),,echo "make: no Python 3.11 or newer on PATH. Install one, or name it: make env PYTHON=/path/to/python3.12" >&2; exit 1)
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing $$(grep -c '==' requirements.lock) pinned packages into $(VENV) (half a minute the first time)"
	@$(PY) -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

.PHONY: demo
demo: $(ENV) ## Diagnose a real model on this machine, from an empty folder to artifacts
	@exec $(BIN)/diagnosis demo

.PHONY: test
test: $(ENV) ## Run every test but the chaos ones (ARGS='-k name' narrows)
	$(BIN)/pytest -m 'not chaos' $(SIDE_BY_SIDE) $(ARGS)

.PHONY: check
check: $(ENV) ## Format, lint, types, import contracts, spelling, deployment files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/kubernetes-validate --quiet --strict --kubernetes-version $(KUBERNETES) \
		$(addprefix deploy/kubernetes/,config.yaml flower.yaml nightly.yaml workers.yaml)

.PHONY: fmt
fmt: $(ENV) ## Format, and fix what ruff can fix by itself
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: docs
docs: $(ENV) ## Make the reference pages of docs/ from the code
	$(PY) -m worker.docs docs

.PHONY: chaos
chaos: $(ENV) ## Sweep crash points, kill workers and servers, 500 sessions; twenty minutes, build/chaos.json
	$(BIN)/pytest -m chaos $(ARGS)

.PHONY: mutations
mutations: $(ENV) ## Break each law in a copy of the project and see its tests turn red (LAWS='4 9')
	$(PY) -m tests.laws.mutations $(LAWS)

.PHONY: cover
cover: $(ENV) ## The tests of `make test`, with the lines and branches that none of them reached
	$(BIN)/pytest -m 'not chaos' --cov --cov-report=term $(ARGS)

.PHONY: bench
bench: $(ENV) ## Measure speed and memory against the targets (ONLY=name runs one)
	$(PY) -m tests.bench $(ONLY)

.PHONY: lock
lock: ## Resolve both locks again (UPGRADE=--upgrade takes the newest versions)
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet uv==$(UV_VERSION)
	$(COMPILE) --extra embedded --group dev $(UPGRADE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra monitor --group build --constraint requirements.lock \
		--no-annotate --output-file deploy/requirements.lock pyproject.toml

.PHONY: clean
clean: ## Remove the environment, caches and build results
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find worker tasks tests -type d -name __pycache__ -prune -exec rm -rf {} +
