# gptloom: every target sets up what it needs first; set-up is skipped while pyproject.toml and constraints.txt stay the same.
#   make demo        from nothing to a GPT that writes (gptloom quickstart)
#   make test        all fast tests          make test-all    the slow ones too
#   make lint        ruff, mypy, imports     make bench       side by side with others
#   make clean       removes .venv and caches, never runs/
#
#   PYTHON=python3.12      the Python to build .venv with
#   TORCH_INDEX=URL        where torch comes from (default: chosen by scripts/setup.py)
#   WORKERS=3              test processes

PYTHON ?= $(or $(shell command -v python3 2>/dev/null),$(shell command -v python 2>/dev/null),python3)
TORCH_INDEX ?=
WORKERS ?= 3

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
STAMP := .venv/.set-up

# $(call timed,NAME,COMMAND): runs COMMAND, says how long it took, and ends with its status.
define timed
@echo '$$ $(2)'; begun=$$(date +%s); $(2); code=$$?; echo "== $(1): $$(($$(date +%s) - begun)) s"; exit $$code
endef

# Tests run side by side: one thread each, so that they don't fight for the cores. On two cores three, since some wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint ruff-check ruff-format types imports bench pins clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(STAMP)
	@echo '== set-up: ready'

$(STAMP): pyproject.toml constraints.txt scripts/setup.py
	@$(PYTHON) scripts/setup.py --torch-index '$(TORCH_INDEX)'
	@touch $@

demo: setup
	$(call timed,demo,$(BIN)/gptloom quickstart)

test: setup
	$(call timed,tests,$(PYTEST) -m "not slow")

test-all: setup
	$(call timed,tests,$(PYTEST))

lint: ruff-check ruff-format types imports

ruff-check: setup
	$(BIN)/ruff check .

ruff-format: setup
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

bench: setup
	$(call timed,bench,for script in startup tokenize train_step bert_step processes overhead checkpoint shard_memory decode char_recipe; do echo "== bench/$$script.py"; $(BIN)/python bench/$$script.py || exit; done)

# The pins of what .venv holds now, for after an upgrade: pip install --upgrade, make test-all, make pins.
pins: setup
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt
	touch $(STAMP)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
