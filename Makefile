# Thin aliases for dev.py, which says what each target does: `make help`.
# Arguments go through ARGS: make demo ARGS="--seed 3"

PYTHON ?= $(shell command -v python3 || command -v python || echo python3)
ARGS ?=
JOBS := demo test browser lint format docs docs-check bench setup

.DEFAULT_GOAL := help
.PHONY: help $(JOBS)
# Two jobs at once would both build .venv.
.NOTPARALLEL:

help:
	@$(PYTHON) dev.py help

$(JOBS):
	@$(PYTHON) dev.py $@ $(ARGS)
