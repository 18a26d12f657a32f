# Two commands do all the set-up: `make demo` runs the first table, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Container images set it. With it each process would compile anew all of torch and Ray that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Threads that wait for each other cost more than they bring on networks of a test's size.
test test-slow test-browser: export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-browser

demo: $(VENV)/.installed
	$(BIN)/python ablations/run.py --table stop_gradient
	@echo "Next: open the page in a browser; then 'source $(VENV)/bin/activate' and 'python ablations/run.py --list'."

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 3 --dist loadfile

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow

test-browser: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --editable ".[browser]"
	$(BIN)/pytest -m browser

# Without compiling: Python compiles what it imports, and pip would compile twenty times as many files.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, as PYTHON=python3.12. $(PYTHON) is %d.%d." % \
	    sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) has no venv: install it (Debian: python3-venv)."; exit 1; }
	@echo "Into $(VENV): some 6 GB, with the CUDA libraries of torch. It takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-compile --editable ".[report]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --no-compile --quiet --editable ".[dev]"
	touch $@
