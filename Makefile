# Everything a fresh machine needs is Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-slow lab lock clean help
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(STAMP)  ## reproduce SCoRe at tiny for one seed and show its effect beside the committed verdict
	@$(BIN)/minirl reproduce score --tier tiny --seeds 0

test: $(STAMP)  ## lint, types and the whole test suite
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP)  ## minutes of training: remake the shipped bases and compare
	@$(BIN)/python -m pytest -m slow

lab: $(STAMP)  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks

lock: $(STAMP)  ## rewrite requirements.lock and environment.yml from what is installed
	@$(BIN)/python .ci/lock.py

clean:  ## remove runs (not results, not the environment)
	rm -rf runs
