# Esper: `make demo` and `make test` set everything up by themselves; nothing outside this folder changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test lint clean

demo: $(VENV)/.ready  ## Grow a network on real handwritten digits.
	$(BIN)/esper run digits $(ARGS)

test: $(VENV)/.ready-test  ## Run the tests.
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(VENV)/.ready-test  ## Lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Esper needs Python 3.11 or newer; choose one with: make $(MAKECMDGOALS) PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:  ## Remove what the commands above made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
