# Every target sets up what it needs by itself. Taken for granted: Python 3.11 or later, make, a package index.
#
#   make test                       what a newcomer runs, at most 5 minutes on two cores
#   make test PYTHON=python3.12     the same on another Python, in an environment of its own
#   make demo ARGS=--walk           the demo without a browser

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
ARGS ?=
AGAIN ?=
# One more than there are processors: many a test waits for servers and browsers.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN || echo 2) + 1)

# run WITH WHAT: with AGAIN=1, what failed is run once more, by itself.
run = $(1) -m pytest $(2) -n $(WORKERS) --dist worksteal $(ARGS) $(if $(AGAIN),|| $(1) -m pytest $(2) --last-failed --last-failed-no-failures none)
UNMEASURED := tests/browser tests/demo tests/examples tests/load tests/test_docs.py tests/test_mutants.py
BIN := $(VENV)/bin
READY := $(VENV)/ready
TYPED := msal_logout_middleware $(wildcard tests/typed_api.py)

# On a machine that forbids bytecode each process that a test starts would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage check lint types bench matrix soak docs mutants versions build clean

help:
	@echo "make demo      sign in and out of two small apps, side by side (ARGS=--walk: without a browser)"
	@echo "make test      all tests"
	@echo "make coverage  the coverage of lines and branches"
	@echo "make check     lint, format, types, documentation"
	@echo "make bench     measure (ARGS=--quick: briefly)"
	@echo "make matrix    the store contract, and loads, by every client, driver and server"
	@echo "make soak      many rounds and long loads"
	@echo "make versions  all tests on each Python, and the sessions with each version of each framework"
	@echo "make docs      build the documentation into site/"
	@echo "make mutants   take each promise's code out of a copy, and see the tests fail"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[flask,redis,sql,starlette,testing]' --group dev
	@touch $@

demo: $(READY)
	$(BIN)/python -m examples.demo $(ARGS)

test: $(READY)
	$(call run,$(BIN)/python,)

# `coverage run`, not a pytest plugin: our own pytest plugin is imported before any plugin could measure it. What mostly
# waits for servers and browsers runs no line that the others leave out, and is not measured.
coverage: $(READY)
	$(BIN)/coverage erase
	$(call run,$(BIN)/coverage run,$(addprefix --ignore=,$(UNMEASURED)))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: lint types docs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy $(TYPED)
	$(BIN)/pyright --pythonpath $(BIN)/python $(TYPED)

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

matrix: $(READY)
	$(call run,$(BIN)/python,-m matrix)

soak: $(READY)
	$(BIN)/python -m pytest -m soak $(ARGS)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

mutants: $(READY)
	$(BIN)/python -m tests.mutants $(ARGS)

versions: $(READY)
	$(BIN)/nox $(ARGS)

build: $(READY)
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf .venv .venv-* .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
