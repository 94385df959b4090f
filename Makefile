# Everything a fresh machine needs is Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The book has an environment of its own: Jupyter Book needs older versions of some packages.
BOOK_VENV  := .venv-book
BOOK_STAMP := $(BOOK_VENV)/.installed

.PHONY: demo test test-slow scale-check lab book lock clean help
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock requirements-gym.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-gym.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(BOOK_STAMP): book/requirements.lock
	@test -x $(BOOK_VENV)/bin/python || $(PYTHON) -m venv $(BOOK_VENV)
	@echo "installing into $(BOOK_VENV) (a minute the first time)"
	@$(BOOK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r book/requirements.lock
	@touch $@

demo: $(STAMP)  ## reproduce SCoRe at tiny for one seed and show its effect beside the committed verdict
	@$(BIN)/minirl reproduce score --tier tiny --seeds 0

test: $(STAMP)  ## lint, types and the whole test suite
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal

test-slow: $(STAMP)  ## minutes of training: remake the shipped bases and compare
	@$(BIN)/python -m pytest -m slow

# 0.1M parameters stand in for large models in the first two, and shapes without numbers in the third.
scale-check: $(STAMP)  ## several ranks, both engines, and a dry run of every config at small and large, on two cores
	@$(BIN)/python -m pytest tests/engines tests/test_ranks.py tests/experiments/test_plan.py -m "not slow" -n 2 --dist worksteal

lab: $(STAMP)  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks

# From nothing each time: Sphinx warns of a page only when it reads it, and pages that are gone would stay.
book: $(STAMP) $(BOOK_STAMP)  ## build book/_build/html, warnings as errors, and check every link
	@rm -rf book/_build
	@$(BIN)/python -m book.assemble
	@$(BOOK_VENV)/bin/jupyter-book build -q -W --keep-going --path-output book book/_source
	@$(BIN)/python -m book.check book/_build/html

lock: $(STAMP) $(BOOK_STAMP)  ## rewrite the lock files and environment.yml from what is installed
	@$(BIN)/python .ci/lock.py
	@$(BOOK_VENV)/bin/python .ci/lock.py book

clean:  ## remove runs and the built book (not results, not the environments)
	rm -rf runs book/_source book/_build
