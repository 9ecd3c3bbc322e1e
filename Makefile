# Esper: `make demo` and `make test` set everything up by themselves; nothing outside this folder changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test slow references mutants lint clean

demo: $(VENV)/.ready  ## Grow a network on real handwritten digits.
	$(BIN)/esper run digits $(ARGS)

test: $(VENV)/.ready-test  ## Run the tests.
	$(BIN)/python -m pytest -n auto $(ARGS)

slow: $(VENV)/.ready-test  ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow $(ARGS)

references: $(VENV)/.ready-references  ## Compare with other people's implementations.
	$(BIN)/python -m pytest -m references tests/references $(ARGS)

mutants: $(VENV)/.ready-mutants  ## Change the learning mathematics in small ways, and count the changes that no test sees.
	$(if $(ARGS),,rm -rf mutants)
	OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1 $(BIN)/mutmut run $(ARGS)
	$(BIN)/python tests/mutants/count.py $(ARGS)

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

$(VENV)/.ready-slow: $(VENV)/.ready-test  ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow $(ARGS)

references: $(VENV)/.ready-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[references]'
	@touch $@

$(VENV)/.ready-mutants: $(VENV)/.ready-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutants]'
	@touch $@

clean:  ## Remove what the commands above made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist mutants
