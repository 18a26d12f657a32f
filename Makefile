# Two commands do all the set-up: `make demo` runs the first table, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Threads that wait for each other cost more than they bring on networks of a test's size.
test test-slow test-browser: export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-browser

demo: $(VENV)/.installed
	$(BIN)/python ablations/run.py --table stop_gradient

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow

test-browser: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --editable ".[browser]"
	$(BIN)/pytest -m browser

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
