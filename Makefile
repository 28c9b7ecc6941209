# Each target makes its environment when it is not there: a machine with Python 3.11 (or later) and pip is enough.
.PHONY: help run ptb test soak lint bench clean
export RAY_USAGE_STATS_ENABLED = 0

PYTHON := .venv/bin/python
DATA ?= data/ptb

help:  ## What there is.
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:[^#]*##/\t/'

.venv/.stamp: pyproject.toml constraints.txt
	@echo "making .venv (two to three minutes) ..." >&2
	@python=$$(command -v python3.11 || command -v python3) || { echo "no python3 found: install Python 3.11" >&2; exit 2; }; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$python is older than 3.11: install Python 3.11" >&2; exit 2; }; \
	$$python -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: .venv/.stamp  ## The whole pipeline on the embedded corpus, two workers.
	@$(PYTHON) pipelines/full.py --preset recommended,tiny,brief --workers 2

ptb: .venv/.stamp  ## The same on the Penn Treebank: make ptb DATA=path/to/ptb
	@$(PYTHON) pipelines/full.py --preset recommended,ptb --workers 2 data.root=$(DATA)

lint: .venv/.stamp  ## Style, format and types.
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: lint  ## Lint and all fast tests.
	$(PYTHON) -m pytest -q -m "not slow" --durations=10

soak: .venv/.stamp  ## The long tests.
	$(PYTHON) -m pytest -q -m slow

bench: .venv/.stamp  ## Speed on one core: make bench ARGS='--data path/to/ptb --model path/to/model'
	@$(PYTHON) benchmarks/bench.py $(ARGS)

clean:  ## Removes the environment and caches; never a store.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis davam.egg-info
