# imagemill's verbs. `make help` prints them.
PYTHON ?= python3.11
# Which torch wheels: empty takes the default ones (CUDA, 5.4 GB); `cpu` takes the small ones.
# Passed to uv's --torch-backend: cpu, cu130, rocm..., auto.
TORCH_BACKEND ?=

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := app,http,monitor,traces,parquet,s3,codec,embedded,docs,test

# Threads of a forward pass that wait for each other sleep: where cores are shared, spinning costs ten times the work.
export OMP_WAIT_POLICY := PASSIVE

# mkdocs-material says at each start which site builder comes after it; DECISIONS.md does, too.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-fast chaos check format docs bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  TORCH_BACKEND=cpu with any of them takes the small CPU wheels of torch instead of the CUDA ones."

setup: $(BIN)/imagemill ## Create .venv with the pinned dependencies (every verb does it when needed)

$(BIN)/imagemill: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "imagemill needs $(PYTHON); set PYTHON=/path/to/python3.11 or newer."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing the pinned dependencies into $(VENV)$(if $(TORCH_BACKEND),, (the default torch wheels are 5.4 GB; TORCH_BACKEND=cpu takes small ones)) ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
	  $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) --editable '.[$(EXTRAS)]'
	@printf '#!/bin/sh\nexec "%s/python" -m worker "$$@"\n' "$(abspath $(BIN))" > $@
	@chmod +x $@

demo: setup ## The whole story: labels arrive, a model learns, serves, and keeps up with new classes
	@$(BIN)/imagemill demo

up: setup ## Run the whole stack on this machine in the foreground
	@$(BIN)/imagemill up

check: setup ## Lint, types, import contracts, and the documentation with all its links
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/mkdocs build --strict --quiet

docs: setup ## Write the reference from the code, then serve the documentation at http://127.0.0.1:8000
	@$(BIN)/python -m docs.generate
	@$(BIN)/mkdocs serve --strict

format: setup ## Let ruff format and fix what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: setup ## The whole test suite, with its own Redis and databases
	@$(BIN)/python -m pytest

test-fast: setup ## The rings that need no Celery worker
	@$(BIN)/python -m pytest tests/pipeline tests/db tests/worker

chaos: setup ## Every fault of docs/reliability.md in full, and its figures into that page (about half an hour)
	@rm -f chaos.jsonl
	@IMAGEMILL_TEST_CHAOS_JSON=chaos.jsonl $(BIN)/python -m pytest tests/chaos tests/system/test_deploys.py tests/system/test_backup.py --full
	@$(BIN)/python -m tests.chaos.report chaos.jsonl

bench: setup ## Measure throughput, the cost of keeping current, and how often the gate errs
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.retraining
	@$(BIN)/python -m bench.gate

clean: ## Remove what the verbs made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache site
