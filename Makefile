# Each target makes its environment when it is not there: a machine with Python 3.11 (or later) and pip is enough.
.PHONY: help run ptb test soak lint bench audit licenses clean
export RAY_USAGE_STATS_ENABLED = 0

PYTHON := .venv/bin/python
PIP_INSTALL := -m pip install -q --disable-pip-version-check
DATA ?= data/ptb

help:  ## What there is.
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:[^#]*##/\t/'

# A python3.11 on the PATH may be a shim for a version that is not installed, so each candidate is run.
.venv/.stamp: pyproject.toml constraints.txt
	@echo "making .venv (a few minutes) ..." >&2
	@for python in python3.11 python3; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec "$$python" -m venv .venv; \
		fi; \
	done; \
	echo "neither python3.11 nor a python3 of at least 3.11 is on the PATH: install Python 3.11" >&2; exit 1
	@$(PYTHON) $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

run: .venv/.stamp  ## The whole pipeline on the embedded corpus, two workers.
	@$(PYTHON) pipelines/full.py --preset recommended,tiny,brief --workers 2

ptb: .venv/.stamp  ## The same on the Penn Treebank: make ptb DATA=path/to/ptb
	@$(PYTHON) pipelines/full.py --preset recommended,ptb --workers 2 data.root="$(DATA)"

lint: .venv/.stamp  ## Style, format and types.
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: lint  ## Lint and all fast tests.
	$(PYTHON) -m pytest -q -m 'not slow' --durations=10

soak: .venv/.stamp  ## The long tests, with a real S3 server.
	@$(PYTHON) $(PIP_INSTALL) -c constraints.txt -e '.[dev,soak]'
	$(PYTHON) -m pytest -q -m slow

bench: .venv/.stamp  ## Speed on one core: make bench ARGS='--data path/to/ptb --model path/to/model'
	@$(PYTHON) benchmarks/bench.py $(ARGS)

audit: .venv/.stamp  ## Known weaknesses of everything that constraints.txt pins; asks the package index.
	@$(PYTHON) $(PIP_INSTALL) -c constraints.txt -e '.[dev,audit]'
	$(PYTHON) -m pip_audit --strict --no-deps --disable-pip -r constraints.txt

# frozendict (LGPL) comes with a reference implementation that tests compare with, and with nothing that users install.
licenses: .venv/.stamp  ## The licence of every package; fails on a GPL of any kind, and on none at all.
	@$(PYTHON) $(PIP_INSTALL) -c constraints.txt -e '.[dev,audit]'
	$(PYTHON) -m piplicenses --from=mixed --order=license --ignore-packages frozendict \
		--partial-match --fail-on='GPL;General Public License;UNKNOWN'

clean:  ## Removes the environment and caches; never a store.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build davam.egg-info
