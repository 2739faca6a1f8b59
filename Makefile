# make sweep       set up what a sweep needs and run the quickstart sweep
# make test        set up what the tests need and run the default ones
# make test-slow   run the long tests too: minutes each, an hour or two together
# make lint        run the linters and the type checker
# make docs        build the site, strictly
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup sweep test test-slow lint docs ui clean

help:
	@sed -n '1,5p' Makefile

# The package and what it needs to run; without the developers' tools.
$(VENV)/.installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "ctxtune needs Python 3.10 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[sweep,cpu]'
	@touch $@

# What tests and linters need besides.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[sweep,cpu,dev]'
	@touch $@

setup: $(VENV)/.installed

sweep: setup
	$(BIN)/python -m ctxtune.sweep search_spaces/quickstart.yaml

# Files that start Ray come first (tests/conftest.py), so that no process is left alone with one at the end.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev
	$(PYTEST)

# The long tests, and the examples of every property by the thousand, other ones each time.
test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m '(slow or property) and not gpu' --hypothesis-profile=slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site in site/: it needs no network to be read. Strict: a link that leads nowhere is an error.
docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict --quiet

ui: setup
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build site *.egg-info
